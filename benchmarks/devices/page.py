"""The generated section of DEVICES.md."""

from collections.abc import Iterator

from benchmarks.devices.figures import Memory, Results, Size
from release.build import LARGEST

START, IDLE, CLOSE = 1.0, 40e6, 1e-5
"""The aims: seconds, bytes, and how near updates must come in fp32."""
NATIVE = "x86_64"


def section(results: Results) -> str:
    """All tables, with the aims beside what was measured."""
    parts = [*sizes(results.sizes), "", *starts(results), "", *memory(results), "", *machine(results)]
    return "\n".join(parts)


def sizes(found: tuple[Size, ...]) -> Iterator[str]:
    """Sizes, needs, and how near the updates come."""
    yield "| | " + " | ".join(f"`{size.machine}`" for size in found) + " | aim |"
    yield "|---|" + "---|" * (len(found) + 1)
    yield row("archive", [f"{size.archive / 1e6:.1f} MB" for size in found], f"at most {LARGEST / 1e6:.0f} MB")
    yield row("unpacked", [f"{size.folder / 1e6:.0f} MB, {size.files} files" for size in found], "")
    yield row("glibc, at least", [size.glibc for size in found], "")
    yield row("because of", [", ".join(f"`{name.rpartition('/')[2]}`" for name in size.because) for size in found], "")
    yield row(
        "taken from the system", [", ".join(f"`{name}`" for name in size.libraries) for size in found], "glibc, libz"
    )
    for precision, aim in (("fp32", f"at most {CLOSE:.0e}"), ("int8", "")):
        yield row(f"update's distance from x86-64's, {precision}", [distance(size, precision) for size in found], aim)


def distance(size: Size, precision: str) -> str:
    """Between updates, at most, and the cosine between the changes that they make."""
    found, cosine = (size.differences.get(name) for name in (precision, f"{precision}_cosine"))
    if found is None or cosine is None:
        return "not measured"
    return f"{found:.0e}, cosine {cosine:.5f}" if found else "none"


def starts(results: Results) -> Iterator[str]:
    """Seconds from nothing to a command's end."""
    yield f"| start, `{NATIVE}` | files not in memory | in memory | aim |"
    yield "|---|---|---|---|"
    for start in results.starts:
        cells = [f"{start.cold:.2f} s", f"{start.warm:.2f} s", f"under {START:.0f} s"]
        yield f"| `ravan-edge {start.command}` | {' | '.join(cells)} |"


def memory(results: Results) -> Iterator[str]:
    """Resident memory in every state."""
    yield f"| memory, `{NATIVE}` | client | worker | of both, not mapped from files | aim |"
    yield "|---|---|---|---|---|"
    for held in results.memory:
        aim = f"at most {IDLE / 1e6:.0f} MB" if is_idle(held) else ""
        cells = [megabytes(held.client), megabytes(held.workers), megabytes(held.anonymous), aim]
        yield f"| {held.state} | {' | '.join(cells)} |"
    yield ""
    yield f"The local run is of {results.work}."


def is_idle(held: Memory) -> bool:
    """Whether the client waits."""
    return held.state.startswith("waiting")


def machine(results: Results) -> Iterator[str]:
    """Where and when."""
    yield f"Measured on {results.date}: {results.machine}; load average before {results.load:.2f}."


def row(name: str, cells: list[str], aim: str) -> str:
    """A line of the first table."""
    return f"| {' | '.join([name, *cells, aim])} |"


def megabytes(value: int) -> str:
    """In words."""
    return f"{value / 1e6:.0f} MB" if value else "none"
