"""What a session makes once for all of its workers: models and bundles, which take seconds each."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from ravan.files import new_folder


def once(folders: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The session's folder of this name, to be read only: ``make`` fills it in the worker that comes first."""
    base = folders.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    shared.mkdir(exist_ok=True)
    with FileLock(shared / f"{name}.lock"):
        if not (shared / name).exists():
            with new_folder(shared / name) as made:
                make(made)
    return shared / name
