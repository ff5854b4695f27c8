"""Whether every environment's figures are the same, the first one's taken as right.

usage: python -m tests.versions.agree FIGURES.npz FIGURES.npz ...
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

EXACT, INT8_LOSS, INT8_GRADIENT = 1e-5, 1e-3, 1e-2
"""Of a difference's norm, relative. In int8 a value that is rounded the other way is off by a whole step: in one
onnxruntime, inputs changed in their last bits change the gradient of these bundles by 1e-3 to 4e-3."""


def differences(reference: Mapping[str, np.ndarray], seen: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The norm of each figure's difference, relative; an absent, misshapen or not finite one is infinitely off."""
    return {name: _difference(reference[name], seen.get(name)) for name in reference}


def allowed(name: str) -> float:
    """The tolerance for a figure of this name."""
    if "int8" not in name:
        return EXACT
    return INT8_GRADIENT if name.endswith("gradients") else INT8_LOSS


def main() -> None:
    """Prints the largest differences and exits with 1 if any is too large."""
    paths = [Path(argument) for argument in sys.argv[1:]]
    if len(paths) < 2:
        sys.exit("One environment alone has none to agree with: install another Python, at best 3.11 or 3.12.")
    first, *others = paths
    reference, refused = _read(first), False
    for path in others:
        found = differences(reference, _read(path))
        worst = max(found, key=lambda name: found[name] / allowed(name))
        refused = refused or not found[worst] <= allowed(worst)
        print(f"{path.stem} beside {first.stem}: {len(found)} figures, at worst {found[worst]:.1e} ({worst})")
    sys.exit(refused)


def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def _difference(right: np.ndarray, seen: np.ndarray | None) -> float:
    if seen is None or seen.shape != right.shape or not np.isfinite(seen).all():
        return float("inf")
    return float(np.linalg.norm(seen - right) / np.linalg.norm(right))


if __name__ == "__main__":
    main()
