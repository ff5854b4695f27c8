"""Bars for a person at a terminal, apart from all else: what draws them takes memory that a service need not have."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from edge.progress import OnStep, Progress


class Terminal(Progress):
    """A progress bar while a device trains, and a line for every upload."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
        )
        self._bars = Bars(*columns, console=console, transient=True)
        self._console = console

    @contextmanager
    def training(self, device: str, round_number: int, steps: int) -> Iterator[OnStep]:
        """A bar that vanishes at the end."""
        bar = self._bars.add_task(f"{device}, round {round_number}", total=steps, loss="")
        self._bars.start()
        try:
            yield lambda step, loss: self._bars.update(bar, completed=step, loss=f"loss {loss:.3f}")
        finally:
            self._bars.remove_task(bar)
            self._bars.stop()

    def uploaded(self, device: str, round_number: int, size: int, loss: float) -> None:
        """A line."""
        self._console.print(f"{device}: round {round_number} uploaded, {size / 1e6:.2f} MB, loss {loss:.3f}")
