"""A device trains when its owner allows it, stops at once when not, and does not flap."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from edge.conditions import Conditions, Metered, Rules
from edge.hours import Hours, Window
from edge.machine import TICKS, Heat, Power, family, heat, held_memory, power, process_seconds, running_threads
from edge.others import Others
from ravan.errors import SettingsError
from tests.edge.machines import BOARD, LAPTOP, PHONE, FakeMachine

NIGHT = Hours.parse(("22:00-06:00",))


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A place whose clocks change, by a rule that needs no time zone files."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


def at(text: str) -> float:
    """Unix time of local time; of a doubtful one the earlier."""
    return time.mktime(time.strptime(text, "%Y-%m-%d %H:%M"))


def allowed(hours: Hours, day: str) -> list[float]:
    """Minutes of a day's 24 hours from noon on that allow training, as begin and end in hours."""
    begin = at(f"{day} 12:00")
    minutes = [begin + 60 * i for i in range(24 * 60)]
    inside = [m for m in minutes if hours.allow(m)]
    return [(inside[0] - begin) / 3600, (inside[-1] + 60 - begin) / 3600]


@pytest.mark.usefixtures("berlin")
def test_hours_go_over_midnight_and_by_the_wall_clock_when_clocks_change() -> None:
    assert allowed(NIGHT, "2026-11-25") == [10, 18]
    assert allowed(NIGHT, "2026-03-28") == [10, 17]  # clocks go forward at 2: the night is an hour shorter
    assert allowed(NIGHT, "2026-10-24") == [10, 19]  # and back at 3
    gap = Hours.parse(("02:30-03:30",))
    assert allowed(gap, "2026-03-28") == [14, 14.5]  # 02:30 never comes
    assert allowed(Hours.parse(("02:10-02:20",)), "2026-10-24") == [14 + 1 / 6, 15 + 1 / 3]  # it comes twice


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize("day", ["2026-03-28", "2026-10-24", "2026-11-25"])
def test_the_moment_that_hours_open_or_close_is_told_to_the_minute(day: str) -> None:
    for hours in (NIGHT, Hours.parse(("02:30-03:30", "12:30-13:00"))):
        for minute in range(0, 24 * 60, 7):
            now = at(f"{day} 12:00") + 60 * minute + 13
            change = hours.next_change(now)
            assert hours.allow(change) != hours.allow(now)
            assert all(hours.allow(t) == hours.allow(now) for t in (now + 1, (now + change) / 2, change - 1))


def test_several_windows_and_none() -> None:
    hours = Hours.parse(("22:00-06:00", "12:00-13:00"))
    noon = at("2026-01-01 12:30")
    assert hours.allow(noon)
    assert not hours.allow(noon + 3600)
    assert Hours().allow(noon)
    assert Hours().next_change(noon) > noon
    assert Window.parse("0:00-24:00").holds(0)
    assert Window.parse("0:00-24:00").holds(1439)
    assert str(hours) == "22:00-06:00 and 12:00-13:00"


@pytest.mark.parametrize("text", ["", "22-6", "22:00", "25:00-06:00", "22:60-06:00", "22:00-24:01", "6:00-6:00", "x"])
def test_what_is_no_time_of_day_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="22:00-06:00"):
        Window.parse(text)


def test_power_and_heat_are_read_as_machines_tell_them(tmp_path: Path) -> None:
    laptop = FakeMachine.of(tmp_path / "laptop", LAPTOP)
    assert power(laptop.root) == Power(True, 100)  # the mouse's battery is not the machine's
    assert heat(laptop.root) == Heat(48, "x86_pkg_temp")
    laptop.supply("AC", online=0)
    laptop.supply("BAT0", status="Discharging", energy_now=20_000_000)
    assert power(laptop.root) == Power(False, 40)
    laptop.supply("BAT1", type="Battery", status="Unknown", energy_now=0, energy_full=50_000_000, capacity=0)
    assert power(laptop.root) == Power(False, 20)  # both batteries by what they hold
    laptop.supply("ucsi-source-psy-1", type="USB", online=1)
    assert power(laptop.root).on_mains
    board = FakeMachine.of(tmp_path / "board", BOARD)
    assert power(board.root) == Power(True)
    assert heat(board.root) == Heat(51.54, "cpu-thermal")
    assert power(FakeMachine.of(tmp_path / "phone", PHONE).root) == Power(False, 61)
    assert heat(tmp_path / "phone") is None


