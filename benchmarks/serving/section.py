"""The section of BENCHMARKS.md about the server."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.serving.turns import RANKS

FLOOR, OURS, PLAIN, FLOWER = "floor", "ours", "ours, insecure", "Flower"
FASTER, OVERHEAD, OVER_FLOOR = 50, 1.02, 2
"""The targets: times Flower's rounds a second, bytes over the payload each way, times the floor's seconds."""


@dataclass(frozen=True)
class Row:
    """One contender with so many clients.

    Attributes:
        size: of the payload, for people.
        payload: bytes of the vector.
        seconds: of a round: of the turns' medians the one in the middle.
        turns: seconds of every round of every turn.
        server_mib: the most that the server's processes had in any turn; 0 if not measured.
        up: bytes on the wire of a client in a round; 0 where they were not counted.
        down: the other way.
        machine: what it was measured on, and what ran before.
        version: of what was measured, if it is not in this repository.
    """

    size: str
    clients: int
    contender: str
    payload: int
    seconds: float
    turns: Sequence[Sequence[float]]
    server_mib: float
    up: float
    down: float
    machine: Mapping[str, Any]
    version: str

    @property
    def key(self) -> tuple[int, int, int]:
        """Its place in the table."""
        order = (FLOOR, OURS, PLAIN, FLOWER)
        return list(RANKS).index(self.size), self.clients, order.index(self.contender)


def server_section(rows: Sequence[Row]) -> str:
    """What it was measured on, a table for each size, and which targets are met."""
    return "\n".join([*_machine_lines(rows), *_tables(rows), "", *_targets(rows)])


def _machine_lines(rows: Sequence[Row]) -> Iterator[str]:
    machine = rows[0].machine
    yield f"- {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}"
    flower = next((row.version.split() for row in rows if row.version), None)
    beside = f"; Flower {flower[0]} on grpcio {flower[1]}" if flower else ""
    yield f"- Python {machine['python']}{beside}"
    loads = [row.machine["load"][0] for row in rows]
    yield f"- load average before a cell: {min(loads):.2f} to {max(loads):.2f}"


def _tables(rows: Sequence[Row]) -> Iterator[str]:
    for size in RANKS:
        mine = [row for row in rows if row.size == size]
        if not mine:
            continue
        yield from ("", f"**{size}** ({mine[0].payload:,} bytes of float32)", "")
        yield "| clients | | a round | times the floor | Flower's rounds, times | server's memory | up | down |"
        yield "|---|---|---|---|---|---|---|---|"
        for row in mine:
            floor, flower = (_beside(row, mine, name) for name in (FLOOR, FLOWER))
            cells = [
                str(row.clients),
                row.contender,
                _time(row.seconds),
                f"{row.seconds / floor.seconds:.1f}" if floor and row is not floor else "",
                f"{flower.seconds / row.seconds:,.0f}" if flower and row.contender in (OURS, PLAIN) else "",
                f"{row.server_mib:,.0f} MiB" if row.server_mib else "",
                f"{row.up / row.payload:.3f}" if row.up else "",
                f"{row.down / row.payload:.3f}" if row.down else "",
            ]
            yield f"| {' | '.join(cells)} |"


def _targets(rows: Sequence[Row]) -> Iterator[str]:
    ours = [row for row in rows if row.contender == OURS]
    faster = [flower.seconds / row.seconds for row in ours if (flower := _beside(row, rows, FLOWER))]
    over = [row.seconds / floor.seconds for row in ours if (floor := _beside(row, rows, FLOOR))]
    wire = [way / row.payload for row in ours for way in (row.up, row.down) if way]
    yield "Targets, for ours with TLS and signed calls:"
    yield ""
    if faster:
        met = _met(met=min(faster) >= FASTER)
        yield f"- {FASTER} times Flower's rounds a second: {met}, {min(faster):,.0f} to {max(faster):,.0f} times"
    if wire:
        met = _met(met=max(wire) <= OVERHEAD)
        yield f"- at most {OVERHEAD} times the payload each way: {met}, at most {max(wire):.3f}"
    if over:
        met = _met(met=max(over) <= OVER_FLOOR)
        yield f"- within {OVER_FLOOR} times of the floor: {met}, {min(over):.1f} to {max(over):.1f} times"
    for size in RANKS:
        memory = {row.clients: row.server_mib for row in ours if row.size == size}
        if memory:
            listed = ", ".join(f"{mib:,.0f} MiB with {clients}" for clients, mib in memory.items())
            yield f"- memory that does not grow with the clients of a round, {size}: {listed}"


def _beside(row: Row, rows: Sequence[Row], contender: str) -> Row | None:
    """Another contender's row with the same size and clients."""
    found = (r for r in rows if (r.size, r.clients, r.contender) == (row.size, row.clients, contender))
    return next(found, None)


def _met(*, met: bool) -> str:
    return "met" if met else "not met"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f} ms" if seconds < 10 else f"{seconds:,.1f} s"
