"""Says why this machine can't build or run another's binary; silent and 0 if it can.

usage: python -m release.possible MACHINE
"""

import sys

from ravan.errors import EnvironmentProblem
from release.machines import MACHINES
from release.roots import require_namespaces


def main() -> int:
    """0 if it can."""
    try:
        require_namespaces(MACHINES[sys.argv[1]])
    except EnvironmentProblem as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
