"""The glibc that programs need follows from their symbols."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from release.glibc import needs

(NUMPYS,) = (Path(np.__file__).parent / "_core").glob("_multiarray_umath*.so")


def test_a_folder_needs_what_the_newest_symbol_needs(tmp_path: Path) -> None:
    shutil.copy(NUMPYS, tmp_path)
    (tmp_path / "notes.txt").write_text("not a program")
    found = needs(tmp_path)
    assert (2, 17) <= found.glibc <= (2, 28)  # what numpy's wheels are made for
    assert found.because == (NUMPYS.name,)
    assert "libc.so.6" in found.libraries
    assert any("openblas" in name for name in found.libraries)


def test_a_library_that_is_there_is_not_missed(tmp_path: Path) -> None:
    shutil.copy(NUMPYS, tmp_path)
    (blas,) = [name for name in needs(tmp_path).libraries if "openblas" in name]
    (tmp_path / blas).touch()
    assert blas not in needs(tmp_path).libraries


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_symbol_of_a_newer_glibc_raises_it(tmp_path: Path) -> None:
    shutil.copy(NUMPYS, tmp_path)
    code = "#include <math.h>\ndouble f(double x, double y) { return hypot(x, y); }\n"  # hypot has a version 2.35
    command = ["cc", "-x", "c", "-shared", "-fPIC", "-fno-builtin", "-o", str(tmp_path / "f.so"), "-", "-lm"]
    subprocess.run(command, input=code, text=True, check=True)
    assert needs(tmp_path).glibc >= (2, 35)
    assert needs(tmp_path).because == ("f.so",)


def test_the_command_names_the_version(tmp_path: Path) -> None:
    shutil.copy(NUMPYS, tmp_path)
    command = [sys.executable, "-m", "release.glibc", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"glibc {needs(tmp_path).floor}, for ")
