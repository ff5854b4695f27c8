"""The graphs of a bundle as a set: built from one forward graph, in one kind of numbers, within one memory budget."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from export.autodiff.backward import dims
from export.prefix import Parts
from export.recompute import Budget, Report
from export.train_step import RECOMPUTED, Numbers, eval_graph, prefix_graph, train_graph
from export.weights import save_with_shared_weights
from ravan.bundle import EVAL, MICRO_BATCH, PREFIX, TRAIN
from ravan.bundle_files import top_graph
from ravan.inputs import BATCH, Loss, TensorInput
from ravan.runtime.names import LABELS, TRAINABLES
from ravan.spec import AdapterSpec
from ravan.spread import heads_for_budget
from ravan.strength import BUDGETS


@dataclass(frozen=True)
class Graphs:
    """What a bundle's graphs are made from.

    Attributes:
        forward: the forward graph.
        parts: the two parts of it if a prefix is frozen.
        spec: the adapter spec.
        loss: of a custom model.
    """

    forward: ir.Model
    parts: Parts | None
    spec: AdapterSpec
    loss: Loss | None = None

    def save(self, folder: Path, numbers: Numbers, budget: Budget | None) -> None:
        """Writes the graphs with their weights to ``folder``."""
        graphs = {EVAL: self._eval(numbers), TRAIN: self._train(numbers, budget)}
        graphs |= {top_graph(top): self._train(numbers, budget, top) for top in self.tops}
        if self.parts is not None:
            graphs[PREFIX] = prefix_graph(self.parts.prefix, numbers)
        save_with_shared_weights(graphs, folder)

    def activations(self, sizes: Mapping[str, int]) -> int:
        """Bytes that the backward pass keeps of one row of a batch at its largest ``sizes``, by estimate."""
        report: Report = self._train(Numbers(), one_row(sys.maxsize, sizes)).meta[RECOMPUTED]
        return report.bytes_before

    def inputs(self) -> tuple[TensorInput, ...]:
        """What the graphs take beside the trainables, the labels last."""
        values = [value for value in self._eval(Numbers()).graph.inputs if value.name != TRAINABLES]
        return tuple(_described(value) for value in sorted(values, key=lambda value: value.name == LABELS))

    def _eval(self, numbers: Numbers) -> ir.Model:
        return eval_graph(self.forward, self.spec, numbers, self.loss)

    @property
    def tops(self) -> list[int]:
        """How many of the last adapted layers the shorter graphs reach, one for each budget, in falling order."""
        layers = len(self.spec.layers)
        found = {heads_for_budget(fraction, layers) for fraction in BUDGETS}
        return sorted(found - {layers}, reverse=True)

    def _train(self, numbers: Numbers, budget: Budget | None, top: int | None = None) -> ir.Model:
        return train_graph(self.trained, self.spec, numbers, budget, self.loss, top)

    @property
    def trained(self) -> ir.Model:
        """The forward graph without what train.onnx leaves to a frozen prefix."""
        return self.parts.rest if self.parts else self.forward


def choose_micro_batch(
    activations: int, tokens: int, memory: int, sizes: Mapping[str, int]
) -> tuple[int, Budget | None]:
    """How many tokens a device computes at a time, and the budget for recomputation if not even one row fits.

    Args:
        activations: bytes of one row of a batch.
        tokens: of one row.
        memory: bytes that activations may take.
        sizes: of one row's dynamic axes.
    """
    rows = min(memory // max(activations, 1), MICRO_BATCH // tokens)
    if memory >= activations:
        return max(rows, 1) * tokens, None
    return tokens, one_row(memory, sizes)


def one_row(memory: int, sizes: Mapping[str, int]) -> Budget:
    """A budget for one sequence, image or other example."""
    return Budget(memory, {**sizes, BATCH: 1})


def _described(value: ir.Value) -> TensorInput:
    assert value.dtype is not None
    return TensorInput(
        str(value.name), value.dtype.numpy().name, tuple(d if isinstance(d, int) else str(d) for d in dims(value))
    )
