"""Held-out accuracy by round as a picture."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt


def plot_accuracy(path: Path, rounds: Sequence[int], accuracy: Sequence[float], title: str) -> None:
    """Writes a PNG; accuracy as fractions."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    axes.plot(rounds, [100 * value for value in accuracy], marker="o", color="#2b6cb0")
    axes.set(xlabel="round", ylabel="held-out accuracy, %", title=title, ylim=(0, 100), xticks=list(rounds))
    axes.grid(visible=True, alpha=0.3)
    for x, y in zip(rounds, accuracy, strict=True):
        axes.annotate(
            f"{100 * y:.0f}", (x, 100 * y), textcoords="offset points", xytext=(0, 7), ha="center", fontsize=8
        )
    figure.savefig(path, dpi=130)
    plt.close(figure)