def test_a_sensor_that_cannot_be_read_is_no_reading(tmp_path: Path) -> None:
    machine = FakeMachine.of(tmp_path, LAPTOP)
    machine.set(**{"sys/class/thermal/thermal_zone1/temp": ""})
    assert heat(machine.root) == Heat(27.8, "acpitz")
    (machine.root / "sys/class/thermal/thermal_zone0/temp").unlink()
    assert heat(machine.root) is None
    machine.supply("BAT0", capacity="?", energy_now="?")
    assert power(machine.root) == Power(True)


def test_this_machine_can_be_read() -> None:
    conditions = Conditions(Rules(max_load=1e6))
    assert conditions.look() == ()
    assert conditions.readings().busy.load is not None


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def test_our_own_work_is_not_the_work_of_others(tmp_path: Path) -> None:
    """A real process at work beside us is ours if we say so, and another's if not."""
    spin = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        clock = Clock()
        ours, theirs = Others(Path("/"), clock), Others(Path("/"), clock)
        clock.now += 1
        ours.look([spin.pid])
        theirs.look()
        began = process_seconds(spin.pid) or 0.0
        while (process_seconds(spin.pid) or 0.0) < began + 0.5:
            time.sleep(0.01)
        assert running_threads(spin.pid) == 1
        clock.now += 1  # as if all of it had taken one second
        mine, other = ours.look([spin.pid]).cores, theirs.look().cores
        assert mine is not None
        assert other is not None
        assert other - mine == pytest.approx(0.5, abs=0.2)
        assert mine < other
    finally:
        spin.kill()
        spin.wait()
    assert process_seconds(spin.pid) is None


def test_our_share_of_the_load_average_fades_as_the_kernels_does(tmp_path: Path) -> None:
    machine, clock = FakeMachine.of(tmp_path, BOARD), Clock()
    spin = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        while running_threads(spin.pid) != 1:
            time.sleep(0.01)
        others = Others(machine.root, clock)
        expected = 0.0
        for _ in range(60):  # a minute of ours alone: the kernel says 0.63, and we know that it is us
            clock.now += 1
            expected += (1 - expected) * (1 - 2.718281828 ** (-1 / 60))
            machine.load(expected)
            load = others.look([spin.pid]).load
            assert load is not None
            assert load < 0.08
        machine.load(expected + 2)
        assert (others.look([spin.pid]).load or 0) == pytest.approx(2, abs=0.1)
    finally:
        spin.kill()
        spin.wait()


class Scene:
    """A machine, rules for it, and a clock that the test moves."""

    def __init__(self, root: Path, rules: Rules) -> None:
        self.machine, self.clock = FakeMachine.of(root, LAPTOP), Clock()
        self.conditions = Conditions(replace(rules, root=root), clock=self.clock, steady=self.clock)

    def codes(self, seconds: float = 1.0) -> list[str]:
        self.clock.now += seconds
        return [reason.code for reason in self.conditions.look()]


def test_the_first_broken_look_stops_and_a_calm_while_starts_again(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Rules(max_load=1.0))
    assert scene.codes() == []
    scene.machine.load(1.01)
    assert scene.codes() == ["load"]
    scene.machine.load(0.9)  # below the limit, but not by the margin
    assert scene.codes(100) == ["load"]
    scene.machine.load(0.7)
    assert scene.codes() == ["calming"]
    assert scene.codes(28) == ["calming"]
    scene.machine.load(0.8)
    assert scene.codes() == ["load"]  # all is to be calm for the whole while
    scene.machine.load(0.7)
    assert scene.codes() == ["calming"]
    assert scene.codes(31) == []
    scene.machine.load(0.99)  # and then up to the limit again
    assert scene.codes() == []


