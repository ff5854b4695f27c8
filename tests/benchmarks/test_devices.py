"""The client's figures: measured on real processes, kept as JSON, told in tables."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.devices.figures import Memory, Results, Size, Start, load, save
from benchmarks.devices.memory import now
from benchmarks.devices.page import section
from benchmarks.devices.starts import measured

HOLDER = "import sys, time; held = bytearray(int(sys.argv[1]) << 20); print(len(held), flush=True); time.sleep(60)"
PARENT = f"""
import subprocess, sys, threading
child = [sys.executable, "-c", {HOLDER!r}, "40"]
run = lambda: subprocess.run(child)
threading.Thread(target=run, daemon=True).start()
{HOLDER}
"""
SEEN = {"fp32": 2e-7, "fp32_cosine": 1.0}
RESULTS = Results(
    date="2026-01-02",
    machine="a machine",
    load=0.5,
    sizes=(Size("aarch64", 46_700_000, 130_000_000, 300, "2.36", ("lib/libstdc++.so.6",), ("libc.so.6",), SEEN),),
    starts=(Start("--help", 0.9, 0.3),),
    memory=(
        Memory("waiting", 38_000_000, 0, 30_000_000),
        Memory("in a local run", 38_000_000, 200_000_000, 90_000_000),
    ),
    work="a model",
)


def test_memory_is_that_of_a_process_and_of_what_its_threads_started() -> None:
    command = [sys.executable, "-c", PARENT, "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        held = now(process, "holding")
        os.killpg(process.pid, signal.SIGKILL)
    assert held.client > 60 << 20
    assert 40 << 20 < held.workers < 60 << 20
    assert 100 << 20 < held.anonymous < held.client + held.workers
    assert now(process, "ended").client == 0


def test_a_start_is_timed_to_its_end(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nsleep 0.02\n")
    program.chmod(0o755)
    assert os.access(program, os.X_OK)
    start = measured(program, ["--help"])
    assert 0.02 <= start.warm < 1
    assert start.command == "--help"


def test_figures_come_back_and_stand_in_the_tables(tmp_path: Path) -> None:
    save(tmp_path / "devices.json", RESULTS)
    assert load(tmp_path / "devices.json") == RESULTS
    text = section(RESULTS)
    for shown in ("46.7 MB", "2.36", "`libstdc++.so.6`", "2e-07", "not measured", "0.90 s", "38 MB", "200 MB", "none"):
        assert shown in text
