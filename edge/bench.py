"""How fast and how large a bundle's training step is on this device, per runtime and preset."""

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from edge.itself import own_command
from edge.runtimes import Runtime, Runtimes
from edge.steps import open_step
from edge.training import accumulate
from ravan.bundle import INITIAL, PREFIX, Bundle, open_bundle
from ravan.bundle_files import OPTIONAL
from ravan.errors import RuntimeProblem
from ravan.processes import last_words
from ravan.runtime.footprint import PRESETS, full_parts
from ravan.runtime.memory import peak_memory
from ravan.runtime.names import HIDDEN
from ravan.runtime.session import Batch, Prefix
from ravan.update import decode


@dataclass(frozen=True)
class Measurement:
    """One preset's figures: seconds are medians, memory is the largest resident size of the processes it takes.

    ``prefix_seconds`` is what a batch costs in the first epoch beside its step; 0 without a frozen prefix.
    """

    runtime: Runtime
    preset: str
    micro_batch: int
    load_seconds: float
    step_seconds: float
    prefix_seconds: float
    tokens_per_second: float
    peak_memory_bytes: int
    loaded_memory_bytes: int


def measure(
    bundle: Path, preset: str, batch: int, length: int, steps: int, ort_python: Path | None = None
) -> Measurement:
    """Measures a preset in a process of its own, so that its peak memory is its own.

    With ``ort_python`` it measures onnxruntime-training, and else onnxruntime.

    Raises:
        RuntimeProblem: the process ended without a result; its last words are in the message.
    """
    arguments = [str(bundle), str(ort_python or ""), preset, str(batch), str(length), str(steps)]
    done = subprocess.run([*own_command("_bench"), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeProblem(
            f"Preset {preset} could not be measured ({last_words(done)}): use smaller batches or free memory."
        )
    found = json.loads(done.stdout)
    return Measurement(**found | {"runtime": Runtime(found["runtime"])})


def measure_here(bundle: Bundle, runtimes: Runtimes, preset: str, batch: int, length: int, steps: int) -> Measurement:
    """Measures a preset in this process: one step to warm up, then ``steps``."""
    chosen = PRESETS[preset]
    parts = full_parts(bundle, batch, length, chosen.micro_batch(bundle))
    prefix_seconds = 0.0
    if PREFIX in bundle.manifest.files:
        parts, prefix_seconds = with_hidden(parts, Prefix(bundle, chosen.runtime), steps)
    began = time.perf_counter()
    with closing(open_step(runtimes, bundle, chosen.runtime)) as step:
        load_seconds, loaded = time.perf_counter() - began, peak_memory() + step.peak_memory
        spec = bundle.manifest.adapter
        trainables = decode(spec, bundle.path(INITIAL).read_bytes()).trainables(spec)
        median = median_seconds(steps, lambda: accumulate(step, trainables, parts))
        peak = peak_memory() + step.peak_memory
    return Measurement(
        runtime=runtimes.wanted,
        preset=preset,
        micro_batch=chosen.micro_batch(bundle),
        load_seconds=load_seconds,
        step_seconds=median,
        prefix_seconds=prefix_seconds,
        tokens_per_second=batch * bundle.manifest.row_tokens(length) / median,
        peak_memory_bytes=peak,
        loaded_memory_bytes=loaded,
    )


def with_hidden(parts: list[Batch], prefix: Prefix, steps: int) -> tuple[list[Batch], float]:
    """The parts with the frozen prefix's hidden states, and the median seconds that these took."""
    seconds = median_seconds(steps, lambda: [prefix(part) for part in parts])
    return [{**part, HIDDEN: prefix(part)} for part in parts], seconds


def median_seconds(steps: int, work: Callable[[], object]) -> float:
    """Of ``steps`` runs of the work, after one to warm up."""
    seconds = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def main(arguments: Sequence[str]) -> None:
    """Measures what ``measure`` asks for, in its process."""
    folder, ort_python, preset, *numbers = arguments
    batch, length, steps = map(int, numbers)
    runtimes = Runtimes(Runtime.ORT_TRAINING, Path(ort_python)) if ort_python else Runtimes()
    bundle = open_bundle(Path(folder), may_lack=OPTIONAL)
    print(json.dumps(asdict(measure_here(bundle, runtimes, preset, batch, length, steps))))  # noqa: T201
