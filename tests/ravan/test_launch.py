"""A program whose packages are not all installed says which extra to install."""

import subprocess

import pytest

from tests.e2e.processes import edge_python


def launched(program: str, *arguments: str, before: str = "pass") -> subprocess.CompletedProcess[str]:
    """The console script in the edge environment."""
    code = f"import sys; {before}; sys.argv = ['{program}', *sys.argv[1:]]; from ravan.cli.launch import {program}; "
    command = [edge_python(), "-c", f"{code}{program}()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


def test_an_export_without_torch_names_it() -> None:
    done = launched("export", "causal-lm", "model", "--rank", "1", "--out", "/nowhere/bundle")
    sentence = "error: ravan-export needs torch, which is not installed: pip install 'ravan-fl[export]'.\n"
    assert (done.returncode, done.stderr, done.stdout) == (5, sentence, "")


@pytest.mark.parametrize("program", ["edge", "export", "server"])
def test_a_bare_installation_names_the_extra(program: str) -> None:
    done = launched(program, "--help", before="sys.modules['typer'] = None")
    assert (done.returncode, done.stdout) == (5, "")
    assert (
        done.stderr
        == f"error: ravan-{program} needs typer, which is not installed: pip install 'ravan-fl[{program}]'.\n"
    )


def test_the_programs_start() -> None:
    for program in ("edge", "export"):
        done = launched(program, "--help")
        assert done.returncode == 0
        assert "Usage" in done.stdout


def test_a_missing_module_of_ours_is_a_defect() -> None:
    done = launched("edge", "--help", before="sys.modules['edge.guest'] = None")
    assert "Traceback" in done.stderr
    assert done.returncode == 1
