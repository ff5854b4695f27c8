"""What a device takes on of a task: what was decided when the run began, else what it is seen to have time for."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import structlog

from edge.desk import SHARE
from edge.job import Job
from edge.strength import Share, Strength, decide
from edge.training import Trainer, accumulate
from ravan.bundle import Manifest
from ravan.files import write_atomically
from ravan.layout import Vector
from ravan.room import fitting_tokens
from ravan.rpc.plan import TrainingPlan
from ravan.runtime.memory import available_memory
from ravan.runtime.session import Batch
from ravan.spread import Spread, layers_for_budget
from ravan.strength import local_work

log = structlog.get_logger()
Measure = Callable[[int], float]
"""Seconds of an example with the whole backward pass, measured with so many tokens computed at a time."""


def share_of(job: Job, key: str, manifest: Manifest, plan: TrainingPlan, home: Path, measure: Measure) -> Share:
    """The share of a task, kept on the desk so that a run that goes on has the same: its bits depend on it.

    ``key`` names the run; ``measure`` is asked only before the device has trained the bundle, if time matters.
    """
    path = job.desk / SHARE
    try:
        found = json.loads(path.read_bytes())
        if found.pop("key") == key:
            return Share(**found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # none yet, or none that is of use
    share = _decided(job, manifest, plan, home, measure)
    write_atomically(path, json.dumps({"key": key, **asdict(share)}).encode())
    log.info("share decided", device=job.name, heads=share.head_budget, tokens=share.tokens)
    if not share.in_time:
        log.warning("this device is too slow for the round: it trains the least it can", device=job.name)
    return share


def learn(home: Path, manifest: Manifest, plan: TrainingPlan, share: Share, seconds: Sequence[float]) -> None:
    """Keeps what the steps of a local run took, the first left out: it warms up."""
    if len(seconds) < 2:
        return
    layers = len(manifest.adapter.layers)
    depth = layers_for_budget(plan.head_spread, share.head_budget, layers) / layers
    known = Strength.read(home, manifest.bundle_id)
    median = statistics.median(seconds[1:])  # of any that fell into a pause nothing remains
    _keep(known.learned(depth, median / plan.batch_size, available_memory()), home, manifest)


def seconds_per_example(trainer: Trainer, trainables: Vector, parts: Sequence[Batch], examples: int) -> float:
    """Of the second of two steps on a mini-batch of so many examples."""
    accumulate(trainer, trainables, parts)
    began = time.perf_counter()
    accumulate(trainer, trainables, parts)
    return (time.perf_counter() - began) / examples


def _decided(job: Job, manifest: Manifest, plan: TrainingPlan, home: Path, measure: Measure) -> Share:
    memory = available_memory()
    tokens = fitting_tokens(manifest, memory) if job.data.micro_batch is None else job.data.micro_batch
    if not job.auto:
        return Share(job.head_budget, tokens)
    strength = replace(Strength.read(home, manifest.bundle_id), memory=memory)
    work = local_work(plan.local_steps, plan.batch_size, job.seconds)
    if plan.head_spread is Spread.TOP_LAYERS and work.seconds is not None and not strength.times:
        strength = strength.learned(1.0, measure(tokens), memory)
        _keep(strength, home, manifest)
    return replace(decide(manifest, plan.head_spread, strength, work, job.head_budget), tokens=tokens)


def _keep(strength: Strength, home: Path, manifest: Manifest) -> None:
    """Writes what can be measured again, if the disk takes it: no run must end for want of that."""
    try:
        strength.write(home, manifest.bundle_id)
    except OSError as error:
        log.warning("strength not kept", reason=error.strerror)
