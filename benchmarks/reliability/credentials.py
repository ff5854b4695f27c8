"""Promise 7: bad credentials against every RPC that the definitions know, by the tests in ``tests/attacks/``."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.reliability.figures import Figure
from tests.attacks.test_credentials import ATTACKS, RPCS, expected

KINDS = 12


def figures(_: Path) -> Iterator[Figure]:
    """All attacks of the tests, run as they are."""
    tries = [rpc for name, (_, code) in ATTACKS.items() for rpc in RPCS if expected(name, code, rpc) is not None]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/attacks"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    passed = re.search(r"(\d+) passed", ran.stdout)
    yield Figure(
        7,
        f"kinds of bad credential against each of the {len(RPCS)} RPCs of the descriptors, over TLS",
        f"at least {KINDS} kinds; none is let in, each refused by a code and counted",
        f"{len(ATTACKS)} kinds, {len(tries)} calls, "
        + ("none was let in" if ran.returncode == 0 else "not all were refused: run python -m pytest tests/attacks"),
        met=ran.returncode == 0 and len(ATTACKS) >= KINDS,
    )
    yield Figure(
        7,
        "races for a token and for a call, replays over a restart, tokens, other authorities, plaintext",
        "all tests pass",
        f"{passed.group(1) if passed else 0} tests passed, those above included",
        met=ran.returncode == 0,
    )
