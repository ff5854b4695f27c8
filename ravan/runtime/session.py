"""onnxruntime sessions, and what a bundle's graphs do: a training step, its frozen part alone, and an evaluation."""

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ravan.bundle import EVAL, PREFIX, TRAIN, Bundle, Manifest
from ravan.errors import BundleError, RuntimeProblem
from ravan.layout import Vector
from ravan.needs import require_onnxruntime
from ravan.runtime.checks import Arrays, check_batch, check_labels
from ravan.runtime.names import CORRECT, EXACT, GRADIENTS, HIDDEN, LABELS, LOSS, TRAINABLES, WEIGHT
from ravan.runtime.operators import check_graphs

Batch = Arrays


@dataclass(frozen=True)
class RuntimeOptions:
    """How onnxruntime uses the machine.

    Attributes:
        threads: threads for one operator, 0 for all cores.
        spinning: keep idle threads spinning between operators; faster alone, unkind to other processes.
        mapped: leave weights in the file, mapped and reclaimable, instead of packing them for speed.
    """

    threads: int = 0
    spinning: bool = False
    mapped: bool = False


class Session:
    """An onnxruntime session on the CPU.

    All sessions of a process live on one thread of their own: to flush denormals to zero is a property of a thread, and
    must not reach the numbers outside.
    """

    def __init__(self, path: Path, options: RuntimeOptions) -> None:
        self._session: ort.InferenceSession = _worker().submit(_open, path, options).result()
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    def run(self, outputs: Sequence[str], feed: Batch) -> list[Any]:
        """The outputs by name; what the graph does not take of the feed is left out.

        Raises:
            RuntimeProblem: onnxruntime fails, for example for want of memory.
        """
        taken = {name: value for name, value in feed.items() if name in self.inputs}
        try:
            return list(_worker().submit(self._session.run, list(outputs), taken).result())
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            raise RuntimeProblem(
                f"onnxruntime failed in a step ({first_line(error)}): use smaller batches or free memory."
            ) from error


def open_session(path: Path, options: RuntimeOptions | None = None) -> Session:
    """A session; the file's hash has been checked before, when the bundle was opened.

    Raises:
        BundleError: onnxruntime refuses the graph.
    """
    return Session(path, options or RuntimeOptions())


def require_runtime(manifest: Manifest) -> None:
    """Raises EnvironmentProblem, which says what to install, if this onnxruntime is older than the bundle needs."""
    require_onnxruntime(manifest.needs, ort.__version__)


def open_graph(bundle: Bundle, name: str, options: RuntimeOptions | None) -> Session:
    """A session of one of a bundle's graphs, once it is known what is in it.

    Raises:
        EnvironmentProblem: the bundle needs a newer onnxruntime.
        BundleError: the graph has operators that no bundle may have, or onnxruntime refuses it.
    """
    require_runtime(bundle.manifest)
    check_graphs(bundle, [name])
    return open_session(bundle.path(name), options)


@cache
def _worker() -> ThreadPoolExecutor:
    """The thread of all sessions."""
    return ThreadPoolExecutor(1, "onnxruntime")


def session_settings(options: RuntimeOptions) -> ort.SessionOptions:
    """The options as onnxruntime takes them."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.enable_mem_pattern = False  # its plan per shape held a third more memory and saved no time
    # The probabilities of padding tokens end among the denormals, where softmax is ten times slower on x86.
    settings.add_session_config_entry("session.set_denormal_as_zero", "1")
    settings.add_session_config_entry("session.intra_op.allow_spinning", "1" if options.spinning else "0")
    if options.mapped:
        settings.add_session_config_entry("session.disable_prepacking", "1")
    return settings


def _open(path: Path, options: RuntimeOptions) -> ort.InferenceSession:
    # Folding would keep a copy of every weight that a product reads transposed; without it the product turns W itself.
    left_out = ["ConstantFolding"] if options.mapped else []
    try:
        return ort.InferenceSession(
            str(path), session_settings(options), providers=["CPUExecutionProvider"], disabled_optimizers=left_out
        )
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        raise BundleError(
            f"onnxruntime {ort.__version__} refuses {path.name} ({first_line(error)}): export the bundle again."
        ) from error


def first_line(error: Exception) -> str:
    """What an error says, without the rest of onnxruntime's report."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


