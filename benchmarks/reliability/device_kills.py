"""Promise 11: client and worker are killed at every named point, and at any moment, over and over during runs."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.reliability.device_trial import MOMENTS, STEPS, DeviceTrial
from benchmarks.reliability.figures import Figure
from benchmarks.reliability.tiny import tiny_bundle

KILLS = 200
ROUNDS = 25
SEED = 7
DOWNLOAD = {"piece-fetched": 3, "file-fetched": 3, "bundle-fetched": 1}
"""Points that a device passes while it has no bundle, and how often at least."""
OF_A_ROUND = (
    *("base-kept", "step-done", "checkpoint-kept", "update-finished", "run-kept"),
    *("piece-sent", "update-sent", "rest-kept", "desk-cleared"),
    *("file-written", "file-synced", "file-renamed", "folder-synced"),
)


def drawn(generator: random.Random, *, first: bool) -> list[str]:
    """How lives end: at each point once, the first to so many-th time that it is reached, and at any moment."""
    lives = [f"{point}:{generator.randint(1, most)}" for point, most in DOWNLOAD.items()] if first else []
    for point in OF_A_ROUND:
        most = STEPS if point in ("step-done", "checkpoint-kept") else 4 if point.startswith("file") else 1
        lives.append(f"{point}:{generator.randint(1, most)}")
    lives += MOMENTS
    later = lives[len(DOWNLOAD) if first else 0 :]
    generator.shuffle(later)
    return lives[: -len(later)] + later


def figures(folder: Path) -> Iterator[Figure]:
    """Undisturbed, then killed at least ``KILLS`` times."""
    bundle = tiny_bundle(folder / "bundle").folder
    calm = DeviceTrial(folder / "calm", bundle, (), ROUNDS).run()
    yield Figure(
        11,
        f"a run of {ROUNDS} rounds of a device that nobody disturbs",
        "finishes",
        "finished" if not calm.problems else "; ".join(calm.problems),
        met=not calm.problems,
    )
    generator, trials = random.Random(SEED), list[DeviceTrial]()
    while sum(trial.kills.total() for trial in trials) < KILLS:
        lives = [life for turn in range(3) for life in drawn(generator, first=turn == 0)]
        number = len(trials)
        trials.append(DeviceTrial(folder / f"trial-{number}", bundle, lives, ROUNDS, number).run())
        print(f"   {trials[-1].kills.total()} kills, {'; '.join(trials[-1].problems) or 'all well'}", flush=True)
    yield from outcome(trials, calm, KILLS)


def outcome(trials: Sequence[DeviceTrial], calm: DeviceTrial, least: int) -> Iterator[Figure]:
    """What trials amount to."""
    kills: Counter[str] = sum((trial.kills for trial in trials), Counter())
    problems = sorted({problem for trial in trials for problem in trial.problems})
    yield Figure(
        11,
        "kill -9 of client and worker in download, training, checkpoint, outbox and upload",
        f"at least {least} kills",
        f"{kills.total()} kills at {len(kills)} points and moments in {len(trials)} runs",
        met=kills.total() >= least,
    )
    same = sum(a == b for trial in trials for a, b in zip(trial.updates, calm.updates, strict=False))
    every = sum(len(trial.updates) for trial in trials)
    yield Figure(
        11,
        "updates after kills, against those of the undisturbed run",
        "bit-equal",
        f"{same} of {every} bit-equal; local runs gone on with: {sum(trial.resumed for trial in trials)}",
        met=same == every == len(trials) * len(calm.updates),
    )
    twice = sum(trial.twice for trial in trials)
    yield Figure(11, "finished updates that were trained again", "none", str(twice), met=twice == 0)
    yield Figure(
        11,
        "runs that finish, and what is left in the device's folder",
        "all; no partial and no temporary file",
        "all finished, nothing left" if not problems else "; ".join(problems),
        met=not problems,
    )
