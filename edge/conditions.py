"""Whether the device may train now, by its owner's rules, and if not why; and whether it may use the network.

Training stops as soon as a rule is broken. It goes on once every rule has held by a margin for a while, so that what
hovers about a limit does not start and stop it without end.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from edge.hours import ALWAYS, Hours, Window, wall_clock
from edge.machine import Heat, Power, heat, power
from edge.others import Busy, Others

UNKNOWN, IDLE = Power(on_mains=True), Busy()
CALM_SECONDS = 30.0
"""How long every rule must have held before what was stopped goes on."""
METERED = "its network is metered"
COOLER, CALMER, FULLER = 5.0, 0.75, 5.0
"""By how much it must hold: degrees below the highest, share of the most load, percent above the least charge."""


class Metered(StrEnum):
    """What a device sends and fetches while its network is metered: nothing, finished updates alone, or anything."""

    NEVER = "never"
    UPLOADS = "uploads"
    ANY = "any"


@dataclass(frozen=True)
class Rules:
    """What the owner of a device allows; None and 0 for no such rule.

    Attributes:
        hours: of the day, local time.
        max_load: cores that others may keep busy.
        on_mains: whether it must be.
        min_battery: least charge in percent while it is not.
        max_temperature: of the hottest place, degrees Celsius.
        metered: what may be sent and fetched over a metered network.
        metered_flag: a file that exists while the network is metered.
        root: below which /proc and /sys stand.
        calm_seconds: how long the rules must have held before training goes on.
    """

    hours: Hours = ALWAYS
    max_load: float | None = None
    on_mains: bool = False
    min_battery: float | None = None
    max_temperature: float | None = None
    metered: Metered = Metered.NEVER
    metered_flag: Path | None = None
    root: Path = Path("/")
    calm_seconds: float = CALM_SECONDS

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Rules":
        """Reads what ``dataclasses.asdict`` made, paths as texts."""
        windows = tuple(Window(**window) for window in value["hours"]["windows"])
        flag = value["metered_flag"]
        paths = {"metered_flag": None if flag is None else Path(flag), "root": Path(value["root"])}
        return cls(**{**value, **paths, "hours": Hours(windows), "metered": Metered(value["metered"])})

    @property
    def is_metered(self) -> bool:
        """Whether the network is metered now."""
        return self.metered_flag is not None and self.metered_flag.exists()

    @property
    def allow_tasks(self) -> bool:
        """Whether the network may be used for all there is."""
        return self.metered is Metered.ANY or not self.is_metered

    @property
    def allow_uploads(self) -> bool:
        """Whether a finished update may be sent."""
        return self.metered is not Metered.NEVER or not self.is_metered


NO_RULES = Rules()


@dataclass(frozen=True)
class Reason:
    """Why the device does not train: a code for programs, a sentence for people, and when that ends if it is known."""

    code: str
    sentence: str
    until: float | None = None


@dataclass(frozen=True)
class Readings:
    """What the rules are held against; what no rule is about is not read."""

    now: float
    busy: Busy = IDLE
    power: Power = UNKNOWN
    heat: Heat | None = None


@dataclass(frozen=True)
class Margin:
    """By how much a rule must hold beyond its limit."""

    load: float = 1.0
    charge: float = 0.0
    degrees: float = 0.0


CALM = Margin(CALMER, FULLER, COOLER)


def broken(rules: Rules, found: Readings, margin: Margin = Margin()) -> list[Reason]:
    """Every rule that does not hold."""
    reasons = []
    if not rules.hours.allow(found.now):
        opens = rules.hours.next_change(found.now)
        reasons.append(
            Reason("hours", f"it may train at {rules.hours} only, next at {wall_clock(opens, found.now)}", opens)
        )
    if rules.on_mains and not found.power.on_mains:
        reasons.append(Reason("mains", "it runs on battery and may train on mains only"))
    charge = found.power.charge
    if rules.min_battery is not None and charge is not None and not found.power.on_mains:
        least = rules.min_battery + margin.charge
        if charge < least:
            reasons.append(Reason("battery", f"its battery is at {charge:.0f} % and should have {least:.0f} %"))
    if rules.max_temperature is not None and found.heat is not None:
        most = rules.max_temperature - margin.degrees
        if found.heat.degrees > most:
            what = f"{found.heat.zone} is at {found.heat.degrees:.0f} °C and should have at most {most:.0f} °C"
            reasons.append(Reason("temperature", what))
    busy = found.busy.most
    if rules.max_load is not None and busy is not None:
        most = rules.max_load * margin.load
        if busy > most:
            what = f"other programs ask for {busy:.1f} cores and should ask for at most {most:.1f}"
            reasons.append(Reason("load", what))
    return reasons


class Conditions:
    """The rules and the machine, looked at again and again, by any thread of the client.

    Args:
        rules: the owner's.
        clock: Unix time.
        steady: seconds that only grow.
    """

    def __init__(
        self,
        rules: Rules,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rules = rules
        self._clock, self._steady, self._lock = clock, steady, threading.Lock()
        self._others = Others(rules.root, steady)
        self._stopped = False
        self._calm_since: float | None = None

    def readings(self, own: Collection[int] = ()) -> Readings:
        """What the machine says now of what the rules are about, beside the work of our ``own`` processes."""
        rules, found = self.rules, Readings(self._clock())
        if rules.max_load is not None:
            found = replace(found, busy=self._others.look(own))
        if rules.on_mains or rules.min_battery is not None:
            found = replace(found, power=power(rules.root))
        if rules.max_temperature is not None:
            found = replace(found, heat=heat(rules.root))
        return found

    def against(self, own: Collection[int] = ()) -> str:
        """The same in a sentence; empty if the device may train."""
        return "; ".join(reason.sentence for reason in self.look(own))

    def against_tasks(self) -> tuple[str, ...]:
        """Why the device may not ask for a task now; none if it may."""
        metered = () if self.rules.allow_tasks else (METERED,)
        return (*(reason.sentence for reason in self.look()), *metered)

    def look(self, own: Collection[int] = ()) -> tuple[Reason, ...]:
        """Why the device may not train now; empty if it may.

        ``own`` are processes that train for us, whose load is not held against us.
        """
        with self._lock:
            return self._look(own)

    def _look(self, own: Collection[int]) -> tuple[Reason, ...]:
        time.tzset()  # a laptop that travels
        found = self.readings(own)
        reasons = broken(self.rules, found, CALM if self._stopped else Margin())
        if reasons:
            only_hours = all(reason.code == "hours" for reason in reasons) and not self._stopped
            self._stopped, self._calm_since = not only_hours, None
            return tuple(reasons)
        if self._stopped:
            now = self._steady()
            self._calm_since = now if self._calm_since is None else self._calm_since
            left = self.rules.calm_seconds - (now - self._calm_since)
            if left > 0:
                sentence = f"it was stopped and goes on once all has been well for another {left:.0f} s"
                return (Reason("calming", sentence, found.now + left),)
        self._stopped = False
        return ()
