"""The graphs of a bundle as a set: built from one forward graph, in one kind of numbers, within one memory budget."""

import sys
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from export.prefix import Parts
from export.recompute import Budget, Report
from export.train_step import RECOMPUTED, Numbers, eval_graph, prefix_graph, train_graph
from export.weights import save_with_shared_weights
from ravan.bundle import EVAL, MICRO_BATCH, PREFIX, TRAIN
from ravan.spec import AdapterSpec


@dataclass(frozen=True)
class Graphs:
    """What a bundle's graphs are made from: the forward graph, and its two parts if a prefix is frozen."""

    forward: ir.Model
    parts: Parts | None
    spec: AdapterSpec

    def save(self, folder: Path, numbers: Numbers, budget: Budget | None) -> None:
        """Writes the graphs with their weights to ``folder``."""
        graphs = {EVAL: eval_graph(self.forward, self.spec, numbers), TRAIN: self._train(numbers, budget)}
        if self.parts is not None:
            graphs[PREFIX] = prefix_graph(self.parts.prefix, numbers)
        save_with_shared_weights(graphs, folder)

    def activations(self, tokens: int) -> int:
        """Bytes that the backward pass keeps of one sequence of so many tokens, or one image, by estimate."""
        report: Report = self._train(Numbers(), one_row(sys.maxsize, tokens)).meta[RECOMPUTED]
        return report.bytes_before

    def _train(self, numbers: Numbers, budget: Budget | None) -> ir.Model:
        return train_graph(self.parts.rest if self.parts else self.forward, self.spec, numbers, budget)


def choose_micro_batch(activations: int, tokens: int, memory: int) -> tuple[int, Budget | None]:
    """How many tokens a device computes at a time, and the budget for recomputation if not even one row fits.

    Args:
        activations: bytes of one row of a batch.
        tokens: of one row.
        memory: bytes that activations may take.
    """
    rows = min(memory // max(activations, 1), MICRO_BATCH // tokens)
    if memory >= activations:
        return max(rows, 1) * tokens, None
    return tokens, one_row(memory, tokens)


def one_row(memory: int, tokens: int) -> Budget:
    """A budget for one sequence or image."""
    return Budget(memory, {"batch": 1, "length": tokens})
