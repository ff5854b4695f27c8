"""A user's own code, found by its name."""

import os
import sys
from pathlib import Path

import pytest

from ravan.plugins import load_object


def test_a_file_that_was_changed_within_the_same_second_is_loaded_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "model.py"
    for value in (1, 2):
        path.write_text(f"value = {value}\n")
        os.utime(path, (1e9, 1e9))
        assert load_object(f"{path}:value") == value
    assert not (tmp_path / "__pycache__").exists()
