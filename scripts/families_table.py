"""Writes README's table of model families from the rows that their passing tests left in a folder.

Run by ``make families``; ``scripts/check_docs.py`` holds the table's names against the families that are tested.
"""

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BEGIN, END = "<!-- begin families -->", "<!-- end families -->"
HEADINGS = ("family", "task", "adapted", "trained whole", "gradients against torch", "merged logits")
BETWEEN = re.compile(f"(?<={BEGIN}\n).*?(?={END})", re.DOTALL)


def main() -> int:
    """Arguments: the folder of rows. 1 if a tested family has left none there."""
    rows = {(row["model"], row["task"]): row for row in map(_row, sorted(Path(sys.argv[1]).glob("*.json")))}
    families = list(tested())
    if missing := [" at ".join(family) for family in families if family not in rows]:
        print(f"no row of {', '.join(missing)}: run make families", file=sys.stderr)
        return 1
    lines = [_line(HEADINGS), _line("---" for _ in HEADINGS), *(_line(_cells(rows[family])) for family in families)]
    text, count = BETWEEN.subn(lambda _: "".join(lines), README.read_text("utf-8"))
    if count != 1:
        print(f"README.md needs {BEGIN} and {END}, once each", file=sys.stderr)
        return 1
    README.write_text(text, "utf-8")
    return 0


def tested() -> Iterator[tuple[str, str]]:
    """Name and task of every family in ``tests/families``."""
    for path in sorted((ROOT / "tests" / "families").glob("test_*.py")):
        for family in importlib.import_module(f"tests.families.{path.stem}").FAMILIES:
            yield family.model, family.task


def shown() -> list[tuple[str, str]]:
    """Name and task of every family in README's table."""
    table = BETWEEN.search(README.read_text("utf-8"))
    lines = table[0].splitlines()[2:] if table else []
    return [(cells[1].strip(), cells[2].strip()) for cells in (line.split("|") for line in lines)]


def _row(path: Path) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return row


def _cells(row: dict[str, Any]) -> Iterator[str]:
    yield from (row[name] for name in ("model", "task", "adapted", "saved"))
    yield from (f"{row[name]:.0e}" for name in ("gradient", "logits"))


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    sys.exit(main())
