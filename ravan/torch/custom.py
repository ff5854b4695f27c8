"""What a user says of a torch module of their own, so that it can become a training bundle."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from ravan.inputs import Loss, Metric


@dataclass(frozen=True, kw_only=True)
class CustomModel:
    """What the factory given to ``ravan-export custom`` returns.

    Attributes:
        module: in float32; called with the batch's inputs by name, it returns one tensor (or an object with
            ``logits``), [rows, classes] for cross entropy, [rows, ..., classes] for that of tokens, any [rows, ...] for
            mean squared error. A row's output must not depend on other rows. It is exported in evaluation mode.
        batch: an example batch of two rows or more by input name; float32, int64, int32 or bool, rows first.
        loss: "cross-entropy" (one label an example), "token-cross-entropy" or "mean-squared-error".
        metric: by what rounds are compared: "accuracy", "perplexity" or "loss"; by default the loss's usual one.
        dynamic: of an input, the axes that may differ between batches by names of your choice: {"x": {1: "time"}}; the
            rows, axis 0, always may. Equal names mean equal sizes.
        longest: the largest size of such an axis; that of the example by default.
        targets: linear layers to adapt, by name or pattern; all that are not trained whole by default.
        saved: modules to train whole; by default the last linear layer if ``targets`` is left out, else none.
        label_names: in the order of the classes; their numbers by default.
    """

    module: nn.Module
    batch: Mapping[str, Tensor]
    loss: Loss | str = Loss.CROSS_ENTROPY
    metric: Metric | str | None = None
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    longest: Mapping[str, int] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    saved: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()
