"""The trackers, one small class each: open, log a point, say the scores, close. Libraries load inside.

Where nobody is logged in, wandb and swanlab keep the run on this disk instead of asking.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tunesmith.tracking.metrics import Point

PROJECT = "tunesmith"


@dataclass(frozen=True, slots=True)
class About:
    """The run that is told of. `folder` is the tracker's own place inside the run folder."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    recipe: str
    id: str | None = None


class Sink(Protocol):
    """A tracker that is open."""

    id: str | None
    note: str

    def log(self, point: Point) -> None:
        """Numbers of a step."""

    def close(self, status: str, scores: Mapping[str, float]) -> None:
        """The last word: status of the run, and its scores."""


class Tensorboard:
    """Event files, as `tensorboard --logdir runs` reads them; written without torch."""

    def __init__(self, about: About) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.id: str | None = None
        self.note = f"tensorboard --logdir {about.folder}"
        self._writer, self._summary = EventFileWriter(str(about.folder)), Summary
        words = TensorProto(dtype=7, string_val=[f"```\n{about.recipe}\n```".encode()])  # 7: text
        kind = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        self._add(0, time.time(), [Summary.Value(tag="recipe", tensor=words, metadata=kind)])

    def _add(self, step: int, moment: float, values: list[Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=moment, step=step, summary=self._summary(value=values)))

    def log(self, point: Point) -> None:
        """Scalars."""
        values = [self._summary.Value(tag=tag, simple_value=value) for tag, value in point.values.items()]
        self._add(point.step, point.time, values)

    def close(self, status: str, scores: Mapping[str, float]) -> None:
        """Scores as scalars, then flush."""
        self.log(Point(0, time.time(), scores))
        self._writer.close()


class Wandb:
    """Weights & Biases. WANDB_MODE, WANDB_PROJECT and WANDB_ENTITY are heard."""

    def __init__(self, about: About) -> None:
        import wandb

        about.folder.mkdir(parents=True, exist_ok=True)
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=about.name,
            id=about.id,
            resume="allow",
            config=dict(about.config),
            dir=str(about.folder),
            mode=mode,
            settings=wandb.Settings(silent=True, console="off"),
        )
        self.id: str | None = self._run.id
        self.note = (
            f"offline, in {about.folder}; send it: wandb sync {about.folder}/wandb/*"
            if mode == "offline"
            else ""
        )

    def log(self, point: Point) -> None:
        """One row."""
        self._run.log(dict(point.values), step=point.step)

    def close(self, status: str, scores: Mapping[str, float]) -> None:
        """Scores go into the summary."""
        self._run.summary.update({**scores, "status": status})
        self._run.finish(exit_code=0 if status in ("done", "stopped", "interrupted") else 1)


class Trackio:
    """Trackio, local by itself: `trackio show`. TRACKIO_DIR and TRACKIO_PROJECT are heard."""

    def __init__(self, about: About) -> None:
        import trackio

        self._trackio = trackio
        self.id: str | None = about.id or f"{about.name}-{int(time.time()):x}"
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        self.note = f"trackio show --project {project}"
        trackio.init(
            project=project, name=self.id, config=dict(about.config), resume="allow", embed=False,
            auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip

    def log(self, point: Point) -> None:
        """One row."""
        self._trackio.log(dict(point.values), step=point.step)

    def close(self, status: str, scores: Mapping[str, float]) -> None:
        """Scores are a last row."""
        if scores:
            self._trackio.log(dict(scores))
        self._trackio.finish()


class Swanlab:
    """SwanLab. SWANLAB_MODE and SWANLAB_PROJECT are heard."""

    def __init__(self, about: About) -> None:
        import swanlab

        about.folder.mkdir(parents=True, exist_ok=True)
        known = os.environ.get("SWANLAB_API_KEY") or (Path.home() / ".swanlab" / ".netrc").is_file()
        mode = os.environ.get("SWANLAB_MODE") or ("online" if known else "offline")
        self._run: Any = swanlab.init(
            project=os.environ.get("SWANLAB_PROJECT", PROJECT), name=about.name, id=about.id, resume="allow",
            config=dict(about.config), log_dir=str(about.folder), mode=mode,
        )  # fmt: skip
        self._swanlab = swanlab
        self.id: str | None = str(getattr(self._run, "id", "") or about.id or "") or None
        self.note = (
            f"offline, in {about.folder}; send it: swanlab sync {about.folder}/run-*"
            if mode != "online"
            else ""
        )

    def log(self, point: Point) -> None:
        """One row."""
        self._swanlab.log(dict(point.values), step=point.step)

    def close(self, status: str, scores: Mapping[str, float]) -> None:
        """Scores are a last row."""
        if scores:
            self._swanlab.log(dict(scores))
        self._swanlab.finish(state="crashed" if status in ("failed", "killed") else "success")


class Mlflow:
    """MLflow, in MLFLOW_TRACKING_URI, else in mlflow.db beside the run folders: one page for all of them."""

    def __init__(self, about: About) -> None:
        import mlflow

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            file = about.folder.parent.parent.parent.resolve() / "mlflow.db"
            uri = f"sqlite:///{file}"
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        run = mlflow.start_run(
            run_id=about.id, run_name=None if about.id else about.name, log_system_metrics=False
        )
        self._mlflow: Any = mlflow
        self.id: str | None = str(run.info.run_id)
        self.note = f"mlflow ui --backend-store-uri {uri}"
        if about.id is None:
            mlflow.log_params({key: str(value)[:500] for key, value in about.config.items()})

    def log(self, point: Point) -> None:
        """Metrics, at their own time."""
        self._mlflow.log_metrics(dict(point.values), step=point.step, timestamp=int(point.time * 1000))

    def close(self, status: str, scores: Mapping[str, float]) -> None:
        """Scores are metrics, too."""
        if scores:
            self._mlflow.log_metrics(dict(scores))
        names = {"done": "FINISHED", "stopped": "FINISHED", "interrupted": "KILLED", "killed": "KILLED"}
        self._mlflow.end_run(status=names.get(status, "FAILED"))


SINKS: Mapping[str, Callable[[About], Sink]] = {
    "tensorboard": Tensorboard,
    "wandb": Wandb,
    "trackio": Trackio,
    "swanlab": Swanlab,
    "mlflow": Mlflow,
}