@dataclass(frozen=True)
class StepResult:
    """Mean loss over the batch, the number of examples or tokens behind it, and the gradient of every trainable."""

    loss: float
    weight: float
    gradients: Vector


class TrainStep:
    """A training graph of a bundle: gradients at given trainables for one batch.

    That is train.onnx, unless another is given whose backward pass is shorter: it gives zeros for all H and s below.
    """

    def __init__(self, bundle: Bundle, options: RuntimeOptions | None = None, graph: str = TRAIN) -> None:
        self._manifest = bundle.manifest
        self._session = open_graph(bundle, graph, options)

    def __call__(self, trainables: Vector, batch: Batch) -> StepResult:
        """One forward and backward pass; ``trainables`` and the gradients are flat, in the spec's order.

        Raises:
            DataError: the batch does not fit the graph's inputs, or its labels are out of range or none.
        """
        check_batch(self._manifest, batch, self._session.inputs)
        check_labels(self._manifest, batch)
        feed: Batch = {**batch, TRAINABLES: trainables}
        loss, weight, gradients = self._session.run([LOSS, WEIGHT, GRADIENTS], feed)
        return StepResult(float(loss), float(weight), gradients)

    @property
    def peak_memory(self) -> int:
        """Of other processes: none."""
        return 0

    def close(self) -> None:
        """Nothing to end: the session goes with the object."""


class Prefix:
    """prefix.onnx of a bundle: what no trainable changes, from the raw batch."""

    def __init__(self, bundle: Bundle, options: RuntimeOptions | None = None) -> None:
        self._manifest = bundle.manifest
        self._session = open_graph(bundle, PREFIX, options)

    def __call__(self, batch: Batch) -> NDArray[np.float32]:
        """Hidden states [batch, length, width].

        Raises:
            DataError: the batch does not fit the graph's inputs.
        """
        check_batch(self._manifest, batch, self._session.inputs)
        (hidden,) = self._session.run([HIDDEN], batch)
        return np.asarray(hidden, np.float32)


@dataclass(frozen=True)
class Evaluation:
    """Over ``examples`` examples, or labelled tokens: mean loss and the share of correct predictions.

    ``accuracy`` is not a number where no prediction is right or wrong, as in regression.
    """

    loss: float
    accuracy: float
    examples: int

    @property
    def figures(self) -> dict[str, float]:
        """What there is to tell: accuracy if it means something, else the loss."""
        return {"loss": self.loss} if math.isnan(self.accuracy) else {"accuracy": self.accuracy}

    @property
    def perplexity(self) -> float:
        """exp(loss), the usual figure for language models."""
        return float(np.exp(min(self.loss, 700.0)))


class Evaluator:
    """eval.onnx of a bundle."""

    def __init__(self, bundle: Bundle, options: RuntimeOptions | None = None) -> None:
        self._manifest = bundle.manifest
        self._session = open_graph(bundle, EVAL, options)

    def evaluate(self, trainables: Vector, batches: Iterable[Batch]) -> Evaluation:
        """Mean loss over all labels of the batches, and accuracy over them or, see ``by_example``, over examples.

        Raises:
            DataError: a batch does not fit the graph's inputs, or its labels are out of range or none.
        """
        loss = weights = correct = examples = 0.0
        by_example = self._manifest.by_example
        wanted = (LOSS, WEIGHT, EXACT if by_example else CORRECT)
        outputs = [name for name in wanted if name in self._session.outputs]
        for batch in batches:
            check_batch(self._manifest, batch, self._session.inputs)
            check_labels(self._manifest, batch)
            mean, weight, *hits = self._session.run(outputs, {**batch, TRAINABLES: trainables})
            loss, weights = loss + float(mean * weight), weights + float(weight)
            correct += float(hits[0]) if hits else math.nan
            examples += len(batch[LABELS]) if by_example else float(weight)
        if not examples:
            return Evaluation(math.nan, math.nan, 0)
        return Evaluation(loss / weights, correct / examples, int(examples))
