"""The adapter spec: which layers carry heads, how many, and how their bases were drawn."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from ravan.errors import SpecError


class Init(StrEnum):
    """How the bases B_i and A_i are drawn (paper section 4.3 and its two ablations)."""

    NORMAL = "normal"
    GRAM_SCHMIDT = "gram-schmidt"
    CONSTANT = "constant"
    SHARED_SUBSPACE = "shared-subspace"


@dataclass(frozen=True)
class LayerSpec:
    """One adapted linear layer, W of shape [d_out, d_in], by its name in the model."""

    name: str
    d_in: int
    d_out: int


@dataclass(frozen=True)
class TensorSpec:
    """One tensor that is trained as it is (a new classifier head), by its name in the model."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class AdapterSpec:
    """All that fixes the trainables and their order, and the bases up to rounding.

    The trainables are one flat float32 vector: all H [layers, heads, rank, rank], then all s [layers, heads], then
    the saved tensors in order. ``ravan.layout`` gives the views.

    Raises:
        SpecError: a count is not positive, or a name stands twice.
    """

    layers: tuple[LayerSpec, ...]
    heads: int
    rank: int
    init: Init = Init.GRAM_SCHMIDT
    seed: int = 0
    saved: tuple[TensorSpec, ...] = ()

    def __post_init__(self) -> None:
        if not self.layers:
            raise SpecError("An adapter needs at least one layer: choose target modules that match a linear layer.")
        sizes = [self.heads, self.rank, *(d for layer in self.layers for d in (layer.d_in, layer.d_out))]
        sizes += [d for tensor in self.saved for d in tensor.shape]
        if min(sizes) < 1:
            raise SpecError("Heads, rank and every dimension must be at least 1: correct the adapter spec.")
        names = [*(layer.name for layer in self.layers), *(tensor.name for tensor in self.saved)]
        if len(set(names)) < len(names):
            raise SpecError("A layer or tensor stands twice in the adapter spec: name each once.")
        if not 0 <= self.seed < 2**63:
            raise SpecError(f"Seed {self.seed} is out of range: use 0 to 2^63 - 1.")

    @property
    def H_shape(self) -> tuple[int, int, int, int]:
        """[layers, heads, rank, rank]."""
        return len(self.layers), self.heads, self.rank, self.rank

    @property
    def H_size(self) -> int:
        """Number of values in all H."""
        return math.prod(self.H_shape)

    @property
    def s_size(self) -> int:
        """Number of scalars s."""
        return len(self.layers) * self.heads

    @property
    def saved_size(self) -> int:
        """Number of values in all saved tensors."""
        return sum(tensor.size for tensor in self.saved)

    @property
    def size(self) -> int:
        """Length of the flat vector of trainables."""
        return self.H_size + self.s_size + self.saved_size

    @cached_property
    def digest(self) -> str:
        """sha256 of the canonical JSON, hex: two adapters fit together when their digests are equal."""
        return hashlib.sha256(canonical_json(self.to_dict()).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "AdapterSpec":
        """Reads what ``to_dict`` wrote.

        Raises:
            SpecError: a field is missing, unknown or of the wrong type.
        """
        try:
            return cls(
                layers=tuple(LayerSpec(str(x["name"]), int(x["d_in"]), int(x["d_out"])) for x in value["layers"]),
                heads=int(value["heads"]),
                rank=int(value["rank"]),
                init=Init(value["init"]),
                seed=int(value["seed"]),
                saved=tuple(TensorSpec(str(x["name"]), tuple(map(int, x["shape"]))) for x in value["saved"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SpecError(f"The adapter spec can't be read ({error!r}): export the bundle again.") from error


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def rank_for_budget(budget: int, layers: Sequence[LayerSpec], heads: int) -> int:
    """The largest rank whose H fit in ``budget`` values: floor(sqrt(budget / (layers * heads))).

    With the budget of a LoRA of rank q on square layers this is the paper's floor(sqrt(2 q d / h)) (section 5).

    Raises:
        SpecError: the budget is too small for rank 1.
    """
    rank = math.isqrt(budget // (len(layers) * heads))
    if rank < 1:
        needed = len(layers) * heads
        raise SpecError(
            f"A budget of {budget} parameters is too small: {heads} heads in {len(layers)} layers need {needed}."
        )
    return rank
