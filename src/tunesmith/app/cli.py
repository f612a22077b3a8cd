"""The command `tunesmith`: words to a verb, the verb's answer to the screen, errors to exit codes.

main(["plan", "recipe.yaml", "--json"])  ->  prints one JSON object, returns 0
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cyclopts
from cyclopts import App, CycloptsError, Group, MissingArgumentError

from tunesmith import __version__
from tunesmith.app import advising, benching, caching, doctoring, failure, reshape, verbs, vocabulary
from tunesmith.app.answer import Answer, write_json
from tunesmith.app.render import problems as pages
from tunesmith.app.render.base import console
from tunesmith.errors import Problem, TunesmithError, UserError

HELP = """Fine-tune language models and prove what it did.

Start here: `tunesmith demo`, the whole way in under three minutes, offline, on any CPU.
"""

MAKE, USE, KNOW = (Group(name, sort_key=i) for i, name in enumerate(("Make a model", "Use it", "Know more")))

# In the order in which a person meets them.
VERBS: tuple[tuple[Group, str, Callable[..., Any]], ...] = (
    (MAKE, "demo", verbs.demo),
    (MAKE, "init", advising.init),
    (MAKE, "import", verbs.import_recipe),
    (MAKE, "data check", doctoring.data_check),
    (MAKE, "data clean", doctoring.data_clean),
    (MAKE, "data show", verbs.data_show),
    (MAKE, "data stats", verbs.data_stats),
    (MAKE, "data convert", reshape.data_convert),
    (MAKE, "data split", reshape.data_split),
    (MAKE, "data sample", reshape.data_sample),
    (MAKE, "data augment", reshape.data_augment),
    (MAKE, "vocab", vocabulary.vocab),
    (MAKE, "plan", advising.plan),
    (MAKE, "lr-find", advising.lr_find),
    (MAKE, "train", verbs.train),
    (MAKE, "sweep", advising.sweep),
    (USE, "eval", verbs.evaluate),
    (USE, "chat", verbs.chat),
    (USE, "export", verbs.export),
    (USE, "runs list", verbs.runs_list),
    (USE, "runs show", verbs.runs_show),
    (USE, "runs compare", verbs.runs_compare),
    (KNOW, "methods", verbs.methods),
    (KNOW, "bench", benching.bench),
    (KNOW, "doctor", verbs.doctor),
    (KNOW, "cache list", caching.cache_list),
    (KNOW, "cache clear", caching.cache_clear),
)
HEARD_SECONDS = 5.0
"""A verb that goes on for so long after it was stopped did not hear it: libraries catch all while they are imported."""

FAMILIES = {
    "data": "Look at data, and make data files of data files.",
    "runs": "The run folders: list, show, compare.",
    "cache": "Prepared data that is kept between runs: list, clear.",
}


def build() -> App:
    """The command line, with every verb that works."""
    settings = cyclopts.Parameter(negative=())
    app = App(
        name="tunesmith",
        help=HELP,
        version=__version__,
        version_flags=["--version"],
        suppress_keyboard_interrupt=False,
        help_format="markdown",
        default_parameter=settings,
        group_commands=KNOW,
    )
    families: dict[str, App] = {}
    for order, (group, words, function) in enumerate(VERBS):
        family, _, verb = words.rpartition(" ")
        if family and family not in families:
            families[family] = App(
                name=family, help=FAMILIES[family], group=group, sort_key=order, group_commands="Commands"
            )
            app.command(families[family])
        if family:
            families[family].command(function, name=verb, sort_key=order)
        else:
            app.command(function, name=verb, group=group, sort_key=order)
    return app


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. 0 done, 2 the user, 1 our fault, 130 stopped."""
    words = list(sys.argv[1:] if words is None else words)
    json = any(word in ("--json", "--json=true") for word in words[: _end(words)])
    _never_choke()
    code, asked = None, list[float]()
    try:
        with _stoppable(asked), _calm_libraries():
            answer = _work(words, json)
        code = answer.code if isinstance(answer, Answer) else int(answer or 0)
        if isinstance(answer, Answer):
            answer.show()
        sys.stdout.flush()
        return code
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and code is None:
            return failure.report(_meant(error, asked), json=json, words=words)
        # Whoever read us (head, less, a terminal that was closed) is gone. Python would complain once more at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or 0
    except CycloptsError as error:
        return _misused(error, json, words)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        return failure.report(_meant(error, asked), json=json, words=words)


