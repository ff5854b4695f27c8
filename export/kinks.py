"""ReLUs whose input rounding can't tell from 0: both slopes, 0 and 1, are right there, and correct gradients differ.

Every batch of a large model with ReLUs, such as T5, has some, and one of them moves a gradient by up to 1e-3 of its
largest value. So the graphs are held against torch on rows of a batch that keep clear of them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from export.recipe import Example, Recipe

RELUS = {F.relu, Tensor.relu, Tensor.relu_, torch.relu, torch.relu_}
ROWS, LENGTH = 5, 24
CANDIDATES, CLEAR_ROWS, CLEAR_LENGTH = 128, 10, 12
"""Short rows have fewer ReLUs to keep clear of."""
CLEAR = 1e-5
"""Of 0, relative to the root mean square of a ReLU's inputs; rounding moves them by about 1e-6."""


def clear_example(recipe: Recipe) -> Example:
    """A batch on which two correct gradients agree: the usual one, or the clearest of many short rows."""
    example = recipe.example(ROWS, LENGTH)
    if _margins(recipe, example).min() >= CLEAR:
        return example
    many = recipe.example(CANDIDATES, CLEAR_LENGTH)
    _, first = np.unique(-_margins(recipe, many), return_index=True)  # what is repeated is of no use twice
    chosen = torch.from_numpy(np.sort(first[:CLEAR_ROWS]))
    return Example({name: value[chosen] for name, value in many.batch.items()}, many.labels[chosen])


def _margins(recipe: Recipe, example: Example) -> NDArray[np.float32]:
    """How close the ReLUs of each row come to 0, [batch], relative to their inputs' root mean square."""
    with torch.no_grad(), _Watch(len(example.labels)) as watch:
        recipe.model(**example.batch)
    return np.asarray(watch.margins.numpy(), np.float32)


class _Watch(TorchFunctionMode):
    """Looks at the inputs of ReLUs that have a row for each example."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self._rows = rows
        self.margins = torch.full((rows,), torch.inf)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in RELUS and args[0].shape[0] == self._rows:
            x = args[0].detach().flatten(1)
            self.margins = torch.minimum(self.margins, x.abs().amin(1) / x.square().mean().sqrt())
        return func(*args, **(kwargs or {}))
