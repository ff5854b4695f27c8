"""The client where what its binary leaves out can't be imported; takes what the binary takes."""

import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

from PIL import _plugins  # noqa: E402

from release.left_out import MODULES, is_left_out, plugins  # noqa: E402

REFUSED = {*MODULES, *plugins(_plugins)}


class Refusal:
    """Comes before all other finders."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Refuses what is left out, and has no say in the rest."""
        parts = name.split(".")
        if is_left_out(name) or any(".".join(parts[:count]) in REFUSED for count in range(1, len(parts) + 1)):
            raise ModuleNotFoundError(f"No module named {name!r}: left out", name=name)
        return None


sys.meta_path.insert(0, Refusal())
runpy.run_path(str(ROOT / "release" / "entry.py"), run_name="__main__")
