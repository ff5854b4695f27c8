"""Holding a bundle's graphs against torch autograd before anybody trusts them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ravan.errors import ExportError
from ravan.layout import Vector
from ravan.runtime.names import GRADIENTS, LABELS, LOGITS, LOSS, TRAINABLES
from ravan.runtime.session import open_session
from ravan.spec import AdapterSpec
from ravan.torch import named_trainables, read_trainables, write_trainables

Feed = dict[str, np.ndarray]


@dataclass(frozen=True)
class Verification:
    """Largest differences seen between the graphs and torch.

    Attributes:
        loss: of the loss, absolute.
        gradient: of any gradient, relative to the largest absolute value in its tensor.
        worst: the trainable with that gradient.
        logits: of eval.onnx's logits, absolute.
    """

    loss: float
    gradient: float
    worst: str
    logits: float


def verify(
    train: Path, evaluate: Path, model: nn.Module, spec: AdapterSpec, batch: Mapping[str, Tensor], labels: Tensor
) -> Verification:
    """Runs both graphs and torch on the same batch, at trainables moved away from their start.

    H = 0 would hide errors: there s has no gradient and B H A none either, so H and s are perturbed first.
    """
    start = read_trainables(model, spec)
    write_trainables(model, spec, perturbed(spec, start))
    try:
        expected = model(**batch)
        logits: Tensor = expected.logits if hasattr(expected, LOGITS) else expected
        loss = F.cross_entropy(logits, labels)
        parameters = named_trainables(model, spec)
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        feed: Feed = {name: value.numpy() for name, value in batch.items()}
        feed |= {LABELS: labels.numpy(), TRAINABLES: read_trainables(model, spec)}
        step = dict(zip((LOSS, GRADIENTS), open_session(train).run([LOSS, GRADIENTS], feed), strict=True))
        seen_logits, seen_loss = open_session(evaluate).run([LOGITS, LOSS], feed)
    finally:
        write_trainables(model, spec, start)
    errors = _gradient_errors(list(parameters), gradients, step[GRADIENTS])
    worst = max(errors, key=errors.__getitem__)
    return Verification(
        loss=max(abs(float(step[LOSS]) - loss.item()), abs(float(seen_loss) - loss.item())),
        gradient=errors[worst],
        worst=worst,
        logits=float(np.abs(seen_logits - logits.detach().numpy()).max()),
    )


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


def perturbed(spec: AdapterSpec, start: Vector) -> Vector:
    """Trainables with H and s moved by normal noise, so that every gradient is at work."""
    moved, count = start.copy(), spec.H_size + spec.s_size
    moved[:count] += 0.02 * np.random.default_rng(spec.seed).standard_normal(count, np.float32)
    return moved


def _gradient_errors(names: list[str], expected: tuple[Tensor, ...], flat: np.ndarray) -> dict[str, float]:
    errors, start = {}, 0
    for name, want in zip(names, expected, strict=True):
        seen = flat[start : start + want.numel()].reshape(want.shape)
        start += want.numel()
        largest = float(want.abs().max())
        difference = float(np.abs(seen - want.numpy()).max())
        errors[name] = difference / largest if largest > 1e-8 else difference
    return errors
