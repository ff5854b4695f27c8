"""A bundle says what runs it, and whoever has less is told what to install."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ravan.bundle import Bundle
from ravan.errors import EnvironmentProblem
from ravan.needs import UNSAID, Needs, require_onnxruntime
from ravan.runtime.session import Evaluator, Prefix, TrainStep

NEEDS = Needs("0.1.0", "1.19.2", opset=20, ir_version=10)


@pytest.mark.parametrize("installed", ["1.19.2", "1.20", "1.31.1+cpu", "1.20.0rc1", "2", "1.100.0"])
def test_the_same_or_a_newer_onnxruntime_will_do(installed: str) -> None:
    require_onnxruntime(NEEDS, installed)


@pytest.mark.parametrize("installed", ["1.19.1", "1.19", "1.9.9", "0.99.0", "1.19.0.1"])
def test_an_older_one_is_told_what_to_install(installed: str) -> None:
    with pytest.raises(EnvironmentProblem, match=rf"1\.19\.2 or newer, here is {installed}: .*'onnxruntime>=1\.19\.2'"):
        require_onnxruntime(NEEDS, installed)


def test_zeros_at_the_end_of_a_version_mean_nothing() -> None:
    require_onnxruntime(Needs("0.1.0", "1.20.0", 20, 10), "1.20")
    require_onnxruntime(Needs("0.1.0", "2.0.0", 20, 10), "2")


@pytest.mark.parametrize("field", ["ravan", "onnxruntime", "opset", "ir_version"])
def test_a_need_that_is_no_version_is_refused(field: str) -> None:
    value = {"ravan": "0.1.0", "onnxruntime": "1.19.2", "opset": 20, "ir_version": 10} | {field: "soon"}
    with pytest.raises(ValueError, match="soon"):
        Needs.from_dict(value)


@pytest.mark.parametrize("graph", [TrainStep, Evaluator, Prefix])
def test_an_older_one_is_told_before_a_graph_is_opened(
    bundle: Bundle, tmp_path: Path, graph: Callable[[Bundle], object]
) -> None:
    later = replace(bundle.manifest, needs=replace(bundle.manifest.needs, onnxruntime="77.0"))
    with pytest.raises(EnvironmentProblem, match=r"onnxruntime>=77\.0"):
        graph(Bundle(tmp_path / "no such folder", later))


def test_an_exported_bundle_says_what_it_needs(bundle: Bundle) -> None:
    assert bundle.manifest.needs == UNSAID  # nothing newer has been needed yet
