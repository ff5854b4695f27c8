"""How fast and how large a bundle's training step is on this device, per preset."""

import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edge.memory import peak_memory
from edge.training import accumulate
from ravan.bundle import INITIAL, Bundle, open_bundle
from ravan.errors import RuntimeProblem
from ravan.runtime.names import ATTENTION_MASK, INPUT_IDS, LABELS
from ravan.runtime.session import Batch, RuntimeOptions, TrainStep
from ravan.runtime.text import TextBatches
from ravan.update import decode


@dataclass(frozen=True)
class Preset:
    """How a step uses the machine: threads (0 for all cores), tokens at a time, threads that spin between operators."""

    threads: int
    micro_batch: int
    spinning: bool


PRESETS = {
    "small": Preset(threads=1, micro_batch=512, spinning=False),
    "default": Preset(threads=0, micro_batch=1024, spinning=False),
    "fast": Preset(threads=0, micro_batch=1024, spinning=True),
}


@dataclass(frozen=True)
class Measurement:
    """One preset's figures: seconds are medians, memory is the largest resident size of the process."""

    preset: str
    load_seconds: float
    step_seconds: float
    tokens_per_second: float
    peak_memory_bytes: int
    loaded_memory_bytes: int


def measure(bundle: Path, preset: str, batch: int, length: int, steps: int) -> Measurement:
    """Measures a preset in a process of its own, so that its peak memory is its own.

    Raises:
        RuntimeProblem: the process ended without a result; its last words are in the message.
    """
    arguments = [str(bundle), preset, str(batch), str(length), str(steps)]
    done = subprocess.run([sys.executable, "-m", "edge.bench", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeProblem(f"Preset {preset} could not be measured ({last}): use smaller batches or free memory.")
    return Measurement(**json.loads(done.stdout))


def measure_here(bundle: Bundle, preset: str, batch: int, length: int, steps: int) -> Measurement:
    """Measures a preset in this process: one step to warm up, then ``steps``."""
    chosen = PRESETS[preset]
    began = time.perf_counter()
    step = TrainStep(bundle, RuntimeOptions(chosen.threads, chosen.spinning))
    load_seconds, loaded = time.perf_counter() - began, peak_memory()
    spec = bundle.manifest.adapter
    trainables = decode(spec, bundle.path(INITIAL).read_bytes()).trainables(spec)
    parts = random_parts(bundle, batch, length, chosen.micro_batch)
    seconds = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        accumulate(step, trainables, parts)
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds[1:])
    return Measurement(preset, load_seconds, median, batch * length / median, peak_memory(), loaded)


def random_parts(bundle: Bundle, batch: int, length: int, tokens: int) -> list[Batch]:
    """A mini-batch of full-length random token ids, in parts of at most ``tokens``."""
    generator, vocabulary = np.random.default_rng(0), TextBatches(bundle).vocabulary
    rows = max(tokens // length, 1)
    sizes = [min(rows, batch - start) for start in range(0, batch, rows)]
    return [
        {
            INPUT_IDS: generator.integers(0, vocabulary, (size, length)),
            ATTENTION_MASK: np.ones((size, length), np.int64),
            LABELS: generator.integers(0, len(bundle.manifest.labels), size),
        }
        for size in sizes
    ]


def _main() -> None:
    folder, preset, *numbers = sys.argv[1:]
    batch, length, steps = map(int, numbers)
    print(json.dumps(asdict(measure_here(open_bundle(Path(folder)), preset, batch, length, steps))))  # noqa: T201


if __name__ == "__main__":
    _main()
