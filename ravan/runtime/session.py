"""onnxruntime sessions, and the two things a bundle's graphs do: a training step and an evaluation."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from ravan.bundle import EVAL, TRAIN, Bundle
from ravan.errors import BundleError, RuntimeProblem
from ravan.layout import Vector
from ravan.runtime.names import CORRECT, GRADIENTS, LOSS, TRAINABLES, WEIGHT

Batch = Mapping[str, NDArray[Any]]
"""Input name to array; all have the batch as their first axis."""


@dataclass(frozen=True)
class RuntimeOptions:
    """How onnxruntime uses the machine.

    Attributes:
        threads: threads for one operator, 0 for all cores.
        spinning: keep idle threads spinning between operators; faster alone, unkind to other processes.
    """

    threads: int = 0
    spinning: bool = False


def open_session(path: Path, options: RuntimeOptions | None = None) -> ort.InferenceSession:
    """A CPU session; the file's hash has been checked before, when the bundle was opened.

    Raises:
        BundleError: onnxruntime refuses the graph.
    """
    options = options or RuntimeOptions()
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.enable_mem_pattern = False  # its plan per shape held a third more memory and saved no time
    # The probabilities of padding tokens end among the denormals, where softmax is ten times slower on x86.
    settings.add_session_config_entry("session.set_denormal_as_zero", "1")
    settings.add_session_config_entry("session.intra_op.allow_spinning", "1" if options.spinning else "0")
    try:
        return ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        raise BundleError(
            f"onnxruntime {ort.__version__} refuses {path.name} ({_first_line(error)}): export the bundle again."
        ) from error


def run_session(session: ort.InferenceSession, outputs: list[str], feed: Batch) -> list[Any]:
    """The outputs by name.

    Raises:
        RuntimeProblem: onnxruntime fails, for example for want of memory.
    """
    try:
        return list(session.run(outputs, dict(feed)))
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        raise RuntimeProblem(
            f"onnxruntime failed in a step ({_first_line(error)}): use smaller batches or free memory."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


@dataclass(frozen=True)
class StepResult:
    """Mean loss over the batch, the number of examples behind it, and the gradient of every trainable."""

    loss: float
    weight: float
    gradients: Vector


class TrainStep:
    """train.onnx of a bundle: gradients at given trainables for one batch."""

    def __init__(self, bundle: Bundle, options: RuntimeOptions | None = None) -> None:
        self._session = open_session(bundle.path(TRAIN), options)

    def __call__(self, trainables: Vector, batch: Batch) -> StepResult:
        """One forward and backward pass; ``trainables`` and the gradients are flat, in the spec's order."""
        feed: Batch = {**batch, TRAINABLES: trainables}
        loss, weight, gradients = run_session(self._session, [LOSS, WEIGHT, GRADIENTS], feed)
        return StepResult(float(loss), float(weight), gradients)


@dataclass(frozen=True)
class Evaluation:
    """Over ``examples`` examples: mean loss and the share of correct predictions."""

    loss: float
    accuracy: float
    examples: int


class Evaluator:
    """eval.onnx of a bundle."""

    def __init__(self, bundle: Bundle, options: RuntimeOptions | None = None) -> None:
        self._session = open_session(bundle.path(EVAL), options)

    def evaluate(self, trainables: Vector, batches: Iterable[Batch]) -> Evaluation:
        """Mean loss and accuracy over all examples of the batches."""
        loss = correct = examples = 0.0
        for batch in batches:
            feed: Batch = {**batch, TRAINABLES: trainables}
            mean, weight, hits = run_session(self._session, [LOSS, WEIGHT, CORRECT], feed)
            loss, correct, examples = loss + float(mean * weight), correct + float(hits), examples + float(weight)
        if not examples:
            return Evaluation(float("nan"), float("nan"), 0)
        return Evaluation(loss / examples, correct / examples, int(examples))
