"""What federations of real processes have in common: one that ends with its test, and calls often."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A server and devices without keys, on loopback."""
    running = Fleet(tmp_path)
    yield running
    running.end()
