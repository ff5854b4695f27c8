"""Fails when README and its neighbours speak of what is not there, or ARCHITECTURE leaves out a module.

Checked: relative links, files named in ARCHITECTURE.md (every module once), make targets, that every ``ravan-...``
command with its options is one the programs have, and that README's table has exactly the model families tested.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from families_table import shown, tested

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "BENCHMARKS.md",
    "CONTRIBUTING.md",
    "DEVICES.md",
    "RELIABILITY.md",
    "SECURITY.md",
    "release/INSTALL.md",
)
PACKAGES = ("benchmarks", "demo", "edge", "examples", "export", "ravan", "release", "server")
PROGRAMS = {"ravan-edge": "edge.cli", "ravan-export": "export.cli", "ravan-server": "server.cli"}


def main() -> int:
    """Prints every problem; 1 if there is any."""
    checks = (broken_links, unlisted_modules, unknown_targets, unknown_options, other_families)
    problems = [problem for check in checks for problem in check()]
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"{len(DOCUMENTS)} documents fit the code")
    return bool(problems)


def broken_links() -> Iterator[str]:
    """Relative links that lead nowhere."""
    for name in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text("utf-8")):
            if not (ROOT / target).exists():
                yield f"{name}: link to {target} leads nowhere"


def unlisted_modules() -> Iterator[str]:
    """Modules that ARCHITECTURE.md leaves out, and names in it that are no file."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    listed = set(re.findall(r"`((?:" + "|".join([*PACKAGES, "protos"]) + r")/[\w./-]+)`", text))
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py" and "out" not in path.relative_to(ROOT).parts
    }
    yield from (f"ARCHITECTURE.md leaves out {module}" for module in sorted(modules - listed))
    yield from (
        f"ARCHITECTURE.md names {name}, which is not there" for name in sorted(listed) if not (ROOT / name).exists()
    )


def unknown_targets() -> Iterator[str]:
    """Make targets that the Makefile does not have."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for name in DOCUMENTS:
        for target in re.findall(r"\bmake ([a-z][a-z-]+)\b`?", code(name)):
            if target not in targets:
                yield f"{name}: make {target} does not exist"


def unknown_options() -> Iterator[str]:
    """Commands and options that the programs do not have."""
    for name in DOCUMENTS:
        for line in code(name).replace("\\\n", " ").splitlines():
            found = re.match(r"\s*(?:\S*/)?(ravan-\w+) ((?:devices )?[a-z][\w-]*)(.*)", line)
            if not found or found[1] not in PROGRAMS:
                continue
            command = [sys.executable, "-m", PROGRAMS[found[1]], *found[2].split(), "--help"]
            shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=wide())
            if shown.returncode:
                yield f"{name}: {found[1]} has no command {found[2]}"
                continue
            for option in re.findall(r"(--[a-z][a-z-]*)", found[3]):
                if not re.search(rf"{option}\b", shown.stdout):
                    yield f"{name}: {found[1]} {found[2]} has no option {option}"


def other_families() -> Iterator[str]:
    """Families that are tested or in README's table, not both."""
    table, tests = shown(), list(tested())
    yield from (
        f"README.md leaves out {' at '.join(family)}: run make families" for family in tests if family not in table
    )
    yield from (f"README.md names {' at '.join(family)}, which no test has" for family in table if family not in tests)


def code(name: str) -> str:
    """The code of a document, in blocks and in lines."""
    text = (ROOT / name).read_text("utf-8")
    return "\n".join([*re.findall(r"```\w*\n(.*?)```", text, re.DOTALL), *re.findall(r"`([^`\n]+)`", text)])


def wide() -> dict[str, str]:
    """An environment in which no option is cut off."""
    import os

    return os.environ | {"COLUMNS": "200", "TERM": "dumb"}


if __name__ == "__main__":
    sys.exit(main())
