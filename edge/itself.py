"""How this program starts another part of itself, from source, from a console script and from a frozen folder alike."""

import os
import sys
from pathlib import Path

TRY = "_try"
"""The command by which a client shows that it takes these settings; it ends before it calls anybody."""


def own_program() -> Path | None:
    """The program of the frozen folder that this is; None from source."""
    return Path(sys.executable).absolute() if getattr(sys, "frozen", False) else None


def own_command(name: str) -> list[str]:
    """The command line that runs a hidden command of ``edge/__main__.py``; its arguments follow."""
    if getattr(sys, "frozen", False):
        return [sys.executable, name]
    return [sys.executable, "-P", "-m", "edge", name]  # -P: or a folder named edge where it is started would be taken


def environment_for_another() -> dict[str, str]:
    """The environment for a frozen folder that is not this one: without what PyInstaller set so that this one starts.

    See "Independent subprocess" in PyInstaller's manual; the path of libraries that was set before is put back.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("_PYI_")}
    before = environment.pop("LD_LIBRARY_PATH_ORIG", None)
    if own_program() is not None:
        environment.pop("LD_LIBRARY_PATH", None)
        environment |= {"PYINSTALLER_RESET_ENVIRONMENT": "1"} | ({"LD_LIBRARY_PATH": before} if before else {})
    return environment
