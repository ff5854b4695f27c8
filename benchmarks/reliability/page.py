"""RELIABILITY.md from the measurements."""

from collections.abc import Iterator, Mapping

from benchmarks.reliability.figures import Figure, Measurement
from benchmarks.reliability.promises import PROMISES, Promise

INTRODUCTION = """\
# Reliability

What server and devices promise, and what came out when it was tried on real processes: `make reliability` runs all of
it and writes this page and `benchmarks/results/reliability.json`. `make test` runs short versions. How each is tried
stands at the head of its module in `benchmarks/reliability/`; who is trusted with what, in
[SECURITY.md](SECURITY.md)."""


def page(measurements: Mapping[str, Measurement]) -> str:
    """The whole page: a section per promise."""
    return "\n".join([INTRODUCTION, *(line for p in PROMISES for line in section(p, measurements))]) + "\n"


def section(promise: Promise, measurements: Mapping[str, Measurement]) -> Iterator[str]:
    """A promise's sentence, its table, and when and where it was measured."""
    yield ""
    yield f"## {promise.number}. {promise.name}"
    yield ""
    yield promise.sentence
    done = [measurements[module] for module in promise.modules if module in measurements]
    if not done:
        yield ""
        yield "Not measured."
        return
    yield ""
    yield "| tried | target | measured | |"
    yield "|---|---|---|---|"
    for measurement in done:
        yield from map(row, measurement.figures)
    for measurement in done:
        yield ""
        yield f"`{measurement.module}`: {measurement.date}, {measurement.seconds:,.0f} s, {measurement.machine}."


def row(figure: Figure) -> str:
    """A line of the table."""
    cells = (figure.what, figure.target, figure.measured, "met" if figure.met else "**not met**")
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
