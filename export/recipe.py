"""A loaded model with what its task adds: all that the common path from model to bundle needs to know."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from export.architectures import Architecture
from ravan.bundle import Task
from ravan.inputs import Loss
from ravan.runtime.names import LOGITS


@dataclass(frozen=True)
class Example:
    """A batch as the model's forward takes it, and its labels as the loss does."""

    batch: dict[str, Tensor]
    labels: Tensor


@dataclass(frozen=True)
class Recipe:
    """How a model of one task is exported.

    Attributes:
        task: what the model is trained to do.
        model: in float32, in evaluation mode.
        architecture: which modules to adapt and to train whole unless the user says otherwise.
        axes: of every batch input, the names of its dynamic axes: "batch", and "length" for sequences.
        longest: tokens of a sequence at most, 0 if sequences have one length.
        longest_axes: the largest size of every dynamic axis but "batch", for axes of other names than "length".
        example: a random batch of so many rows and tokens (at most ``longest``).
        save: writes the model, as it then is, to a folder from which it is loaded again.
        settings: the manifest's fields that the task fixes.
        loss: of a custom model; else it follows from the logits' shape.
    """

    task: Task
    model: nn.Module
    architecture: Callable[[], Architecture]
    axes: Mapping[str, Mapping[int, str]]
    longest: int
    example: Callable[[int, int], Example]
    save: Callable[[Path], None]
    settings: Mapping[str, Any]
    longest_axes: Mapping[str, int] = field(default_factory=dict)
    loss: Loss | None = None

    @property
    def sizes(self) -> Mapping[str, int]:
        """The largest size of every dynamic axis but "batch"."""
        return self.longest_axes or ({"length": self.longest} if self.longest else {})


def logits_of(output: Any) -> Tensor:
    """The tensor that a model's loss is taken of: what it returns, or that by the name of ``logits``."""
    found: Tensor = getattr(output, LOGITS, output)
    return found
