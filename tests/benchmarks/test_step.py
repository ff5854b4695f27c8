"""The benchmark measures what it says: like work on both sides, ratios within a round, and products as counted."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.contenders import Contender, Job, run_json
from benchmarks.data import Rows, read_noise, write_noise
from benchmarks.gemm import int8_graph
from benchmarks.graph import Group
from benchmarks.machine import Disturbance, this_machine
from benchmarks.models import config_of, task_of
from benchmarks.our_side import measure
from benchmarks.prepare import ours, peft
from benchmarks.profile_step import profiled
from benchmarks.report import Results, step_section, write_section
from benchmarks.rows import Row, summary, take_turns
from benchmarks.works import Kind, Target, Work
from ravan.bundle import SOURCE, TRAIN, Bundle, Precision, Task
from ravan.errors import EnvironmentProblem, RuntimeProblem
from ravan.runtime.names import DECODER_INPUT_IDS, IGNORED, INPUT_IDS, LABELS
from ravan.runtime.session import open_session
from tests.conftest import sentences, write_rows

WORK = Work("tiny", "A tiny BERT", "", 2, 16, targets={Precision.FP32: Target(1e9, 1e9)})


@pytest.fixture(scope="module")
def job(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Job:
    config = config_of(bundle.folder / SOURCE)
    data = write_noise(tmp_path_factory.mktemp("noise") / "noise.npz", WORK, 1, task_of(config), config)
    return Job(Kind.STEP, str(bundle.folder), str(data), WORK.rows, WORK.length, steps=2, way="fast")


@pytest.fixture(scope="module")
def rows(bundle: Bundle, job: Job) -> list[Row]:
    """Real turns, our own slowest preset in PEFT's place."""
    standing_in = Contender("PEFT", "benchmarks.our_side", replace(job, way="small"), reference=True)
    contenders = [standing_in, *ours(job, {Precision.FP32: bundle.folder})]
    return summary(WORK, contenders, take_turns(contenders, 2, lambda text: None))


def test_ratios_are_formed_within_a_round(rows: list[Row]) -> None:
    reference, fast, default = rows
    assert (reference.speed, reference.memory) == (1.0, 1.0)
    for row in (fast, default):
        ratios = [theirs / own for theirs, own in zip(reference.turns, row.turns, strict=True)]
        assert row.speed == pytest.approx(np.median(ratios))
        assert row.seconds == pytest.approx(np.median(row.turns))
        assert row.memory == pytest.approx(row.peak_mib / reference.peak_mib, rel=0.05)
    assert fast.target == WORK.targets[Precision.FP32]
    assert default.target == reference.target == Target()


def test_the_report_stands_between_its_markers(rows: list[Row], tmp_path: Path) -> None:
    document = tmp_path / "BENCHMARKS.md"
    document.write_text("before\n<!-- begin step -->\nold\n<!-- end step -->\nafter\n", "utf-8")
    results = Results(this_machine(), 2, 2, tuple(rows), (), {WORK.name: ("int8: refused",)})
    for _ in range(2):
        write_section(document, "step", step_section(results, [WORK]))
    text = document.read_text("utf-8")
    assert text.startswith("before\n<!-- begin step -->\n")
    assert text.endswith("\n<!-- end step -->\nafter\n")
    assert "old" not in text
    assert text.count("| fp32 fast |") == 1
    assert "1000000000.0 not met" in text  # the speed
    assert "1000000000.0 met" in text  # the memory
    assert "Not measured: int8: refused" in text
    with pytest.raises(EnvironmentProblem, match="no section"):
        write_section(document, "another", "")


def test_a_disturbed_turn_is_noticed() -> None:
    disturbance = Disturbance()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:  # ours, but not waited for yet
        time.sleep(0.5)
        share = disturbance.share()
        other.kill()
    assert share > 0.5 / (os.cpu_count() or 1) / 2


def test_a_process_that_fails_says_why(job: Job, tmp_path: Path) -> None:
    broken = Contender("fp32 fast", "benchmarks.our_side", replace(job, model=str(tmp_path)))
    with pytest.raises(RuntimeProblem, match="no training bundle"):
        broken.measure()


def test_products_are_counted_by_what_they_are_for(job: Job) -> None:
    seen = run_json("benchmarks.profile_step", job.to_json())
    assert sum(seen["shares"].values()) == pytest.approx(1)
    counted = {group: sum(kinds.values()) for group, kinds in seen["multiply_adds"].items()}
    rows, length, width, inner = 2, 16, 32, 64
    # two products in each of two layers, and four in the way back but for the lowest layer's keys, which end in nothing
    assert counted[Group.ATTENTION] == 11 * rows * length * length * width
    # keys, output and feed-forward; on the way back not below the lowest keys and values
    frozen = rows * length * (2 * width * width + 2 * width * inner)
    assert counted[Group.FROZEN] == 4 * frozen - rows * length * width * width
    assert seen["weights"][0] in ([width, inner], [inner, width])


def test_the_peak_is_measured_with_one_8_bit_kernel(tmp_path: Path) -> None:
    onnx.save(int8_graph(64, 32), tmp_path / TRAIN)
    with profiled(tmp_path):
        open_session(tmp_path / TRAIN)
    optimized = onnx.load(tmp_path / "optimized.onnx", load_external_data=False)
    assert "DynamicQuantizeMatMul" in {node.op_type for node in optimized.graph.node}


def test_a_language_model_learns_the_next_tokens() -> None:
    ids = np.arange(8).reshape(2, 4)
    rows = Rows.of({INPUT_IDS: ids, LABELS: ids}, Task.CAUSAL_LM, 4)
    assert rows.batch([1])[LABELS].tolist() == [[5, 6, 7, IGNORED]]


def test_a_decoder_reads_the_labels_one_place_later(t5_bundle: Bundle, tmp_path: Path) -> None:
    config = config_of(t5_bundle.folder / SOURCE)
    assert task_of(config) is Task.SEQ2SEQ
    noise = read_noise(write_noise(tmp_path / "noise.npz", WORK, 1, Task.SEQ2SEQ, config))
    np.testing.assert_array_equal(noise[DECODER_INPUT_IDS][:, 1:], noise[LABELS][:, :-1])
    assert (noise[DECODER_INPUT_IDS][:, 0] == config["decoder_start_token_id"]).all()


@pytest.mark.parametrize("kind", [Kind.STEP, pytest.param(Kind.ROUND, marks=pytest.mark.kin)])
def test_both_sides_begin_with_the_same_loss(kind: Kind, bundle: Bundle, job: Job, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="make bench-step installs it")
    if kind is Kind.ROUND:
        job = replace(job, kind=kind, data=str(write_rows(tmp_path / "data.jsonl", sentences(6, seed=0))))
    own, contenders = measure(job), peft(job, bundle.folder / SOURCE, bundle.manifest.adapter)
    for contender in contenders if kind is Kind.STEP else contenders[::2]:  # one without dropout, one with it
        theirs = contender.measure()
        if contender.reference:  # without dropout
            assert theirs.loss == pytest.approx(own.loss, rel=1e-4)
        else:
            assert contender.usual
        assert theirs.trainable == pytest.approx(own.trainable, rel=0.1)
        assert theirs.seconds > 0 < own.seconds
