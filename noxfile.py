"""The same bundles in every Python and onnxruntime that devices may have: losses and gradients must agree.

``make test-matrix`` runs all sessions; a Python that this machine lacks is skipped and named, in CI it is
an error.
"""

import json
import os
import shutil
from pathlib import Path

import nox

PYTHONS = ("3.11", "3.12", "3.13")
OLDEST_PYTHONS = ("3.11", "3.12")  # onnxruntime 1.19.2 has no wheels for others
ROOT = Path(__file__).parent
OUT = ROOT / ".nox" / "matrix"
BUNDLES, FIGURES = OUT / "bundles", OUT / "figures"
EXPORT_PYTHON = str(ROOT / ".venv" / "bin" / "python")
LANGUAGE = "language-fp32"
BENCH = ("--batch", "2", "--length", "16", "--steps", "1")

os.environ["PATH"] += "".join(f":{path}" for path in sorted(Path.home().glob(".pyenv/versions/*/bin")))


@nox.session(python=False)
def bundles(session: nox.Session) -> None:
    """Makes the bundles, and the wheel, once, in the environment of ``make setup``."""
    shutil.rmtree(OUT, ignore_errors=True)
    BUNDLES.mkdir(parents=True)
    FIGURES.mkdir()
    session.run(EXPORT_PYTHON, "-m", "tests.versions.bundles", str(BUNDLES), external=True)
    session.run(EXPORT_PYTHON, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(OUT), ".", external=True)


@nox.session(python=PYTHONS)
def newest(session: nox.Session) -> None:
    """The onnxruntime of constraints.txt."""
    figures(session, "newest", ROOT / "constraints.txt")


@nox.session(python=OLDEST_PYTHONS)
def oldest(session: nox.Session) -> None:
    """The oldest onnxruntime that a bundle asks for."""
    manifest = json.loads((BUNDLES / LANGUAGE / "manifest.json").read_text("utf-8"))
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    others = [line for line in lines if not line.startswith("onnxruntime==")]
    constraints = OUT / "constraints-oldest.txt"
    constraints.write_text("\n".join([*others, f"onnxruntime=={manifest['needs']['onnxruntime']}"]), "utf-8")
    figures(session, "oldest", constraints)


@nox.session(python=False)
def agree(session: nox.Session) -> None:
    """Holds all figures against one another."""
    found = sorted(map(str, FIGURES.glob("*.npz")))
    session.run(EXPORT_PYTHON, "-m", "tests.versions.agree", *found, external=True)


def figures(session: nox.Session, name: str, constraints: Path) -> None:
    """Installs the wheel as a device has it, and runs the bundles."""
    (wheel,) = OUT.glob("*.whl")
    session.install("-c", str(constraints), f"ravan-fl[edge] @ {wheel.as_uri()}")
    session.chdir(session.create_tmp())  # away from the sources, so that the wheel is what runs
    session.run("ravan-edge", "--help", silent=True)
    session.run("ravan-edge", "bench", str(BUNDLES / LANGUAGE), *BENCH)
    session.run("ravan-export", "inspect", str(BUNDLES / LANGUAGE), silent=True)
    session.run("ravan-export", "causal-lm", "model", "--rank=1", "--out=out", success_codes=[5])  # names torch
    out = FIGURES / f"{name}-{session.python}.npz"
    session.run("python", str(ROOT / "tests" / "versions" / "run.py"), str(BUNDLES), str(out))
