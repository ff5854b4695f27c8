"""What software a bundle needs, and the sentences that name it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ravan.errors import BundleError, EnvironmentProblem


@dataclass(frozen=True)
class Needs:
    """The least versions that run a bundle.

    Attributes:
        ravan: of ravan-fl, which reads the manifest.
        onnxruntime: of onnxruntime, which runs the graphs.
        opset: of the operators in the graphs.
        ir_version: of the graphs' file format.
    """

    ravan: str
    onnxruntime: str
    opset: int
    ir_version: int

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Needs":
        """Reads what ``asdict`` gave.

        Raises:
            ValueError: a version is none.
        """
        versions = str(value["ravan"]), str(value["onnxruntime"])
        for version in versions:
            if not _VERSION.fullmatch(version):
                raise ValueError(f"{version!r} is no version")
        return cls(*versions, int(value["opset"]), int(value["ir_version"]))


UNSAID = Needs("0.1.0", "1.19.2", opset=20, ir_version=10)
"""Of bundles whose manifests do not say."""


def require_schema(value: Mapping[str, Any], readable: tuple[int, ...]) -> None:
    """Refuses a manifest that this version can't read.

    Raises:
        BundleError: names the version that can, as the manifest gives it.
    """
    schema = value["schema"]
    if schema in readable:
        return
    needs = value.get("needs")
    version = str(needs.get("ravan")) if isinstance(needs, Mapping) else ""
    newer, package = "a newer ravan-fl", "ravan-fl"
    if _VERSION.fullmatch(version):  # or it would be somebody's text in a command to copy
        newer, package = f"ravan-fl {version} or newer", f"ravan-fl>={version}"
    raise BundleError(
        f"The bundle needs {newer}: its manifest has schema {schema!r}, here is {max(readable)}: "
        f"pip install --upgrade '{package}'."
    )


def require_onnxruntime(needs: Needs, installed: str) -> None:
    """Refuses an onnxruntime that would fail on the bundle's graphs, or run them otherwise.

    Raises:
        EnvironmentProblem: names the version to install.
    """
    if _numbers(installed) < _numbers(needs.onnxruntime):
        raise EnvironmentProblem(
            f"The bundle needs onnxruntime {needs.onnxruntime} or newer, here is {installed}: "
            f"pip install --upgrade 'onnxruntime>={needs.onnxruntime}'."
        )


_VERSION = re.compile(r"\d{1,6}(\.\d{1,6}){0,3}")


def _numbers(version: str) -> tuple[int, ...]:
    """1.19.2 of "1.19.2+cpu" as numbers, without zeros at the end."""
    found = _VERSION.match(version)
    assert found is not None
    return tuple(map(int, re.sub(r"(\.0+)+$", "", found[0]).split(".")))
