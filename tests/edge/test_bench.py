"""The bench measures the real step, each preset in a process of its own."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge.bench import measure
from edge.cli import app
from ravan.bundle import Bundle
from ravan.errors import RuntimeProblem
from ravan.runtime.footprint import PRESETS, full_parts
from ravan.runtime.memory import peak_memory
from ravan.runtime.names import INPUT_IDS, LABELS


def test_a_preset_is_measured_in_its_own_process(bundle: Bundle) -> None:
    seen = measure(bundle.folder, "small", batch=4, length=8, steps=2)
    assert seen.step_seconds > 0
    assert seen.tokens_per_second == pytest.approx(4 * 8 / seen.step_seconds)
    assert seen.loaded_memory_bytes <= seen.peak_memory_bytes < peak_memory()  # this process holds torch


def test_every_preset_is_shown_as_json(bundle: Bundle) -> None:
    arguments = ["bench", str(bundle.folder), "--batch", "2", "--length", "999", "--steps", "1", "--format", "json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert [row["preset"] for row in json.loads(done.stdout)] == list(PRESETS)


def test_the_parts_hold_the_whole_batch(bundle: Bundle) -> None:
    parts = full_parts(bundle, rows=7, length=8, tokens=16)
    assert [part[INPUT_IDS].shape for part in parts] == [(2, 8)] * 3 + [(1, 8)]


def test_a_source_and_its_target_count_together(t5_bundle: Bundle) -> None:
    parts = full_parts(t5_bundle, rows=5, length=8, tokens=32)
    assert [(part[INPUT_IDS].shape, part[LABELS].shape) for part in parts] == [((2, 8), (2, 8))] * 2 + [
        ((1, 8), (1, 8))
    ]
    seen = measure(t5_bundle.folder, "small", batch=4, length=8, steps=1)
    assert seen.tokens_per_second == pytest.approx(4 * (8 + 8) / seen.step_seconds)


def test_a_measurement_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeProblem, match="no training bundle"):
        measure(tmp_path, "small", batch=2, length=8, steps=1)
