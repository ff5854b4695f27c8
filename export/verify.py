"""Holding a bundle's graphs against torch autograd before anybody trusts them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.recipe import Example, logits_of
from ravan.bundle import EVAL, PREFIX, TRAIN
from ravan.bundle_files import top_graph
from ravan.errors import BundleError, ExportError
from ravan.heads import top_heads
from ravan.layout import Vector, trained_mask
from ravan.runtime.names import FOLLOWING, GRADIENTS, HIDDEN, IGNORED, LABELS, LOGITS, LOSS, TRAINABLES
from ravan.runtime.session import RuntimeOptions, open_session
from ravan.spec import AdapterSpec
from ravan.torch import named_trainables, read_trainables, write_trainables

Feed = dict[str, np.ndarray]
LEAST_COSINE = 0.95


@dataclass(frozen=True)
class GraphOutputs:
    """What the graphs gave for one batch: gradients flat, logits [batch, classes], of a language model what follows."""

    loss: float
    gradients: np.ndarray
    logits: np.ndarray
    eval_loss: float


@dataclass(frozen=True)
class Verification:
    """Largest differences seen between the graphs and torch.

    Attributes:
        loss: of the loss, see ``apart``.
        gradient: of any gradient, relative to the largest absolute value in its tensor.
        worst: the trainable with that gradient.
        logits: of eval.onnx's logits, see ``apart``; a language model's as values.
        outputs: what the graphs gave, for int8 to be held against.
    """

    loss: float
    gradient: float
    worst: str
    logits: float
    outputs: GraphOutputs


def verify(folder: Path, model: nn.Module, spec: AdapterSpec, example: Example, flat: Vector) -> Verification:
    """Runs the float graphs in ``folder`` and torch on the same batch at trainables, best ``perturbed`` ones."""
    start = read_trainables(model, spec)
    write_trainables(model, spec, flat)
    try:
        logits = logits_of(model(**example.batch))
        loss = torch_loss(logits, example.labels)
        parameters = named_trainables(model, spec)
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        seen = run_graphs(folder, feed_of(example, flat))
    finally:
        write_trainables(model, spec, start)
    errors = _gradient_errors(list(parameters), gradients, seen.gradients)
    worst = max(errors, key=errors.__getitem__)
    values = example.labels.is_floating_point()
    return Verification(
        loss=max(apart(value, loss.item(), values=values) for value in (seen.loss, seen.eval_loss)),
        gradient=errors[worst],
        worst=worst,
        logits=_logits_apart(seen.logits, logits.detach().numpy(), example.labels.numpy(), values=values),
        outputs=seen,
    )


def torch_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean that graphs are held against: squared error if the labels are floats, else cross entropy."""
    if labels.is_floating_point():
        return F.mse_loss(logits, labels)
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED)


def apart(seen: np.ndarray | float, expected: np.ndarray | float, *, values: bool) -> float:
    """The largest difference: absolute for logits, for ``values`` of any unit relative to the largest above 1."""
    unit = max(float(np.abs(expected).max()), 1.0) if values else 1.0
    return float(np.abs(seen - expected).max() / unit)


def int8_likeness(exact: GraphOutputs, int8: GraphOutputs, spec: AdapterSpec) -> float:
    """The cosine between the int8 graph's gradient of all H and s and the float graph's; 1 is the same direction."""
    return _cosine(exact.gradients, int8.gradients, spec)


def _cosine(exact: np.ndarray, int8: np.ndarray, spec: AdapterSpec) -> float:
    a, b = (gradients[: spec.H_size + spec.s_size].astype(np.float64) for gradients in (exact, int8))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def run_graphs(folder: Path, feed: Feed) -> GraphOutputs:
    """The graphs of a bundle's folder on one batch."""
    loss, gradients = _run(folder / TRAIN, [LOSS, GRADIENTS], with_hidden(folder, feed))
    eval_loss, logits = _run(folder / EVAL, [LOSS, LOGITS, FOLLOWING], feed)
    return GraphOutputs(float(loss), gradients, logits, float(eval_loss))


def shorter_apart(folder: Path, spec: AdapterSpec, feed: Feed, whole: GraphOutputs, tops: Sequence[int]) -> float:
    """The largest difference of the shorter training graphs' gradients to train.onnx's, relative to the largest.

    Below the last adapted layers that a graph reaches its gradients must be zeros.
    """
    feed, largest = with_hidden(folder, feed), max(float(np.abs(whole.gradients).max()), 1e-8)
    runs = ((_shorter(folder, feed, top), _only(whole, spec, top)) for top in tops)
    return max((float(np.abs(found - expected).max()) / largest for found, expected in runs), default=0.0)


