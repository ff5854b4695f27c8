"""What ``make test-matrix`` does with many environments, done with the two that ``make setup`` makes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ravan.bundle import Bundle
from tests.conftest import ROOT
from tests.e2e.processes import edge_python
from tests.versions.agree import differences

RUN = ROOT / "tests" / "versions" / "run.py"


def figures(python: str, bundles: Path, out: Path) -> Path:
    """As the session of an environment makes them, away from the sources' folder."""
    subprocess.run([python, str(RUN), str(bundles), str(out)], check=True, cwd=out.parent)
    return out


def agree(*paths: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.versions.agree", *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_a_workstation_and_a_device_agree_on_every_figure(top_bundle: Bundle, tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    bundles.mkdir()
    (bundles / "text-fp32").symlink_to(top_bundle.folder)
    workstation, device = (
        figures(python, bundles, tmp_path / f"{name}.npz")
        for name, python in (("workstation", sys.executable), ("device", edge_python()))
    )
    done = agree(workstation, device)
    assert done.returncode == 0, done.stdout
    assert "device beside workstation: 6 figures" in done.stdout
    with np.load(device) as file:
        changed = dict(file) | {"text-fp32 mapped losses": 1.0001 * file["text-fp32 mapped losses"]}
    np.savez(tmp_path / "other.npz", **changed)
    other = agree(workstation, device, tmp_path / "other.npz")
    assert other.returncode == 1
    assert "(text-fp32 mapped losses)" in other.stdout


def test_a_figure_alone_agrees_with_nothing(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", **{"text-fp32 losses": np.ones(3)})  # type: ignore[arg-type]
    done = agree(tmp_path / "one.npz")
    assert (done.returncode, done.stdout) == (1, "")
    assert "install another Python" in done.stderr


@pytest.mark.parametrize("seen", [{}, {"int8 losses": np.ones(2)}, {"int8 losses": np.array([1, 1, np.nan])}])
def test_an_absent_or_broken_figure_is_no_agreement(seen: dict[str, np.ndarray]) -> None:
    assert differences({"int8 losses": np.ones(3)}, seen) == {"int8 losses": np.inf}
