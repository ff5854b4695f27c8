"""Our training step, measured as a device runs it: gradients from train.onnx, clipping and AdamW in numpy.

usage: python -m benchmarks.our_side JOB; prints one JSON object.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain, pairwise, repeat
from pathlib import Path

import numpy as np

from benchmarks.contenders import Figures, Job
from benchmarks.data import Rows, read_noise
from benchmarks.works import Kind
from edge.hidden import HiddenExamples, HiddenStates
from edge.training import LocalRun, train_locally
from ravan.bundle import INITIAL, Bundle, open_bundle
from ravan.rpc.plan import TrainingPlan
from ravan.runtime.examples import Examples, micro_batches, read_examples
from ravan.runtime.footprint import PRESETS
from ravan.runtime.memory import peak_memory
from ravan.runtime.session import Batch, TrainStep
from ravan.update import decode

CACHE = 1 << 31  # bytes; as much as a device keeps unless told otherwise


def measure(job: Job) -> Figures:
    """Trains with one mini-batch to warm up and ``job.steps`` that count; cached, with as many again before them."""
    bundle, steps = open_bundle(Path(job.model)), job.steps + 1
    with tempfile.TemporaryDirectory() as scratch:
        batches = mini_batches(job, bundle, Path(scratch))
        stamps, parts, run = train(job, bundle, batches, 2 * steps if job.kind is Kind.CACHED else steps)
    seconds = [end - begin for begin, end in pairwise(stamps)]
    return Figures(
        seconds=sum(seconds) if job.kind is Kind.ROUND else statistics.median(seconds[-job.steps :]),
        peak_bytes=peak_memory(),
        trainable=bundle.manifest.adapter.size,
        loss=run.losses[0],
        first_epoch_seconds=statistics.median(seconds[: job.steps]) if job.kind is Kind.CACHED else None,
        parts=tuple(parts),
    )


def train(
    job: Job, bundle: Bundle, batches: Iterator[Sequence[Batch]], steps: int
) -> tuple[list[float], list[int], LocalRun]:
    """A device's local run: the time at the end of every step, the parts of every mini-batch, and the run."""
    stamps: list[float] = []
    parts: list[int] = []

    def counted() -> Iterator[Sequence[Batch]]:
        for batch in batches:
            parts.append(len(batch))
            yield batch

    spec = bundle.manifest.adapter
    run = train_locally(
        TrainStep(bundle, PRESETS[job.way].runtime),
        spec,
        decode(spec, bundle.path(INITIAL).read_bytes()),
        counted(),
        TrainingPlan(local_steps=steps, batch_size=job.rows),
        head_budget=1.0,
        generator=np.random.default_rng(0),
        on_step=lambda step, loss: stamps.append(time.perf_counter()),
    )
    return stamps, parts, run


def mini_batches(job: Job, bundle: Bundle, scratch: Path) -> Iterator[Sequence[Batch]]:
    """Of a step, one mini-batch formed before; else formed on the way, all of them a second time if cached."""
    tokens, examples = PRESETS[job.way].micro_batch(bundle), examples_of(job, bundle, scratch)
    chunks = [range(start, start + job.rows) for start in range(0, len(examples), job.rows)]
    if job.kind is Kind.STEP:
        return repeat(micro_batches(examples, chunks[0], tokens))
    epochs = 2 if job.kind is Kind.CACHED else 1
    return (micro_batches(examples, chunk, tokens) for chunk in chain(*repeat(chunks, epochs)))


def examples_of(job: Job, bundle: Bundle, scratch: Path) -> Examples:
    """The job's data as the bundle's train.onnx takes it."""
    if job.kind is Kind.ROUND:
        return read_examples(bundle, Path(job.data))
    manifest = bundle.manifest
    rows = Rows.of(read_noise(Path(job.data)), manifest.task, manifest.row_tokens(job.length))
    if job.kind is Kind.STEP:
        return rows
    return HiddenExamples(rows, HiddenStates(bundle, PRESETS[job.way].runtime, scratch / "hidden.sqlite", CACHE))


def main() -> None:
    """Measures and prints."""
    print(json.dumps(asdict(measure(Job.from_json(sys.argv[1])))))


if __name__ == "__main__":
    main()