def _meant(error: BaseException, asked: Sequence[float]) -> BaseException:
    """What ended the verb. A library that is stopped half way through its import may say something else."""
    just_now = bool(asked) and time.monotonic() - asked[-1] < HEARD_SECONDS
    return KeyboardInterrupt() if just_now and not isinstance(error, TunesmithError) else error


def _work(words: list[str], json: bool) -> Any:
    """Let the verb do its work. With --json its standard output is kept free for the one object."""
    app = build()
    with contextlib.redirect_stdout(sys.stderr) if json else contextlib.nullcontext():
        return app(
            words,
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
            console=None if json else console(),
        )


def _never_choke() -> None:
    """A terminal that cannot show a letter shows another; that is no reason to fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def _end(words: Sequence[str]) -> int:
    """Where options end: at `--`, or with the words."""
    return words.index("--") if "--" in words else len(words)


def _misused(error: CycloptsError, json: bool, words: Sequence[str]) -> int:
    """A word the command line does not know, or one that is missing."""
    chain = " ".join(["tunesmith", *(error.command_chain or ())])
    what = str(error).strip()
    if isinstance(error, MissingArgumentError) and (named := re.search(r"parameter (\S+) requires", what)):
        what = f"{named[1]} {'needs a value' if named[1] in words else 'is missing'}"
    what = re.sub(r"unable to convert (.*) into (int|float)\.?$", r"\1 is no number", what)
    problem = Problem(chain, what, f"see: {chain} --help")
    if json:
        write_json(
            {"error": {"code": "usage", "problems": UserError([problem]).to_json()["error"]["problems"]}}
        )
    else:
        console(sys.stderr).print(pages.problems([problem], "usage"))
    return 2


@contextlib.contextmanager
def _stoppable(asked: list[float]) -> Iterator[None]:
    """SIGTERM and a closed terminal stop like Ctrl-C does; `nohup` keeps its meaning. Notes in `asked` when."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        asked.append(time.monotonic())
        if number != signal.SIGINT:  # a person presses again; and a chat goes on after a Ctrl-C
            signal.setitimer(signal.ITIMER_REAL, HEARD_SECONDS)
        raise KeyboardInterrupt

    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            before[number] = signal.signal(number, stop)
    before[signal.SIGALRM], timer = signal.signal(signal.SIGALRM, stop), signal.getitimer(signal.ITIMER_REAL)
    try:
        yield
    finally:
        if asked:
            signal.setitimer(signal.ITIMER_REAL, *timer)
        for number, handler in before.items():
            signal.signal(number, handler)


_CALM = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
# Turns (of 20 to 50 ns) that OpenMP's idle threads wait before they sleep. Its default, some 300,000, is right on a
# quiet machine and made training up to 78 times slower beside other work on two cores; none (PASSIVE) wakes them for
# each operator, and the second core gained nothing at all (docs/log.md). It changes no number.
_SPINS = "700"


@contextlib.contextmanager
def _calm_libraries() -> Iterator[None]:
    """Libraries speak to developers; what a user must know, we say ourselves. Nor do their threads spin for long."""
    for name, value in _CALM.items():
        os.environ.setdefault(name, value)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    if not os.environ.get(failure.DEBUG):
        # it misses, at each start, a kernel that nobody asked for
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        if not os.environ.get(failure.DEBUG) and not sys.warnoptions:
            warnings.simplefilter("ignore")
        yield
