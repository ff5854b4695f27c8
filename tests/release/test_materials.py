"""The bill of materials names what went into a binary, and whose it is."""

import hashlib
import json
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from release.debian import Package
from release.materials import bill_of_materials
from release.parts import licence_files, owned, parts
from tests.e2e.processes import edge_python

ROOT = Path(edge_python()).parent.parent
(SITE,) = (ROOT / "lib").glob("python*/site-packages")
HERE = "/" + SITE.relative_to(ROOT).as_posix()
(LIBRARY,) = (path.relative_to(SITE).as_posix() for path in SITE.glob("numpy/_core/_multiarray_umath*.so"))
OPENSSL = Package("libssl3", "3.0.22-1~deb12u2", "amd64", Path("libssl3.deb"))


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Tables of contents as PyInstaller writes them, of one module and two libraries."""
    modules = ("PYZ-00.pyz", [("numpy", f"{HERE}/numpy/__init__.py", "PYMODULE-2"), ("no", "-", "PYMODULE")])
    files = [(LIBRARY, f"{HERE}/{LIBRARY}", "EXTENSION"), ("libssl.so.3", "/lib/here/libssl.so.3", "BINARY")]
    (tmp_path / "PYZ-00.toc").write_text(repr(modules))
    (tmp_path / "COLLECT-00.toc").write_text(repr((files,)))
    internal = tmp_path / "_internal"
    (internal / LIBRARY).parent.mkdir(parents=True)
    (internal / LIBRARY).write_bytes(b"numpy's")
    (internal / "libssl.so.3").write_bytes(b"openssl's")
    return tmp_path


def bill(notes: Path) -> str:
    owners = {"usr/lib/here/": OPENSSL, "usr/lib/here/libssl.so.3": OPENSSL}
    return bill_of_materials(owned([SITE], ROOT, owners, list(parts(notes))), notes / "_internal", 1_700_000_000)


def test_it_names_packages_versions_licences_and_hashes(notes: Path) -> None:
    told = json.loads(bill(notes))
    assert told["specVersion"] == "1.6"
    numpys = next(each for each in told["components"] if each["name"] == "numpy")
    assert numpys["purl"] == f"pkg:pypi/numpy@{distribution('numpy').version}"
    assert numpys["licenses"]
    assert [part["name"] for part in numpys["components"]] == [LIBRARY]
    assert numpys["components"][0]["hashes"][0]["content"] == hashlib.sha256(b"numpy's").hexdigest()
    debians = next(each for each in told["components"] if each["name"] == "libssl3")
    assert debians["purl"] == "pkg:deb/debian/libssl3@3.0.22-1~deb12u2?arch=amd64"
    assert "rich" not in {each["name"] for each in told["components"]}  # installed, and nothing of it went in


def test_the_same_parts_have_the_same_bill(notes: Path) -> None:
    first = bill(notes)
    assert bill(notes) == first
    (notes / "_internal" / "libssl.so.3").write_bytes(b"openssl's, mended")
    assert json.loads(bill(notes))["serialNumber"] != json.loads(first)["serialNumber"]


def test_licences_are_found_in_a_distribution() -> None:
    assert any("licen" in path.name.lower() for path in licence_files(distribution("numpy"), Path(sys.prefix)))
