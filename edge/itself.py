"""How this program starts another part of itself, from source, from a console script and from a frozen folder alike."""

import sys


def own_command(name: str) -> list[str]:
    """The command line that runs a hidden command of ``edge/__main__.py``; its arguments follow."""
    if getattr(sys, "frozen", False):
        return [sys.executable, name]
    return [sys.executable, "-P", "-m", "edge", name]  # -P: or a folder named edge where it is started would be taken
