"""Short versions of what ``make reliability`` does at length, and how it keeps and shows what came out."""

from pathlib import Path

import pytest

from benchmarks.reliability import bound, once
from benchmarks.reliability.figures import Figure, Measurement, load, save
from benchmarks.reliability.page import page
from benchmarks.reliability.promises import PROMISES
from benchmarks.reliability.weather import AWAY, SERVED, Scene, machine
from ravan.spec import AdapterSpec, LayerSpec

MEGABYTE = AdapterSpec(tuple(LayerSpec(f"layer-{number}", 384, 384) for number in range(4)), heads=4, rank=128)


@pytest.mark.timeout(300)
def test_copies_rivals_and_broken_uploads_at_once_count_once(tmp_path: Path) -> None:
    blown, counted = once.storm(tmp_path / "storm", rounds=2, each=30)
    assert blown.measured.startswith("480: ")
    assert counted.met, counted.measured


@pytest.mark.timeout(300)
def test_transfers_come_through_a_line_that_is_cut_again_and_again(tmp_path: Path) -> None:
    *cut, same = once.transfers(tmp_path / "transfers", MEGABYTE, every=400 << 10)
    assert [figure.measured.startswith("0 cuts") for figure in cut] == [False] * 3
    assert same.met


@pytest.mark.timeout(300)
def test_whatever_is_bound_to_something_else_has_its_code_and_its_counter(tmp_path: Path) -> None:
    for figure in bound.figures(tmp_path):
        assert figure.met, figure


@pytest.mark.timeout(300)
def test_a_server_whose_disk_fails_says_so_and_goes_on_when_it_is_mended(tmp_path: Path) -> None:
    scene = Scene(tmp_path).play(machine(fsync="EIO"))
    assert scene.heard == [AWAY, SERVED]
    assert scene.problems == []


def test_figures_are_kept_and_shown(tmp_path: Path) -> None:
    assert load(tmp_path / "none.json") == {}
    good, bad = Figure(1, "a | b", "none", "0", met=True), Figure(1, "c", "none", "1", met=False)
    module = PROMISES[0].modules[0]
    save(tmp_path / "results.json", [Measurement(module, "2026-01-02", 3.5, "a machine", (good, bad))])
    shown = page(load(tmp_path / "results.json"))
    assert "| a / b | none | 0 | met |\n| c | none | 1 | **not met** |" in shown
    assert shown.count("Not measured.") == len(PROMISES) - 1


def test_every_module_of_a_promise_is_there() -> None:
    folder = Path(once.__file__).parent
    named = {module for promise in PROMISES for module in promise.modules}
    assert all((folder / f"{module}.py").is_file() for module in named)
