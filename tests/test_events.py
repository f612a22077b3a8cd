"""Events: one line each, never a NaN as a number, readable after a torn write."""

import json
import math

from tunesmith import events
from tunesmith.events import Recording, Silent, Stepped, append, read, to_json


def stepped(**changes):
    values = {
        "step": 1, "loss_nats": 2.0, "grad_norm": 1.0, "lr": 1e-3, "targets": 3, "tokens": 4,
        "seconds": 0.5, "peak_bytes": 6, "finite": True,
    }  # fmt: skip
    return Stepped(**{**values, **changes})


def test_a_step_has_the_contracted_fields():
    assert set(to_json(stepped())) == {  # the contract
        "kind", "time", "step", "loss_nats", "grad_norm", "lr", "targets", "tokens",
        "seconds", "peak_bytes", "finite",
    }  # fmt: skip


def test_a_number_that_is_not_finite_is_null():
    # mutation tried: allow_nan=True and no cleaning
    value = to_json(stepped(loss_nats=math.nan, grad_norm=math.inf, finite=False))
    assert value["loss_nats"] is None
    assert value["grad_norm"] is None
    assert value["finite"] is False
    json.dumps(value, allow_nan=False)


def test_what_is_appended_is_read_in_order_and_a_torn_line_is_left_out(tmp_path):
    path = tmp_path / "events.jsonl"
    for step in (1, 2, 3):
        append(path, stepped(step=step))
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"kind": "stepped", "st')
    assert [event["step"] for event in read(path)] == [1, 2, 3]


def test_no_file_is_no_events(tmp_path):
    assert list(read(tmp_path / "none.jsonl")) == []


def test_a_recording_writes_and_passes_on(tmp_path):
    heard = []

    class Listener(Silent):
        def event(self, event):
            heard.append(event)

    Recording(tmp_path / "e.jsonl", Listener()).event(stepped())
    assert len(heard) == len(list(read(tmp_path / "e.jsonl"))) == 1


def test_kinds_are_the_contracted_ones():
    kinds = {event.kind for event in events.Event.__args__}
    assert kinds == {"started", "stepped", "evaluated", "saved", "rescued", "failed", "finished"}
