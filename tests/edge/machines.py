"""Folders with the files that real machines have in /proc and /sys, for devices that are told to read those."""

from dataclasses import dataclass
from pathlib import Path

LAPTOP = {
    "power_supply/AC/type": "Mains",
    "power_supply/AC/online": "1",
    "power_supply/BAT0/type": "Battery",
    "power_supply/BAT0/present": "1",
    "power_supply/BAT0/status": "Full",
    "power_supply/BAT0/capacity": "100",
    "power_supply/BAT0/energy_now": "50000000",
    "power_supply/BAT0/energy_full": "50000000",
    "power_supply/hidpp_battery_0/type": "Battery",
    "power_supply/hidpp_battery_0/scope": "Device",
    "power_supply/hidpp_battery_0/status": "Discharging",
    "power_supply/hidpp_battery_0/capacity": "3",
    "thermal/cooling_device0/type": "Processor",
    "thermal/cooling_device0/cur_state": "0",
    "thermal/thermal_zone0/type": "acpitz",
    "thermal/thermal_zone0/temp": "27800",
    "thermal/thermal_zone1/type": "x86_pkg_temp",
    "thermal/thermal_zone1/temp": "48000",
    "thermal/thermal_zone2/type": "iwlwifi_1",
    "thermal/thermal_zone2/temp": "-273200",
}
"""A ThinkPad with a wireless mouse."""
BOARD = {"thermal/thermal_zone0/type": "cpu-thermal", "thermal/thermal_zone0/temp": "51540"}
"""A Raspberry Pi: no supply at all in /sys."""
PHONE = {
    "power_supply/battery/type": "Battery",
    "power_supply/battery/status": "Discharging",
    "power_supply/battery/capacity": "61",
    "power_supply/pm8150b-charger/type": "USB_PD",
    "power_supply/pm8150b-charger/online": "0",
}
STAT = "cpu  {user} 0 0 1000000 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n"


@dataclass(frozen=True)
class FakeMachine:
    """A root folder; what it says is set by the test."""

    root: Path

    @classmethod
    def of(cls, root: Path, files: dict[str, str]) -> "FakeMachine":
        machine = cls(root)
        machine.set(**{f"sys/class/{name}": text for name, text in files.items()})
        machine.load(0.0)
        machine.worked(0)
        return machine

    def set(self, **files: str) -> None:
        """Writes files by their paths, so that none is ever seen half written."""
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(f".{path.name}.new")
            fresh.write_text(f"{text}\n")
            fresh.replace(path)

    def supply(self, name: str, **fields: object) -> None:
        self.set(**{f"sys/class/power_supply/{name}/{field}": str(value) for field, value in fields.items()})

    def zone(self, number: int, degrees: float) -> None:
        self.set(**{f"sys/class/thermal/thermal_zone{number}/temp": str(round(1000 * degrees))})

    def load(self, average: float) -> None:
        self.set(**{"proc/loadavg": f"{average:.2f} 0.10 0.05 1/321 4242"})

    def worked(self, ticks: int) -> None:
        self.set(**{"proc/stat": STAT.format(user=ticks)})
