"""Gradients are compared where they are well defined: away from the kinks of ReLUs."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from export.architectures import Architecture
from export.kinks import CANDIDATES, CLEAR_ROWS, LENGTH, ROWS, clear_example
from export.recipe import Example, Recipe
from ravan.bundle import Task


class Scaled(nn.Module):
    """Logits from the inputs' activation."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.activation(x)
        return logits


def example(rows: int, length: int, *, different: int = CANDIDATES) -> Example:
    """Rows whose last value is almost 0 in every second one, else the greater the later the row; repeated if few."""
    number = torch.arange(rows) % different
    x = torch.ones(rows, length)
    x[:, -1] = torch.where(number % 2 == 0, 0.1 + number / 1000, 1e-8 * (1 + number))
    return Example({"x": x}, number)


def recipe(model: Any, make: Callable[[int, int], Example] = example) -> Recipe:
    def save(folder: Path) -> None: ...

    return Recipe(Task.CUSTOM, model, lambda: Architecture(()), {}, 0, make, save, {})


def test_a_model_with_relus_is_compared_on_the_rows_that_keep_clear_of_their_kinks() -> None:
    chosen = clear_example(recipe(Scaled(nn.ReLU())))
    assert chosen.labels.tolist() == list(range(CANDIDATES - 2 * CLEAR_ROWS, CANDIDATES, 2))
    torch.testing.assert_close(chosen.batch["x"][:, -1], 0.1 + chosen.labels / 1000)


def test_a_row_that_is_repeated_is_taken_once() -> None:
    chosen = clear_example(recipe(Scaled(nn.ReLU()), partial(example, different=4)))
    assert chosen.labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("activation", [nn.GELU(), nn.Tanh()])
def test_a_smooth_model_is_compared_on_its_example(activation: nn.Module) -> None:
    assert clear_example(recipe(Scaled(activation))).batch["x"].shape == (ROWS, LENGTH)


def test_an_example_that_keeps_clear_stays() -> None:
    chosen = clear_example(recipe(Scaled(nn.ReLU()), partial(example, different=1)))
    assert chosen.batch["x"].shape == (ROWS, LENGTH)
