"""The hours in which a device may train: windows of its local time, over midnight too, by the wall clock.

When clocks change, a window opens and closes as the clock on the wall says, so that one night is an hour longer or
shorter than the others.
"""

import re
import time
from dataclasses import dataclass

from ravan.errors import SettingsError

DAY = 24 * 60  # minutes
_WINDOW = re.compile(r"(\d\d?):(\d\d)-(\d\d?):(\d\d)", re.ASCII)


@dataclass(frozen=True)
class Window:
    """From one minute of the day up to another, past midnight if ``end`` is not later than ``start``."""

    start: int
    end: int

    @classmethod
    def parse(cls, text: str) -> "Window":
        """The window of a text such as "22:00-06:00".

        Raises:
            SettingsError: it is none.
        """
        found = _WINDOW.fullmatch(text.replace(" ", ""))
        start, end = (60 * int(found[i]) + int(found[i + 1]) for i in (1, 3)) if found else (DAY, 0)
        if not found or int(found[2]) > 59 or int(found[4]) > 59 or start >= DAY or end > DAY or start == end:
            raise SettingsError(f"--hours {text!r} is no time of day: write it as 22:00-06:00, the whole day as none.")
        return cls(start, end)

    def holds(self, minute: int) -> bool:
        """Whether a minute of the day is in it."""
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end

    def __str__(self) -> str:
        return f"{self.start // 60:02}:{self.start % 60:02}-{self.end // 60:02}:{self.end % 60:02}"


@dataclass(frozen=True)
class Hours:
    """Any of several windows; always, if there is none."""

    windows: tuple[Window, ...] = ()

    @classmethod
    def parse(cls, texts: tuple[str, ...]) -> "Hours":
        """Hours from their texts.

        Raises:
            SettingsError: one is no window.
        """
        return cls(tuple(Window.parse(text) for text in texts))

    def allow(self, now: float) -> bool:
        """Whether training is allowed at a Unix time."""
        return not self.windows or any(window.holds(_minute(now)) for window in self.windows)

    def next_change(self, now: float) -> float:
        """The next Unix time at which ``allow`` says otherwise; a day later if it never does.

        Minute by minute, since local time may leap, but never within a minute.
        """
        allowed, moment = self.allow(now), 60 * (now // 60)
        for minute in range(1, DAY + 121):
            if self.allow(moment + 60 * minute) != allowed:
                return moment + 60 * minute
        return now + 60 * DAY

    def __str__(self) -> str:
        return " and ".join(map(str, self.windows)) or "any time"


ALWAYS = Hours()


def wall_clock(moment: float, now: float) -> str:
    """A Unix time as a person here reads it, with the day if it is not the day of ``now``."""
    there, here = time.localtime(moment), time.localtime(now)
    return time.strftime("%H:%M" if there[:3] == here[:3] else "%a %H:%M", there)


def _minute(now: float) -> int:
    local = time.localtime(now)
    return 60 * local.tm_hour + local.tm_min
