"""A local run that is cut off at any step goes on at its checkpoint and ends with the same bits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge.checkpoint import Checkpoints, run_key, stamp
from edge.training import FORGETFUL, Keeper, LocalRun, MiniBatches, Standing, run_generator, train_locally
from ravan.bundle import INITIAL, Bundle
from ravan.rpc.plan import OptimizerName, TrainingPlan
from ravan.runtime.session import TrainStep
from ravan.runtime.text import LabelledTexts
from ravan.update import decode, encode
from tests.conftest import sentences, write_rows

DEVICE = "0123456789abcdef" * 2
PLAN = TrainingPlan(local_steps=6, batch_size=4, clip_norm=0.5)


class Killed(Exception):
    """Stands for the end of the process."""


class Runs:
    """The same local run, over and over, with checkpoints below a folder."""

    def __init__(self, bundle: Bundle, path: Path) -> None:
        self.spec, self.path = bundle.manifest.adapter, path / "checkpoint"
        self._step = TrainStep(bundle)
        self._data = LabelledTexts.read(bundle, write_rows(path / "data.jsonl", sentences(10, 1)))
        self._base = decode(self.spec, bundle.path(INITIAL).read_bytes())
        self.first_step = 0

    def run(self, plan: TrainingPlan, *, kept: bool, key: str = "key", killed_at: int = 0) -> LocalRun:
        generator = run_generator(plan, 1, DEVICE)
        batches = MiniBatches(self._data, plan.batch_size, 0, generator)
        checkpoints = Checkpoints(self.path, key, self.spec, batches, generator, 0)
        keeper: Keeper = checkpoints if kept else FORGETFUL
        self.first_step = 0

        def on_step(step: int, loss: float) -> None:
            self.first_step = self.first_step or step
            if step == killed_at:
                raise Killed

        return train_locally(self._step, self.spec, self._base, batches, plan, 0.5, generator, on_step, keeper=keeper)

    def bits(self, run: LocalRun) -> tuple[bytes, tuple[float, ...], int]:
        return encode(self.spec, run.update), run.losses, run.heads_per_layer


@pytest.fixture
def runs(bundle: Bundle, tmp_path: Path) -> Runs:
    return Runs(bundle, tmp_path)


@pytest.mark.parametrize("optimizer", OptimizerName)
def test_a_run_cut_off_after_any_step_ends_with_the_same_bits(runs: Runs, optimizer: OptimizerName) -> None:
    plan = TrainingPlan(local_steps=6, batch_size=4, optimizer=optimizer)
    whole = runs.bits(runs.run(plan, kept=False))
    for step in range(1, plan.local_steps + 1):
        with pytest.raises(Killed):
            runs.run(plan, kept=True, killed_at=step)
        resumed = runs.run(plan, kept=True)
        assert runs.first_step in (0, step + 1)  # 0: nothing was left to do
        assert runs.bits(resumed) == whole
        runs.path.unlink()


def damaged(path: Path) -> str:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return "key"


def cut_short(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:40])
    return "key"


@pytest.mark.parametrize("change", [damaged, cut_short, lambda path: "another run"])
def test_a_checkpoint_of_another_run_or_a_damaged_one_is_dropped(runs: Runs, change: Callable[[Path], str]) -> None:
    whole = runs.bits(runs.run(PLAN, kept=False))
    with pytest.raises(Killed):
        runs.run(PLAN, kept=True, killed_at=4)
    key = change(runs.path)
    again = runs.run(PLAN, kept=True, key=key)
    assert runs.first_step == 1
    assert runs.bits(again) == whole


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = runs.bits(runs.run(PLAN, kept=False))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ravan.files.os.fsync", full)
    assert runs.bits(runs.run(PLAN, kept=True)) == whole
    assert not runs.path.exists()


def test_checkpoints_come_no_more_often_than_told(runs: Runs) -> None:
    generator = np.random.default_rng(0)
    checkpoints = Checkpoints(runs.path, "key", runs.spec, MiniBatches(runs._data, 4, 0, generator), generator, 3600)

    def asked() -> Standing:
        pytest.fail("too early")

    checkpoints.keep(asked)


def test_what_a_run_depends_on_is_in_its_key(tmp_path: Path) -> None:
    assert run_key(plan=1, data="a") == run_key(data="a", plan=1)
    assert len({run_key(plan=1, data="a"), run_key(plan=2, data="a"), run_key(plan=1, data="b")}) == 3
    file, folder = tmp_path / "data.jsonl", tmp_path / "images"
    folder.mkdir()
    (folder / "a").write_text("1")
    file.write_text("1")
    before = stamp(file), stamp(folder)
    assert (stamp(file), stamp(folder)) == before
    file.write_text("12")
    (folder / "b").write_text("2")
    assert stamp(file) != before[0]
    assert stamp(folder) != before[1]