def shorter_likeness(folder: Path, spec: AdapterSpec, feed: Feed, exact: GraphOutputs, tops: Sequence[int]) -> float:
    """The least cosine between a shorter int8 graph's gradient and the float one's; see ``int8_likeness``.

    Against the whole int8 graph it would say less: onnxruntime fuses the two differently, and the last bit of a sum
    decides how a value is rounded to int8.
    """
    feed = with_hidden(folder, feed)
    runs = ((_shorter(folder, feed, top), _only(exact, spec, top)) for top in tops)
    return min((_cosine(found, expected, spec) for found, expected in runs), default=1.0)


def _shorter(folder: Path, feed: Feed, top: int) -> np.ndarray:
    (gradients,) = _run(folder / top_graph(top), [GRADIENTS], feed)
    return gradients


def _only(whole: GraphOutputs, spec: AdapterSpec, top: int) -> np.ndarray:
    """The gradients, with zeros for H and s below the last ``top`` adapted layers."""
    return np.where(trained_mask(spec, top_heads(top, len(spec.layers), spec.heads)), whole.gradients, 0)


def with_hidden(folder: Path, feed: Feed) -> Feed:
    """The feed as train.onnx takes it: with what prefix.onnx, if there is one, gives."""
    if not (folder / PREFIX).exists():
        return feed
    (hidden,) = _run(folder / PREFIX, [HIDDEN], feed)
    return feed | {HIDDEN: hidden}


def feed_of(example: Example, trainables: Vector) -> Feed:
    """Everything the graphs take."""
    batch = {name: value.numpy() for name, value in example.batch.items()}
    return batch | {LABELS: example.labels.numpy(), TRAINABLES: trainables}


def _run(path: Path, outputs: list[str], feed: Feed) -> list[np.ndarray]:
    """Those of the outputs that the graph has.

    Raises:
        ExportError: onnxruntime refuses the graph.
    """
    try:
        session = open_session(path, RuntimeOptions(mapped=True))  # torch holds the weights once already
    except BundleError as error:
        raise ExportError(
            f"The model's graph is none that onnxruntime takes, replace what it names: {error}"
        ) from error
    return session.run([name for name in outputs if name in session.outputs], feed)


def require(verification: Verification, tolerance: float) -> None:
    """Raises ExportError with the worst difference if any exceeds the tolerance, or is not a number."""
    if not verification.gradient <= tolerance:
        raise ExportError(
            f"The gradient of {verification.worst} is off by {verification.gradient:.1e} of its largest value "
            f"(tolerance {tolerance:.0e}): report it with the model's name, or raise --tolerance if you accept it."
        )
    if not max(verification.loss, verification.logits) <= tolerance:
        raise ExportError(
            f"Loss and logits are off by {verification.loss:.1e} and {verification.logits:.1e} "
            f"(tolerance {tolerance:.0e}): report it with the model's name, or raise --tolerance if you accept it."
        )


def require_likeness(cosine: float) -> None:
    """Raises ExportError if the int8 gradient points elsewhere, or is not a number."""
    if not cosine >= LEAST_COSINE:
        raise ExportError(
            f"With int8 products the gradient has a cosine of {cosine:.3f} to the exact one (at least {LEAST_COSINE}): "
            "export with --precision fp32."
        )


def require_shorter(difference: float, tolerance: float) -> None:
    """Raises ExportError if a shorter training graph gives other gradients than train.onnx, or no numbers."""
    if not difference <= tolerance:
        raise ExportError(
            f"A training graph for the top layers is off by {difference:.1e} from the whole one (tolerance "
            f"{tolerance:.0e}): report it with the model's name, or raise --tolerance if you accept it."
        )


def perturbed(spec: AdapterSpec, start: Vector) -> Vector:
    """Trainables with H and s moved by normal noise, so that every gradient is at work.

    H = 0 would hide errors: there s has no gradient and B H A none either.
    """
    moved, count = start.copy(), spec.H_size + spec.s_size
    moved[:count] += 0.02 * np.random.default_rng(spec.seed).standard_normal(count, np.float32)
    return moved


def _logits_apart(seen: np.ndarray, expected: np.ndarray, labels: np.ndarray, *, values: bool) -> float:
    if seen.shape == expected.shape:
        return apart(seen, expected, values=values)
    last = labels.shape[1] - 1 - np.argmax(labels[:, ::-1] != IGNORED, axis=1)
    return apart(seen, expected[np.arange(len(labels)), last], values=True)


def _gradient_errors(names: list[str], expected: tuple[Tensor, ...], flat: np.ndarray) -> dict[str, float]:
    errors, start = {}, 0
    for name, want in zip(names, expected, strict=True):
        seen = flat[start : start + want.numel()].reshape(want.shape)
        start += want.numel()
        largest = float(want.abs().max())
        difference = float(np.abs(seen - want.numpy()).max())
        errors[name] = difference / largest if largest > 1e-8 else difference
    return errors
