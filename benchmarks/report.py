"""The generated sections of BENCHMARKS.md."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.graph import Group
from benchmarks.machine import QUIET, Machine
from benchmarks.roofline import Roofline
from benchmarks.rows import Row
from benchmarks.works import Kind, Work
from ravan.errors import EnvironmentProblem
from ravan.files import write_atomically


@dataclass(frozen=True)
class Results:
    """One run of the benchmark.

    Attributes:
        machine: before it.
        rounds: turns of every contender.
        steps: mini-batches measured in a turn, of works that are no round.
        rows: one per contender and work.
        rooflines: one per work that int8 could be measured on.
        failed: by work, why something of it could not be measured.
    """

    machine: Machine
    rounds: int
    steps: int
    rows: tuple[Row, ...]
    rooflines: tuple[Roofline, ...]
    failed: Mapping[str, Sequence[str]]


def write_section(document: Path, name: str, text: str) -> None:
    """Replaces what stands between the markers of a section.

    Raises:
        EnvironmentProblem: the document has no such markers.
    """
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    before, found, rest = document.read_text("utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise EnvironmentProblem(f"{document} has no section {name!r}: put its markers back.")
    write_atomically(document, f"{before}{begin}\n{text.strip()}\n\n{end}{after}".encode())


def step_section(results: Results, works: Sequence[Work]) -> str:
    """Machine, a table for each work, the distance to the machine's peak, and where the time goes."""
    parts = [*machine_lines(results)]
    for work in works:
        parts += ["", *work_lines(work, [row for row in results.rows if row.work == work.name])]
        parts += [f"\nNot measured: {why}" for why in results.failed.get(work.name, ())]
    if results.rooflines:
        parts += ["", *roofline_lines(results.rooflines), "", *share_lines(results.rooflines)]
    return "\n".join(parts)


def machine_lines(results: Results) -> Iterator[str]:
    """Where and how it was measured."""
    machine = results.machine
    instructions = f" ({', '.join(machine.instructions)})" if machine.instructions else ""
    yield f"- {machine.cpu}{instructions}, {machine.cores} cores, {machine.memory_gib} GiB, {machine.system}"
    yield f"- Python {machine.python}, " + ", ".join(f"{name} {v}" for name, v in machine.versions.items())
    load = " ".join(f"{value:.2f}" for value in machine.load)
    calm = max((row.others for row in results.rows if row.others < QUIET), default=0.0)
    yield f"- load average before: {load}; other processes took up to {calm:.0%} of the cores in a turn"
    for row in results.rows:
        if row.others >= QUIET:
            yield f"- but {row.others:.0%} in one of {row.contender} in `{row.work}`, which is worth little"
    yield f"- medians of {results.rounds} rounds; in a turn {results.steps} steps are measured after one to warm up"


def work_lines(work: Work, rows: Sequence[Row]) -> Iterator[str]:
    """A work's table, with the targets beside what was measured."""
    yield f"**{work.title}** (`{work.name}`)"
    yield ""
    time = "round" if work.kind is Kind.ROUND else "step"
    yield f"| | {time} | speed | against dropout | target | peak | memory | target | trained |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        cells = [
            row.contender,
            _time(row.seconds),
            f"{row.speed:.2f}",
            "" if row.speed_usual is None else f"{row.speed_usual:.2f}",
            _speed_target(row),
            f"{row.peak_mib:,.0f} MiB",
            f"{row.memory:.2f}",
            _against(row.target.memory, met=row.memory <= (row.target.memory or 0)),
            f"{row.trainable:,}",
        ]
        yield f"| {' | '.join(cells)} |"
    for row in rows:
        if row.first_epoch_seconds is not None:
            yield f"\nFirst epoch, {row.contender}: {_time(row.first_epoch_seconds)} a step, computing what is kept."


def roofline_lines(rooflines: Sequence[Roofline]) -> Iterator[str]:
    """The distance to the machine's peak."""
    yield "**Distance to the machine's peak** (int8 `fast`; G is 10^9 multiply-adds)"
    yield ""
    yield "| work | peak int8 | peak fp32 | frozen | adapters | attention | at the peak | share of the step |"
    yield "|---|---|---|---|---|---|---|---|"
    for found in rooflines:
        counts = [
            _counts(found.profile.multiply_adds.get(g, {})) for g in (Group.FROZEN, Group.ADAPTER, Group.ATTENTION)
        ]
        peaks = [f"{found.peak[kind] / 1e9:,.0f} G/s" for kind in ("int8", "fp32")]
        cells = [f"`{found.work}`", *peaks, *counts, _time(found.seconds), f"{found.share:.0%}"]
        yield f"| {' | '.join(cells)} |"


def share_lines(rooflines: Sequence[Roofline]) -> Iterator[str]:
    """Where the time goes."""
    yield "**Where the time goes** (share of the operators' time, int8 `fast`)"
    yield ""
    yield f"| | {' | '.join(f'`{found.work}`' for found in rooflines)} |"
    yield f"|---|{'---|' * len(rooflines)}"
    for group in Group:
        yield f"| {group} | {' | '.join(f'{found.profile.shares[group]:.0%}' for found in rooflines)} |"


def _speed_target(row: Row) -> str:
    target = row.target.speed
    if target is None or row.speed >= target or (row.speed_usual or 0) < target:
        return _against(target, met=row.speed >= (target or 0))
    return f"{target} met against dropout alone"


def _against(target: float | None, *, met: bool) -> str:
    return "" if target is None else f"{target} {'met' if met else 'not met'}"


def _counts(counts: Mapping[str, float]) -> str:
    return " + ".join(f"{count / 1e9:,.1f} G {kind}" for kind, count in sorted(counts.items())) or "none"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f} ms" if seconds < 10 else f"{seconds:,.1f} s"
