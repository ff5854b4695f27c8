"""Fails when the generated modules in protos/ are not what the definitions generate."""

import filecmp
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Generates into a scratch folder and compares."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = os.environ | {"PYTHON_BIN": str(Path(sys.executable).parent)}
        subprocess.run([ROOT / "scripts" / "protos", scratch], check=True, env=environment, capture_output=True)
        fresh = sorted(path.relative_to(scratch) for path in Path(scratch).rglob("*_pb2*.py*"))
        stale = [str(p) for p in fresh if not same(ROOT / p, Path(scratch) / p)]
    if stale or not fresh:
        print(f"out of date: {', '.join(stale) or 'nothing was generated'}; run make protos", file=sys.stderr)
        return 1
    print(f"{len(fresh)} generated modules are up to date")
    return 0


def same(checked_in: Path, generated: Path) -> bool:
    """Whether a checked-in file has the generated content."""
    return checked_in.is_file() and filecmp.cmp(checked_in, generated, shallow=False)


if __name__ == "__main__":
    sys.exit(main())
