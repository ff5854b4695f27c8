"""What a machine says of itself in /proc and /sys: load, power and temperature; what it does not say is None.

The files are read below a root, so that a container may be given its host's, and a test a folder of its own.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SUPPLIES, ZONES = Path("sys/class/power_supply"), Path("sys/class/thermal")
BATTERY, FROM_OUTSIDE = "Battery", ("Mains", "USB", "Wireless")
"""Types of power supplies, some with an ending as in USB_PD; a UPS does not say whether it is fed."""
PLAUSIBLE = (-40.0, 150.0)
"""Degrees Celsius that a sensor may tell; what is beyond is one that is off or broken."""
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Power:
    """Where the power comes from; ``charge`` is the batteries' in percent, None where there is none."""

    on_mains: bool
    charge: float | None = None


@dataclass(frozen=True)
class Heat:
    """The hottest place, degrees Celsius, and what it is called."""

    degrees: float
    zone: str


def power(root: Path) -> Power:
    """Of the machine itself: batteries of mice and headsets are left out. One without any supply is on mains."""
    supplies = [s for s in _folders(root / SUPPLIES) if _text(s / "scope") != "Device"]
    online = [_text(s / "online") for s in supplies if _text(s / "type").startswith(FROM_OUTSIDE)]
    batteries = [s for s in supplies if _text(s / "type") == BATTERY and _text(s / "present") != "0"]
    charge = _charge(batteries)
    if any(state not in ("", "0") for state in online):
        return Power(on_mains=True, charge=charge)
    draining = any(_text(s / "status") == "Discharging" for s in batteries)
    return Power(not batteries or not (draining or online), charge)


def heat(root: Path) -> Heat | None:
    """The hottest thermal zone; zones that can't be read now, as those of sleeping parts, are left out."""
    found = []
    for zone in _folders(root / ZONES):
        degrees = _number(zone / "temp")
        if zone.name.startswith("thermal_zone") and degrees is not None:
            found.append(Heat(degrees / 1000, _text(zone / "type") or zone.name))
    plausible = [h for h in found if PLAUSIBLE[0] < h.degrees < PLAUSIBLE[1]]
    return max(plausible, key=lambda h: h.degrees, default=None)


def load_average(root: Path) -> float | None:
    """Of the last minute, as the kernel forms it."""
    try:
        return float(_text(root / "proc/loadavg").split()[0])
    except (IndexError, ValueError):
        return None


def processor_seconds(root: Path) -> float | None:
    """Seconds that all cores together have worked since the machine started; what waits for disks is not among them."""
    first, _, fields = _text(root / "proc/stat").partition("\n")[0].partition(" ")
    numbers = fields.split()
    if first != "cpu" or len(numbers) < 8 or not all(n.isdigit() for n in numbers):
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, numbers[:8])
    return (user + nice + system + irq + softirq + steal) / TICKS


def process_seconds(pid: int) -> float | None:
    """Seconds that a process has worked, in all of its threads; None once it is gone."""
    fields = stat_fields(pid)
    return None if fields is None else (int(fields[11]) + int(fields[12])) / TICKS


def started_at(pid: int) -> str | None:
    """When a process started, in ticks of this machine: with its number, what tells it from every other."""
    fields = stat_fields(pid)
    return None if fields is None or fields[0] in "ZX" else fields[19]


def running_threads(pid: int) -> int:
    """Threads of a process that run, wait for a core, or for a disk: what the load average counts."""
    threads = _folders(Path(f"/proc/{pid}/task"))
    return sum(_text(thread / "stat").rpartition(")")[2].split()[:1] in (["R"], ["D"]) for thread in threads)


def family(pid: int) -> list[int]:
    """A process and all that it started, as far as the kernel tells."""
    found, i = [pid], 0
    while i < len(found):
        for thread in _folders(Path(f"/proc/{found[i]}/task")):
            found += map(int, _text(thread / "children").split())
        i += 1
    return found


def stat_fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name, the state first; see proc(5)."""
    return _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split() or None


def _status_bytes(pid: int, *names: str) -> int | None:
    """The sum of some sizes in /proc/PID/status, such as RssAnon; None once the process is gone."""
    lines = dict(line.partition(":")[::2] for line in _text(Path(f"/proc/{pid}/status")).splitlines())
    if not all(name in lines for name in names):
        return None
    return sum(1024 * int(lines[name].split()[0]) for name in names)


def held_memory(pid: int) -> int:
    """Bytes that a process holds and the system can't drop, as it can mapped files; 0 once the process is gone."""
    return _status_bytes(pid, "RssAnon", "RssShmem", "VmSwap") or 0


def _charge(batteries: list[Path]) -> float | None:
    """Of all batteries together, by what they hold where they say so."""
    for now, full in (("energy_now", "energy_full"), ("charge_now", "charge_full")):
        pairs = [(_number(b / now), _number(b / full)) for b in batteries]
        whole = sum(f for _, f in pairs if f)
        if whole and all(n is not None and f for n, f in pairs):
            return 100 * sum(n for n, _ in pairs if n) / whole
    shares = [share for share in (_number(b / "capacity") for b in batteries) if share is not None]
    return sum(shares) / len(shares) if shares else None


def _folders(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(folder.iterdir())
    except OSError:  # not this kind of machine, or just gone
        return


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:  # a sensor that is asleep says EAGAIN, EINVAL or ENODATA
        return ""


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None
