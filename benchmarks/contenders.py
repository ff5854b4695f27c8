"""Who is measured: PEFT and our own step, each in a process of its own that prints one JSON object."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.machine import Disturbance
from benchmarks.works import Kind
from ravan.bundle import Precision
from ravan.errors import RuntimeProblem
from ravan.processes import last_words

ROOT = Path(__file__).resolve().parent.parent


WITH = " with "


@dataclass(frozen=True)
class Job:
    """What a process is told to measure.

    Attributes:
        kind: how it is timed.
        model: our bundle, or a folder with a transformers model.
        data: an NPZ file of inputs as transformers takes them, or for a round a JSONL file of documents.
        rows: examples of a mini-batch.
        length: tokens of an example at most.
        steps: mini-batches measured, after one to warm up.
        way: of our presets, or of transformers' attentions, perhaps ``WITH`` dropout as the model is configured.
        lora_rank: PEFT's r.
        adapted: PEFT's target modules.
        saved: modules trained whole.
    """

    kind: Kind
    model: str
    data: str
    rows: int
    length: int
    steps: int
    way: str
    lora_rank: int = 0
    adapted: tuple[str, ...] = ()
    saved: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what ``to_json`` wrote."""
        value = json.loads(text)
        return cls(**{**value, "kind": Kind(value["kind"])})

    def to_json(self) -> str:
        """On one line."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Figures:
    """What a process measured.

    Attributes:
        seconds: median of the steps; of a round, the sum.
        peak_bytes: largest resident size of the process.
        trainable: trained parameters.
        loss: of the first mini-batch, before anything is trained.
        first_epoch_seconds: median of the steps that compute and keep the frozen prefix's results; None if not cached.
        parts: sessions run for each mini-batch, the one to warm up first.
        others: share of the cores' time that went to other processes meanwhile.
    """

    seconds: float
    peak_bytes: int
    trainable: int
    loss: float
    first_epoch_seconds: float | None = None
    parts: tuple[int, ...] = ()
    others: float = 0.0


@dataclass(frozen=True)
class Contender:
    """One process's part in a work.

    Attributes:
        name: in the report.
        module: what is run.
        job: its argument.
        reference: PEFT doing the same computation as ours, that the others are held against.
        usual: PEFT as it trains unless told otherwise, with the model's dropout.
        precision: of our frozen products; None for PEFT.
    """

    name: str
    module: str
    job: Job
    reference: bool = False
    usual: bool = False
    precision: Precision | None = None

    def measure(self) -> Figures:
        """Takes the contender's turn.

        Raises:
            RuntimeProblem: the process failed; its last words are in the message.
        """
        disturbance = Disturbance()
        seen = run_json(self.module, self.job.to_json())
        return Figures(**{**seen, "parts": tuple(seen["parts"]), "others": disturbance.share()})


def run_json(module: str, argument: str) -> Mapping[str, Any]:
    """What a module of this package prints last, from a process of its own.

    Raises:
        RuntimeProblem: the process failed; its last words are in the message.
    """
    command = [sys.executable, "-m", module, argument]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeProblem(f"{module} failed: {re.sub(r'^ravan[.]errors[.][A-Za-z]+: ', '', last_words(done))}")
    result: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
