"""The row that a family's passing test leaves, see scripts/families_table.py."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.families.harness import Family, Figures, record


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[Family, Figures], None]:
    """Keeps a family's figures if a folder for them was given."""
    folder: Path | None = request.config.getoption("--families-report")
    return lambda family, figures: record(family, figures, folder) if folder else None
