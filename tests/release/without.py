"""Python where what the client's binary leaves out can't be imported; usage: without.py MODULE [ARGUMENTS...].

It runs a module as ``python -m`` does, and so does every process that this one starts as a part of the client.
"""

import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

from PIL import _plugins  # noqa: E402

import edge.itself  # noqa: E402
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
edge.itself.own_command = lambda name: [sys.executable, __file__, "edge", name]
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