def test_what_hovers_about_a_limit_does_not_start_and_stop_training(tmp_path: Path) -> None:
    scene, before, changes = Scene(tmp_path, Rules(max_temperature=70)), False, 0
    for second in range(600):
        scene.machine.zone(1, 70 + (1.5 if second % 7 < 3 else -1.5))
        stopped = bool(scene.codes())
        changes, before = changes + (stopped != before), stopped
    assert changes == 1


def test_a_new_program_is_seen_at_once_long_before_the_average_shows_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Rules(max_load=0.5))
    assert scene.codes() == []
    scene.machine.worked(TICKS)  # one core, for the second until the next look
    assert scene.codes() == ["load"]


def test_each_rule_stops_training_and_says_so_in_plain_words(tmp_path: Path) -> None:
    rules = Rules(on_mains=True, min_battery=40, max_temperature=70, max_load=1, hours=NIGHT)
    scene = Scene(tmp_path, rules)
    scene.clock.now = at("2026-06-01 23:00")
    assert scene.codes() == []
    scene.machine.supply("AC", online=0)
    scene.machine.supply("BAT0", status="Discharging", energy_now=15_000_000)
    scene.machine.zone(1, 81.4)
    scene.machine.load(3.2)
    scene.clock.now = at("2026-06-01 12:00")
    sentences = {reason.code: reason.sentence for reason in scene.conditions.look()}
    assert sentences == {
        "hours": "it may train at 22:00-06:00 only, next at 22:00",
        "mains": "it runs on battery and may train on mains only",
        "battery": "its battery is at 30 % and should have 40 %",
        "temperature": "x86_pkg_temp is at 81 °C and should have at most 70 °C",
        "load": "other programs ask for 3.2 cores and should ask for at most 1.0",
    }
    (hours,) = (reason for reason in scene.conditions.look() if reason.code == "hours")
    assert hours.until == at("2026-06-01 22:00")


def test_a_low_battery_does_not_matter_on_mains(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Rules(min_battery=40))
    scene.machine.supply("BAT0", status="Charging", energy_now=5_000_000)
    assert scene.codes() == []


def test_hours_alone_open_on_the_minute(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Rules(hours=NIGHT))
    scene.clock.now = at("2026-06-01 21:59") + 58
    assert scene.codes() == ["hours"]
    assert scene.codes() == []


def test_rules_about_what_a_machine_does_not_have_stop_nothing(tmp_path: Path) -> None:
    machine = FakeMachine.of(tmp_path, {})
    for name in ("loadavg", "stat"):
        os.remove(machine.root / "proc" / name)
    rules = Rules(on_mains=True, min_battery=50, max_temperature=50, max_load=0.1, root=machine.root)
    assert Conditions(rules).look() == ()


def test_a_metered_network_is_what_the_flag_says(tmp_path: Path) -> None:
    flag = tmp_path / "metered"
    rules = {metered: Rules(metered=metered, metered_flag=flag) for metered in Metered}
    assert all(r.allow_tasks and r.allow_uploads for r in rules.values())
    flag.touch()
    assert {m: (r.allow_tasks, r.allow_uploads) for m, r in rules.items()} == {
        Metered.NEVER: (False, False),
        Metered.UPLOADS: (False, True),
        Metered.ANY: (True, True),
    }
    flag.unlink()
    assert all(r.allow_tasks for r in rules.values())


def test_rules_survive_the_way_to_another_process(tmp_path: Path) -> None:
    rules = Rules(NIGHT, 1.5, True, 40, 70, Metered.UPLOADS, tmp_path / "metered", tmp_path)
    assert Rules.from_dict(json.loads(json.dumps(asdict(rules), default=str))) == rules
    assert Rules.from_dict(json.loads(json.dumps(asdict(Rules()), default=str))) == Rules()


def test_a_process_and_what_it_started_are_ours() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    parent = subprocess.Popen([sys.executable, "-c", code], process_group=0)
    try:
        end = time.monotonic() + 20
        while len(family(parent.pid)) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        first, child = family(parent.pid)
        assert first == parent.pid
        assert held_memory(child) > 0
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()
    assert family(parent.pid) == [parent.pid]
    assert held_memory(parent.pid) == 0
