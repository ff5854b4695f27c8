"""The console scripts: each program is an extra of ravan-fl of the same name, and says so where packages are missing.

Nothing but the standard library is imported here, for in a bare installation even the command line's packages are
missing. The programs stand above this layer, so that they are found by name.
"""

import sys
from importlib import import_module

EXIT_CODE = 5  # the machine refuses, as for errors.EnvironmentProblem
OURS = ("edge", "export", "protos", "ravan", "server")


def edge() -> None:
    """ravan-edge."""
    _launch("edge", "__main__")


def export() -> None:
    """ravan-export."""
    _launch("export")


def server() -> None:
    """ravan-server."""
    _launch("server")


def _launch(package: str, module: str = "cli") -> None:
    try:
        import_module(f"{package}.{module}").main()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", *OURS):  # a defect, not a package to install
            raise
        sys.stderr.write(
            f"error: ravan-{package} needs {missing}, which is not installed: pip install 'ravan-fl[{package}]'.\n"
        )
        sys.exit(EXIT_CODE)
