"""What is measured: the works, their sizes, and the targets that were set before anything was measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from ravan.bundle import Precision

HEADS, RANK = 4, 39  # about the trainables of LoRA r = 8 on layers as wide as all-MiniLM-L6-v2's
LOCAL_STEPS = 20  # mini-batches of a local round


class Kind(StrEnum):
    """How a work is timed.

    A step is one mini-batch, optimizer included; cached, it starts from the frozen prefix's hidden states, read from
    the device's disk. A round is ``LOCAL_STEPS`` mini-batches of documents, batches formed on the way.
    """

    STEP = "step"
    CACHED = "cached"
    ROUND = "round"


@dataclass(frozen=True)
class Target:
    """What was aimed at: times as fast as PEFT, and the share of its peak memory; None where nothing was set."""

    speed: float | None = None
    memory: float | None = None


@dataclass(frozen=True)
class Work:
    """One comparison.

    Attributes:
        name: on the command line.
        title: in the report.
        model: one of ``benchmarks.models.MODELS``, or a folder with a transformers model.
        rows: examples of a mini-batch.
        length: tokens of an example, the longest for documents; images have their own.
        kind: how it is timed.
        top_layers: our side adapts only so many layers; PEFT adapts all.
        targets: by the precision of our frozen products.
    """

    name: str
    title: str
    model: str
    rows: int
    length: int = 128
    kind: Kind = Kind.STEP
    top_layers: int | None = None
    targets: Mapping[Precision, Target] = field(default_factory=dict)

    def quick(self) -> "Work":
        """So small that it only shows whether everything runs."""
        return replace(self, title=f"No figures, 2 examples of 16 tokens: {self.title}", rows=2, length=16)


WORKS = (
    Work(
        "text-32",
        "all-MiniLM-L6-v2, 20 classes, 32 x 128 tokens, every layer adapted",
        "minilm",
        32,
        targets={Precision.INT8: Target(1.8, 0.4), Precision.FP32: Target(1.2, 0.6)},
    ),
    Work(
        "text-8",
        "all-MiniLM-L6-v2, 20 classes, 8 x 128 tokens, every layer adapted",
        "minilm",
        8,
        targets={Precision.INT8: Target(1.8, 0.45), Precision.FP32: Target(1.2)},
    ),
    Work(
        "top",
        "all-MiniLM-L6-v2, 20 classes, 32 x 128 tokens, the top 3 of 6 layers adapted, the lower ones' results cached "
        "(PEFT: LoRA in every layer)",
        "minilm",
        32,
        kind=Kind.CACHED,
        top_layers=3,
        targets={Precision.INT8: Target(3.5, 0.4)},
    ),
    Work(
        "round",
        f"A local round of {LOCAL_STEPS} mini-batches of 16 documents of 20 Newsgroups at their own lengths, at most "
        "128 tokens, all-MiniLM-L6-v2, every layer adapted",
        "minilm",
        16,
        kind=Kind.ROUND,
        targets={Precision.INT8: Target(2.2, 0.4)},
    ),
    Work(
        "language",
        "SmolLM2-135M, next-token loss, 4 x 128 tokens, every layer adapted",
        "smollm2",
        4,
        targets={Precision.INT8: Target(2.5, 0.4)},
    ),
    Work(
        "image",
        "ViT, 12 layers, 192 wide, 3 heads, 224 x 224 pixels, patches of 16, random weights, 16 images, every layer "
        "adapted",
        "vit",
        16,
        targets={Precision.INT8: Target(1.5, 0.4)},
    ),
)
