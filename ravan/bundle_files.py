"""The files of a bundle by size and sha256."""

import hashlib
import re
import string
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ravan.errors import BundleError

MANIFEST = "manifest.json"
TRAINING_MODEL, CHECKPOINT = "ort/training_model.onnx", "ort/checkpoint"
EVAL_MODEL, OPTIMIZER_MODEL = "ort/eval_model.onnx", "ort/optimizer_model.onnx"
ARTIFACTS = (TRAINING_MODEL, EVAL_MODEL, OPTIMIZER_MODEL, CHECKPOINT)
"""The official ONNX Runtime training artifacts."""
TOP_GRAPH = re.compile(r"train-top-([1-9][0-9]{0,5})\.onnx")
_CHUNK = 1 << 20


class _Optional(Container[str]):
    """What only some devices download: artifacts, and training graphs for heads in the top layers alone."""

    def __contains__(self, name: object) -> bool:
        return name in ARTIFACTS or TOP_GRAPH.fullmatch(str(name)) is not None


OPTIONAL = _Optional()


def top_graph(layers: int) -> str:
    """The training graph whose backward pass ends below so many of the last adapted layers."""
    return f"train-top-{layers}.onnx"


def shortest_graph(files: Iterable[str], layers: int) -> str | None:
    """Of a bundle's training graphs the one with the shortest backward pass that reaches so many of the last layers.

    None if that is train.onnx, which reaches all.
    """
    found = (TOP_GRAPH.fullmatch(name) for name in files)
    reaching = [int(match[1]) for match in found if match and int(match[1]) >= layers]
    return top_graph(min(reaching)) if reaching else None


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and sha256 (hex) of one file of the bundle."""

    size: int
    sha256: str


def read_entries(value: Mapping[str, Any]) -> dict[str, FileEntry]:
    """The entries of a manifest.

    Raises:
        BundleError: a path leaves the bundle, or an entry is not a size and a sha256.
    """
    entries = {str(k): FileEntry(int(v["size"]), str(v["sha256"])) for k, v in value.items()}
    for name, entry in entries.items():
        path = PurePosixPath(name)
        name.encode()  # a lone surrogate is a ValueError here rather than at the first open
        if path.is_absolute() or ".." in path.parts or set(name) & set("\\\0") or name in ("", ".", MANIFEST):
            raise BundleError(f"The manifest names a file outside the bundle ({name!r}): do not use this bundle.")
        if entry.size < 0 or len(entry.sha256) != 64 or not set(entry.sha256) <= set(string.hexdigits.lower()):
            raise BundleError(f"The manifest's entry for {name} is not a size and a sha256: export the bundle again.")
    return entries


def describe_file(path: Path) -> FileEntry:
    """Size and sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return FileEntry(path.stat().st_size, digest.hexdigest())


def check_file(folder: Path, name: str, entry: FileEntry) -> None:
    """Checks one file of a bundle against its entry.

    Raises:
        BundleError: the file is missing or was changed.
    """
    path = folder / name
    if not path.is_file():
        raise BundleError(f"{name} is missing from the bundle {folder}: fetch or export it again.")
    if path.stat().st_size != entry.size or describe_file(path).sha256 != entry.sha256:
        raise BundleError(f"{name} in the bundle {folder} was changed or cut short: fetch or export it again.")
