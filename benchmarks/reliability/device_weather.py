"""Promise 11: a device whose power is cut, disk fills up, server is gone, clock is off, line breaks.

The trials are those of ``device_trial.py``. A power cut is made as in ``power.py``: the device's folder is on a disk in
a file that writes nothing by itself for minutes, and after kill -9 the device goes on with what the file held. The same
with syncs that do nothing shows that the trial would tell.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.reliability.device_trial import BOTH, DeviceTrial
from benchmarks.reliability.disks import cut_power, disk_in_file, disk_in_memory, filled, may_mount
from benchmarks.reliability.figures import Figure
from benchmarks.reliability.stormy import VARIABLE
from benchmarks.reliability.tiny import tiny_bundle
from ravan.files import write_atomically

ROUNDS = 6
WEATHERED = Path(__file__).parent / "weathered"
FULL_SECONDS, AWAY_SECONDS, WRONG_SECONDS, CUT_SECONDS = 6.0, 30.0, 6.0, 0.7
DAY = 86_400.0
CUTS = (
    *("piece-fetched:2", "file-fetched:2", "bundle-fetched:1", "base-kept:1", "checkpoint-kept:5", "step-done:9"),
    *("update-finished:1", "piece-sent:1", "checkpoint-kept:7", "run-kept:1", "update-sent:1", "rest-kept:1", BOTH),
    *("update-finished:1", "desk-cleared:1", "step-done:4", "file-synced:3", "file-renamed:4", "run-kept:1", BOTH),
)


def figures(folder: Path) -> Iterator[Figure]:
    """Every kind of weather; disks only where they may be mounted."""
    bundle = tiny_bundle(folder / "bundle").folder
    calm = DeviceTrial(folder / "calm", bundle, (), ROUNDS).run()
    if may_mount():
        yield from power_cuts(folder, calm)
        yield from full_disks(folder, calm)
    else:
        yield Figure(11, "power cuts, full disks", "real disks", "not tried: needs root to mount them", met=False)
    gone = DeviceTrial(folder / "gone", bundle, (), ROUNDS, meanwhile=server_gone).run()
    yield outcome(f"server gone for {AWAY_SECONDS:.0f} s while the device trains, and again after it did", gone, calm)
    cut = DeviceTrial(folder / "line", bundle, (), ROUNDS, meanwhile=lines_cut).run()
    yield outcome(f"every line cut each {CUT_SECONDS} s, in download, check-in and upload", cut, calm)
    for name, seconds in (("ahead", DAY), ("behind", -DAY)):
        yield wrong_clock(
            folder / name, bundle, f"the device's clock a day {name}, at its start and in a round", seconds
        )


def power_cuts(folder: Path, calm: DeviceTrial) -> Iterator[Figure]:
    """With syncs, and without."""
    honest = _on_a_disk(folder / "power", calm.bundle, lying=False)
    cuts = honest.kills.total()
    yield outcome(f"{cuts} power cuts at points of download, training, checkpoint, outbox and upload", honest, calm)
    lying = _on_a_disk(folder / "lying", calm.bundle, lying=True)
    yield Figure(
        11,
        "the same with syncs that do nothing",
        "work is lost, or the trial shows nothing",
        f"{lying.twice} finished updates trained again",
        met=lying.twice > 0,
    )


def full_disks(folder: Path, calm: DeviceTrial) -> Iterator[Figure]:
    """Not a byte is left when the device downloads, or when it trains."""
    for name, event, times in (("download", "fetching bundle", 1), ("training", "training", 2)):

        def weather(trial: DeviceTrial, event: str = event, times: int = times) -> None:
            trial.device.wait_until_said(event, times)
            with filled(trial.device.home):
                time.sleep(FULL_SECONDS)

        place = _new(folder / f"full-{name}")
        with disk_in_memory(place / "home"):
            trial = DeviceTrial(place, calm.bundle, (), ROUNDS, meanwhile=weather).run()
        yield outcome(f"disk full (a tmpfs) for {FULL_SECONDS:.0f} s from the {name} on", trial, calm)


def server_gone(trial: DeviceTrial) -> None:
    """Twice, for a time in which the device must wait longer and longer."""
    for event, times in (("training", 2), ("local run finished", 3)):
        trial.device.wait_until_said(event, times)
        trial.server.kill()
        time.sleep(AWAY_SECONDS)
        trial.server.start()
        trial.server.wait()


def lines_cut(trial: DeviceTrial) -> None:
    """As long as the device lives."""
    while trial.device.process.poll() is None:
        time.sleep(CUT_SECONDS)
        trial.line.cut()


def wrong_clock(folder: Path, bundle: Path, what: str, seconds: float) -> Figure:
    """A device that starts with a clock that is off, is set, and is off again in the middle of a round."""
    weather = _new(folder) / "weather.json"
    _is_now(weather, clock=seconds)

    def set_clock(trial: DeviceTrial) -> None:
        trial.device.wait_until_said("refused")
        _is_now(weather)
        trial.device.wait_until_said("training", 2)
        _is_now(weather, clock=seconds)
        time.sleep(WRONG_SECONDS)
        _is_now(weather)

    environment = _weathered(weather)
    trial = DeviceTrial(folder, bundle, (), ROUNDS, meanwhile=set_clock, secure=True, environment=environment).run()
    heard = {str(event.get("code")) for event in trial.device.said() if event["event"] == "refused"}
    wanted = {"future-call" if seconds > 0 else "stale-call"}
    end = "; ".join(trial.problems) or f"{len(trial.updates)} of {ROUNDS} rounds, {trial.twice} trained again"
    return Figure(
        11,
        what,
        f"{', '.join(wanted)}; it waits, and goes on once the clock is set",
        f"{', '.join(sorted(heard))}; {end}",
        met=heard == wanted and not trial.problems and len(trial.updates) == ROUNDS,
    )


def outcome(what: str, trial: DeviceTrial, calm: DeviceTrial) -> Figure:
    """What a trial amounts to."""
    same = sum(a == b for a, b in zip(trial.updates, calm.updates, strict=False))
    end = "; ".join(trial.problems) or f"{same} of {ROUNDS} bit-equal, {trial.twice} trained again, nothing left"
    met = not trial.problems and trial.updates == calm.updates and len(calm.updates) == ROUNDS
    return Figure(11, what, "every update bit-equal, none trained again, no file left", end, met=met)


def _on_a_disk(folder: Path, bundle: Path, *, lying: bool, cuts: Sequence[str] = CUTS) -> DeviceTrial:
    """A trial whose lives end with the device's power."""
    weather, image = _new(folder) / "weather.json", folder / "disk.img"
    _is_now(weather, lying=lying)
    with ExitStack() as stack:
        stack.enter_context(disk_in_file(image, folder / "home"))
        trial = DeviceTrial(
            folder,
            bundle,
            cuts,
            ROUNDS,
            between=lambda trial: cut_power(image, trial.device.home),
            environment=_weathered(weather),
        )
        return trial.run()


def _is_now(path: Path, **weather: float) -> None:
    write_atomically(path, json.dumps(weather).encode())


def _weathered(weather: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(WEATHERED), VARIABLE: str(weather)}


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder
