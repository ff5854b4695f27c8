"""How a training step may use a machine, and how much memory it takes: measured when a bundle is made."""

import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ravan.bundle import INITIAL, MICRO_BATCH, PREFIX, WEIGHTS, Bundle, Manifest, open_bundle
from ravan.errors import RuntimeProblem
from ravan.layout import Vector
from ravan.processes import last_words
from ravan.room import ORT_TRAINING, SMALL_TOKENS, least_memory, packed_copies
from ravan.runtime.examples import random_batch
from ravan.runtime.memory import mapped_part, peak_memory
from ravan.runtime.names import HIDDEN
from ravan.runtime.ort_training import OrtTrainStep
from ravan.runtime.session import Batch, Prefix, RuntimeOptions, TrainStep
from ravan.update import decode


@dataclass(frozen=True)
class Preset:
    """A way to use the machine.

    Attributes:
        runtime: threads, spinning, mapped weights.
        most_tokens: computed at a time, if the bundle does not want fewer.
    """

    runtime: RuntimeOptions
    most_tokens: int

    def micro_batch(self, bundle: Bundle) -> int:
        """Tokens computed at a time."""
        return min(self.most_tokens, bundle.manifest.micro_batch)


PRESETS = {
    "small": Preset(RuntimeOptions(threads=1, mapped=True), most_tokens=SMALL_TOKENS),
    "default": Preset(RuntimeOptions(), most_tokens=MICRO_BATCH),
    "fast": Preset(RuntimeOptions(spinning=True), most_tokens=MICRO_BATCH),
}
MEASURED = ("small",)
DEFAULT_LENGTH = 128


def footprint(folder: Path, ort_python: Path | None = None) -> dict[str, int]:
    """What a training process holds at its largest, bytes, by preset; each measured in a process of its own.

    Weights that stay mapped are left out: the system drops them when it needs the room, and reads them again. With a
    Python that has onnxruntime-training also the size of the process in which it trains, as ``ORT_TRAINING``.
    """
    measured = {preset: _measure(folder, preset) for preset in MEASURED}
    return measured if ort_python is None else measured | {ORT_TRAINING: _measure_ort(open_bundle(folder), ort_python)}


def fitting(manifest: Manifest, options: RuntimeOptions, available: int | None) -> RuntimeOptions:
    """The options, with weights left in their file where the machine has no room for packed copies of them."""
    needed = least_memory(manifest) + packed_copies(manifest)
    return options if available is None or available >= needed else replace(options, mapped=True)


def full_parts(bundle: Bundle, rows: int, length: int, tokens: int) -> list[Batch]:
    """A mini-batch of full-length noise, in parts of at most ``tokens``."""
    generator = np.random.default_rng(0)
    at_once = max(tokens // bundle.manifest.row_tokens(length), 1)
    sizes = [min(at_once, rows - start) for start in range(0, rows, at_once)]
    return [random_batch(bundle, size, length, generator) for size in sizes]


def _measure(folder: Path, preset: str) -> int:
    """Raises RuntimeProblem with the process's last words if it ends without a result."""
    command = [sys.executable, "-m", "ravan.runtime.footprint", str(folder), preset]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeProblem(
            f"The memory of preset {preset} could not be measured ({last_words(done)}): free some memory."
        )
    return int(done.stdout)


def _measure_here(bundle: Bundle, preset: Preset) -> int:
    """A step on one full micro-batch, after one on a single row, which brings all weights that are read into memory.

    The frozen prefix stays loaded meanwhile, as on a device that meets new examples.
    """
    prefix = _prefix(bundle, preset)
    start, batch = _full_micro_batch(bundle, preset, prefix)
    step = TrainStep(bundle, preset.runtime)
    step(start, {name: values[:1] for name, values in batch.items()})
    step(start, batch)
    return peak_memory() - mapped_part(bundle.path(WEIGHTS))


def _measure_ort(bundle: Bundle, python: Path) -> int:
    """The size with onnxruntime-training, which has a process of its own."""
    preset = PRESETS["default"]
    with closing(OrtTrainStep(bundle, preset.runtime, python)) as step:
        step(*_full_micro_batch(bundle, preset, _prefix(bundle, preset)))
        return step.peak_memory


def _prefix(bundle: Bundle, preset: Preset) -> Prefix | None:
    return Prefix(bundle, preset.runtime) if PREFIX in bundle.manifest.files else None


def _full_micro_batch(bundle: Bundle, preset: Preset, prefix: Prefix | None) -> tuple[Vector, Batch]:
    """The first round's trainables, and as much noise as is computed at a time."""
    manifest = bundle.manifest
    tokens = preset.micro_batch(bundle)
    length = min(manifest.max_length, tokens) or DEFAULT_LENGTH
    rows = max(tokens // manifest.row_tokens(length), 1)
    (batch,) = full_parts(bundle, rows, length, tokens)
    if prefix is not None:
        batch = {**batch, HIDDEN: prefix(batch)}
    return decode(manifest.adapter, bundle.path(INITIAL).read_bytes()).trainables(manifest.adapter), batch


if __name__ == "__main__":
    sys.stdout.write(str(_measure_here(open_bundle(Path(sys.argv[1])), PRESETS[sys.argv[2]])))
