"""What a device takes on: by a table of cases, kept for a run that goes on, learned from what runs took."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from edge.desk import SHARE
from edge.job import DataOptions, Job
from edge.strength import Share, Strength, all_known, decide
from edge.trial import learn, share_of
from ravan.bundle import WEIGHTS, Bundle
from ravan.room import fitting_tokens, packed_copies
from ravan.rpc.plan import TrainingPlan
from ravan.spread import Spread
from ravan.strength import FORWARD, MARGIN, Work, expected_seconds, fitting_budget, local_work

TOP = Spread.TOP_LAYERS
MB = 1_000_000


@pytest.mark.parametrize(
    ("spread", "times", "seconds", "most", "budget"),
    [
        (TOP, {}, 100, 1.0, 1.0),  # nobody knows yet
        (TOP, {1.0: 1.0}, None, 1.0, 1.0),  # nobody waits
        (TOP, {1.0: 0.5}, 100, 1.0, 1.0),  # 50 s of 70
        (TOP, {1.0: 0.8}, 100, 1.0, 0.75),  # 80 s are too many, 0.85 of them are not
        (TOP, {1.0: 0.95}, 100, 1.0, 0.5),
        (TOP, {1.0: 1.2}, 100, 1.0, 0.25),
        (TOP, {1.0: 50.0}, 100, 1.0, 0.25),  # hopeless: the least
        (TOP, {1.0: 0.5}, 100, 0.4, 0.4),  # no more than it may
        (TOP, {1.0: 50.0}, 100, 0.1, 0.1),  # nor more than the least that it may
        (TOP, {1.0: 1.2, 0.5: 0.6}, 100, 1.0, 0.5),  # what was measured counts, not what was assumed
        (Spread.PER_LAYER, {1.0: 50.0}, 100, 1.0, 1.0),  # fewer heads would be no faster
        (Spread.ACROSS_LAYERS, {1.0: 50.0}, 100, 0.5, 0.5),
    ],
)
def test_the_budget_is_the_largest_that_is_done_in_time(
    spread: Spread, times: dict[float, float], seconds: float | None, most: float, budget: float
) -> None:
    assert fitting_budget(spread, times, Work(100, seconds), most) == budget


def test_a_depth_never_measured_is_scaled_from_the_nearest() -> None:
    assert expected_seconds({1.0: 2.0, 0.25: 0.7}, 0.25) == 0.7
    assert expected_seconds({1.0: 2.0}, 0.5) == pytest.approx(2.0 * (FORWARD + (1 - FORWARD) / 2))
    assert expected_seconds({}, 0.5) is None


def test_scores_cost_a_mini_batch_and_transfers_a_margin() -> None:
    assert local_work(9, 10, 60.0) == Work(100, 60.0)
    assert local_work(9, 10, 0.0).seconds is None
    assert fitting_budget(TOP, {1.0: 1.0}, Work(100, 100 / MARGIN), 1.0) == 1.0
    assert fitting_budget(TOP, {1.0: 1.0}, Work(100, 99 / MARGIN), 1.0) == 0.75


@pytest.mark.parametrize(
    ("free", "tokens"),
    [
        (None, 2048),  # the system does not say
        (10_000 * MB, 2048),
        (300 * MB + 400 * MB, 2048),  # packed copies, then four times the measured memory
        (300 * MB + 399 * MB, 1024),
        (300 * MB + 100 * MB, 512),
        (150 * MB, 512),  # no packed copies: mapped weights, and half as much again is no twice
        (399 * MB, 1024),  # mapped weights leave room for twice
        (10 * MB, 512),  # less than was measured helps nobody; the workshop refuses
    ],
)
def test_parts_are_as_large_as_memory_allows(bundle: Bundle, free: int | None, tokens: int) -> None:
    manifest = bundle.manifest
    weights = replace(manifest.files[WEIGHTS], size=150 * MB)
    measured = replace(
        manifest, micro_batch=2048, memory={"small": 100 * MB}, files={**manifest.files, WEIGHTS: weights}
    )
    assert packed_copies(measured) == 300 * MB
    assert fitting_tokens(measured, free) == tokens


def test_a_decision_says_whether_it_will_be_in_time(bundle: Bundle) -> None:
    slow, fast = Strength({1.0: 10.0}), Strength({1.0: 0.1})
    assert not decide(bundle.manifest, TOP, slow, Work(100, 60), 1.0).in_time
    assert decide(bundle.manifest, TOP, fast, Work(100, 60), 1.0) == Share(1.0, bundle.manifest.micro_batch)
    assert decide(bundle.manifest, TOP, slow, Work(100, None), 1.0).in_time


def job_in(folder: Path, **changes: object) -> Job:
    data = DataOptions(folder / "data.jsonl")
    job = Job(
        b"", "0" * 32, "one", folder, folder / "base", folder, folder / "rest", 1.0, data, auto=True, seconds=60.0
    )
    return replace(job, **changes)  # type: ignore[arg-type]


def never(tokens: int) -> float:
    raise AssertionError("nothing was to be measured")


PLAN = TrainingPlan(local_steps=9, batch_size=10, head_spread=TOP)


def test_a_run_that_goes_on_has_the_share_it_began_with(bundle: Bundle, tmp_path: Path) -> None:
    first = share_of(job_in(tmp_path), "run", bundle.manifest, PLAN, tmp_path, lambda tokens: 0.5)
    assert first.head_budget == 0.5
    late = job_in(tmp_path, seconds=1.0)
    assert share_of(late, "run", bundle.manifest, PLAN, tmp_path, never) == first
    assert share_of(late, "another", bundle.manifest, PLAN, tmp_path, never).head_budget == 0.25


@pytest.mark.parametrize("damaged", [b"", b"{}", b"[]", b'{"key": "run"}', b"\xff"])
def test_a_damaged_share_is_decided_anew(bundle: Bundle, tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / SHARE).write_bytes(damaged)
    assert share_of(job_in(tmp_path), "run", bundle.manifest, PLAN, tmp_path, lambda tokens: 0.1).head_budget == 1.0


def test_a_share_that_the_user_gave_stays_and_nothing_is_measured(bundle: Bundle, tmp_path: Path) -> None:
    job = job_in(tmp_path, head_budget=0.75, auto=False, seconds=0.001)
    assert share_of(job, "run", bundle.manifest, PLAN, tmp_path, never).head_budget == 0.75


def test_nothing_is_measured_where_nobody_waits_or_it_would_change_nothing(bundle: Bundle, tmp_path: Path) -> None:
    share_of(job_in(tmp_path, seconds=0), "a", bundle.manifest, PLAN, tmp_path, never)
    per_layer = replace(PLAN, head_spread=Spread.PER_LAYER)
    share_of(job_in(tmp_path), "b", bundle.manifest, per_layer, tmp_path, never)


def test_later_runs_refresh_what_is_known_and_pauses_leave_no_trace(bundle: Bundle, tmp_path: Path) -> None:
    manifest, share = bundle.manifest, Share(0.5, 512)
    learn(tmp_path, manifest, PLAN, share, [9.0, 1.0, 1.0, 3600.0])
    assert all_known(tmp_path)[manifest.bundle_id].times == {0.5: 0.1}
    learn(tmp_path, manifest, PLAN, share, [9.0, 3.0, 3.0, 3.0])
    assert all_known(tmp_path)[manifest.bundle_id].times == {0.5: pytest.approx(0.2)}
    assert Strength.read(tmp_path, manifest.bundle_id).cores >= 1


def test_a_full_disk_ends_no_run_for_want_of_what_can_be_measured_again(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("edge.strength.write_atomically", full)
    learn(tmp_path, bundle.manifest, PLAN, Share(0.5, 512), [9.0, 1.0, 1.0])
    assert all_known(tmp_path) == {}


@pytest.mark.parametrize("damaged", ["", "{}", '{"times": {"2": 1}, "memory": null, "cores": 1}', '{"times": 3}'])
def test_a_damaged_file_means_that_nothing_is_known(tmp_path: Path, damaged: str) -> None:
    path = tmp_path / "strength" / "b.json"
    path.parent.mkdir()
    path.write_text(damaged)
    assert Strength.read(tmp_path, "b") == Strength()
    assert all_known(tmp_path) == {"b": Strength()}
