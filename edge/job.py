"""What the client asks of the worker, and what it hears: JSON objects, a line each, over two pipes.

The client sends ``WorkerSettings`` first, then ``Job`` after ``Job``, or ``STOP`` to stop a run at its next step. The
worker answers with events: ``step`` now and then, and at last one of ``finished`` (the update is in the outbox),
``stopped`` (it goes on where it is another time) and ``failed``.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

STOP: Mapping[str, object] = {"stop": True}
STEP, FINISHED, STOPPED, FAILED = "step", "finished", "stopped", "failed"
CHECKPOINT_SECONDS = 10.0
WORKER_LOCK = "worker.lock"
"""Held by the worker of a home, in which it stands."""


class Scope(StrEnum):
    """What of the chosen heads a local run trains: s_i alone, H_i too, or also the saved tensors, as a round does."""

    S = "s"
    HEADS = "heads"
    ALL = "all"


class Priority(StrEnum):
    """How the worker shares the processor: IDLE takes what nobody else wants, LOW gives way, NORMAL does neither."""

    IDLE = "idle"
    LOW = "low"
    NORMAL = "normal"


@dataclass(frozen=True)
class WorkerSettings:
    """What holds for all that a worker does; its fields are those of ``ravan-edge run``.

    Attributes:
        home: the client's folder.
        wanted, ort_python: see ``Runtimes``.
        disk_mb: most disk that the home takes, 0 for what there is.
        memory_mb: most memory that it may take; 0 for what is free when it starts.
    """

    home: Path
    threads: int = 0
    spinning: bool = False
    mapped: bool = False
    cache_mb: int = 0
    disk_mb: int = 0
    wanted: str = "onnxruntime"
    ort_python: Path | None = None
    priority: Priority = Priority.IDLE
    memory_mb: int = 0
    checkpoint_seconds: float = CHECKPOINT_SECONDS


@dataclass(frozen=True)
class DataOptions:
    """A device's data: how it is read, what of it is held out by which seed, and how much is computed at a time.

    Attributes:
        dataset: name of the code that reads it; empty for what the bundle's task has.
        micro_batch: most tokens at a time; None as the bundle says.
    """

    data: Path
    dataset: str = ""
    skip_bad: bool = False
    held_out: float = 0.0
    seed: int = 0
    micro_batch: int | None = None


@dataclass(frozen=True)
class Job:
    """One local run.

    Attributes:
        task: the server's, as the bytes of ``pb.Task``.
        device_id: whose it is.
        name: the device's.
        bundle: its folder.
        base: file of the adapter that the round starts from.
        desk: folder for checkpoint and outbox.
        left_out: file of what earlier uploads left out.
        head_budget: share of the heads to train.
        data: what to train on.
        auto: whether to train fewer heads if these would take too long.
        seconds: that are left for it; 0 where nobody waits.
    """

    task: bytes
    device_id: str
    name: str
    bundle: Path
    base: Path
    desk: Path
    left_out: Path
    head_budget: float
    data: DataOptions
    auto: bool = False
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return to_dict(self) | {"task": base64.b64encode(self.task).decode("ascii")}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Job":
        """Reads what ``to_dict`` made."""
        given = dict(value) | {"task": base64.b64decode(value["task"]), "data": from_dict(DataOptions, value["data"])}
        made: Job = from_dict(cls, given)
        return made


def to_dict(value: Any) -> dict[str, Any]:
    """A dataclass as JSON-ready values: paths become texts."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(value), default=_text))
    return found


def from_dict(cls: type[Any], value: Mapping[str, Any]) -> Any:
    """A dataclass from what ``to_dict`` made of it."""
    made = {}
    for field in fields(cls):
        found = value[field.name]
        if field.type in (Path, Path | None) and found is not None:
            found = Path(found)
        elif field.type is Priority:
            found = Priority(found)
        made[field.name] = found
    return cls(**made)


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
