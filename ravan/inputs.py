"""What a bundle's graphs take, in words that a device can check before it runs them, and what custom models are told.

A dimension is a number, or the name of one that may differ: "batch" is the first of every input, and others ("length")
have one size within a batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

BATCH = "batch"
DTYPES = ("float32", "int64", "int32", "bool")
LEAST = 2  # of a dimension with a name; the exported graphs are not made for 1


class Loss(StrEnum):
    """What a custom model's training lowers.

    CROSS_ENTROPY: outputs are logits [batch, classes], labels int64 [batch].
    TOKEN_CROSS_ENTROPY: logits [batch, ..., classes], labels int64 [batch, ...], -100 where none counts.
    MEAN_SQUARED_ERROR: outputs and labels are float32 of one shape [batch, ...].
    """

    CROSS_ENTROPY = "cross-entropy"
    TOKEN_CROSS_ENTROPY = "token-cross-entropy"  # noqa: S105 - no password
    MEAN_SQUARED_ERROR = "mean-squared-error"

    @property
    def metrics(self) -> tuple["Metric", ...]:
        """By what rounds can be compared, the usual one first."""
        if self is Loss.MEAN_SQUARED_ERROR:
            return (Metric.LOSS,)
        return Metric.ACCURACY, Metric.PERPLEXITY, Metric.LOSS


class Metric(StrEnum):
    """By which held-out figure the best round is chosen: the highest accuracy, or the lowest perplexity or loss."""

    ACCURACY = "accuracy"
    PERPLEXITY = "perplexity"
    LOSS = "loss"


@dataclass(frozen=True)
class TensorInput:
    """One input of the graphs by name, numpy's name of its dtype, and its dimensions."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join(map(str, self.shape))}]"

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "TensorInput":
        """Reads what ``dataclasses.asdict`` made.

        Raises:
            ValueError: a dtype or dimension that no graph has.
        """
        shape = tuple(d if isinstance(d, str) else int(d) for d in value["shape"])
        if value["dtype"] not in DTYPES or not shape or min((d for d in shape if isinstance(d, int)), default=1) < 1:
            raise ValueError(f"input {value['name']} is {value['dtype']} {list(shape)}")
        return cls(str(value["name"]), str(value["dtype"]), shape)


@dataclass(frozen=True)
class CustomSettings:
    """What the manifest of a custom model adds.

    Attributes:
        loss: what training lowers.
        metric: by what rounds are compared.
        longest: largest size of each dimension with a name, "batch" left out.
    """

    loss: Loss
    metric: Metric
    longest: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "CustomSettings":
        """Reads what ``dataclasses.asdict`` made.

        Raises:
            ValueError: a loss, metric or size that makes no sense.
        """
        longest = {str(name): int(size) for name, size in value["longest"].items()}
        if min(longest.values(), default=LEAST) < LEAST:
            raise ValueError(f"longest dimensions are {longest}")
        return cls(Loss(value["loss"]), Metric(value["metric"]), longest)
