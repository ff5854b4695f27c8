"""One local run at a time in a worker of its own: paused, stopped, ended, and kept warm."""

import os
import signal
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge.conditions import NO_RULES, Conditions
from edge.desk import CHECKPOINT, FINISHED, Desk
from edge.errors import RoundOver, Stopped, WorkerEnded, WorkFailed
from edge.foreman import Foreman
from edge.job import WORKER_LOCK, DataOptions, Job, Priority, WorkerSettings
from protos.ravan.v1 import fleet_pb2 as pb
from ravan.bundle import INITIAL, Bundle
from ravan.errors import NoExamples
from ravan.files import holder
from ravan.rpc.plan import TrainingPlan, plan_to_proto
from tests.conftest import sentences, write_rows
from tests.e2e.processes import until
from tests.edge.test_process import state_of

DEVICE = "0123456789abcdef" * 2
NEVER = float("inf")
MANY = 100_000


class Mood(Conditions):
    """Conditions that a test sets."""

    def __init__(self) -> None:
        super().__init__(NO_RULES)
        self.reason = ""

    def against(self, own: Collection[int] = ()) -> str:
        return self.reason


class Scene:
    """A foreman, its conditions, and a job with few steps."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        self.home, self.mood, self.stop = folder, Mood(), threading.Event()
        self.settings = WorkerSettings(folder, threads=1, priority=Priority.NORMAL, checkpoint_seconds=0)
        self.foreman = Foreman(self.settings, self.mood, warm_seconds=0.5)
        self.desk = Desk(folder / "desk", folder / "left-out")
        adapter = bundle.manifest.files[INITIAL].sha256
        self._binding = pb.Binding(run_id="run", round=1, bundle_id=bundle.manifest.bundle_id, base_adapter=adapter)
        data = DataOptions(write_rows(folder / "data.jsonl", sentences(12, 0)))
        base, desk = bundle.path(INITIAL), self.desk
        self.job = Job(b"", DEVICE, "one", bundle.folder, base, desk.folder, desk.left_out, 1.0, data)

    def _task(self, steps: int) -> bytes:
        plan = plan_to_proto(TrainingPlan(local_steps=steps, batch_size=2))
        return pb.Task(binding=self._binding, plan=plan).SerializeToString()

    def train(self, steps: int = 2, until: float = NEVER) -> list[int]:
        """The steps that the worker told of."""
        told: list[int] = []
        job = replace(self.job, task=self._task(steps))
        self.foreman.train(job, self.stop, until, lambda step, loss: told.append(step))
        return told

    @property
    def worker(self) -> int | None:
        return holder(self.home, WORKER_LOCK)

    @property
    def is_at_work(self) -> bool:
        return (self.desk.folder / CHECKPOINT).exists()


@pytest.fixture
def scene(bundle: Bundle, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(bundle, tmp_path)
    yield made
    made.foreman.close()


def test_a_run_ends_in_the_outbox_and_the_worker_is_kept_for_a_moment_and_ends(scene: Scene) -> None:
    scene.train()
    first = scene.worker
    finished = scene.desk.finished
    assert finished is not None
    assert (finished.header.binding.round, finished.header.report.steps) == (1, 2)
    scene.train()
    assert scene.worker == first is not None
    until(lambda: scene.worker is None, "the worker's end")


def test_a_worker_that_must_not_train_is_paused_at_once_and_goes_on(scene: Scene) -> None:
    def disturb() -> None:
        until(lambda: scene.is_at_work, "a checkpoint")
        scene.mood.reason = "the owner is here"
        pid = scene.worker
        assert pid is not None
        until(lambda: state_of(pid) == "T", "the pause", 5)
        seen.append(pid)
        scene.mood.reason = ""
        until(lambda: state_of(pid) != "T", "going on", 5)
        scene.stop.set()

    seen: list[int] = []
    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    with pytest.raises(Stopped):
        scene.train(MANY)
    disturbing.join()
    assert seen


def test_a_run_waits_for_the_conditions_without_a_worker(scene: Scene) -> None:
    scene.mood.reason = "at night only"
    threading.Timer(1.0, scene.stop.set).start()
    with pytest.raises(Stopped):
        scene.train()
    assert scene.worker is None


def test_a_stopped_run_goes_on_where_it_was(scene: Scene, bundle: Bundle) -> None:
    def stop() -> None:
        until(lambda: scene.is_at_work, "a checkpoint")
        scene.stop.set()

    threading.Thread(target=stop).start()
    with pytest.raises(Stopped):
        scene.train(MANY)
    assert scene.worker is None
    kept = (scene.desk.folder / CHECKPOINT).read_bytes()
    assert kept
    scene.stop.clear()
    threading.Timer(3.0, scene.stop.set).start()
    with pytest.raises(Stopped):
        scene.train(MANY)
    assert (scene.desk.folder / CHECKPOINT).read_bytes() != kept


def test_a_killed_worker_leaves_its_checkpoint_and_one_sentence(scene: Scene) -> None:
    def kill() -> None:
        until(lambda: scene.is_at_work, "a checkpoint")
        pid = scene.worker
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    threading.Thread(target=kill).start()
    with pytest.raises(WorkerEnded, match="SIGKILL"):
        scene.train(MANY)
    assert scene.is_at_work


def test_the_end_of_the_round_ends_the_worker(scene: Scene) -> None:
    with pytest.raises(RoundOver):
        scene.train(MANY, until=time.monotonic() + 1.5)
    assert scene.worker is None
    assert not (scene.desk.folder / FINISHED).exists()


def test_errors_keep_their_code_and_their_sentence_and_the_worker(scene: Scene) -> None:
    data = scene.job.data
    scene.job = replace(scene.job, data=replace(data, data=write_rows(scene.home / "empty.jsonl", [])))
    with pytest.raises(NoExamples, match=r"empty\.jsonl"):
        scene.train()
    first = scene.worker
    damaged = scene.home / "damaged"
    damaged.write_bytes(b"no adapter")
    scene.job = replace(scene.job, data=data, base=damaged)
    with pytest.raises(WorkFailed, match="no Ravan update") as failed:
        scene.train()
    assert failed.value.code == "malformed-update"
    assert scene.worker == first is not None
