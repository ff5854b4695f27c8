"""What ravan-edge status says: a client's status, its record and its disk, in plain words and as data."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from edge.clients import Newer, given_up, newer_clients
from edge.hours import wall_clock
from edge.quota import size_of, whole_bundles
from edge.status import DeviceStatus, Doing, Status, read_status
from edge.upload_log import RECEIVED, read_uploads


def facts(home: Path) -> dict[str, object]:
    """All there is to say, for programs."""
    status, uploads = read_status(home), list(read_uploads(home))
    received = [upload for upload in uploads if upload["outcome"] == RECEIVED]
    bundles = sorted(folder.name for folder in whole_bundles(home))
    return {
        "home": str(home),
        "running": status is not None and status.is_alive,
        "client": None if status is None else asdict(status),
        "updates": len(received),
        "bytes_up": sum(int(str(upload["bytes"])) for upload in received),
        "last_upload": received[-1] if received else None,
        "unanswered": len(uploads) - len(received),
        "bundles": bundles,
        "newer_clients": [_newer(each) for each in newer_clients(home)],
        "disk_bytes": size_of(home),
    }


def words(home: Path, now: float | None = None) -> Iterator[str]:
    """The same as sentences, a line each."""
    now = time.time() if now is None else now
    status, told = read_status(home), facts(home)
    yield from _client(status, now)
    yield _sent(told, now)
    bundles = told["bundles"]
    assert isinstance(bundles, list)
    held = "no bundle" if not bundles else "1 bundle" if len(bundles) == 1 else f"{len(bundles)} bundles"
    for each in newer_clients(home):
        if each.given_up:
            yield given_up(each)
    yield f"{home} holds {held} and takes {_megabytes(told['disk_bytes'])} of disk."


def _client(status: Status | None, now: float) -> Iterator[str]:
    if status is None:
        yield "No client has run here yet: start it with ravan-edge run."
        return
    if status.is_alive:
        version = f"version {status.software}, " if status.software else ""
        yield f"The client runs since {wall_clock(status.began, now)} ({version}process {status.pid})."
    elif status.ended_well:
        yield f"The client is not running: it ended at {wall_clock(status.written, now)}."
    else:
        at = wall_clock(status.written, now)
        yield (
            f"The client is not running: it was killed or lost power after {at}. "
            "Start ravan-edge run: it goes on where it was."
        )
    for name, device in status.devices.items():
        yield f"{name} {_doing(device, now, alive=status.is_alive)}"
        if device.away_since is not None and status.is_alive:
            since = wall_clock(device.away_since, now)
            yield f"{name} can't reach {status.server} since {since} ({device.away}) and tries again."
        if device.problem and device.problem_at is not None:
            yield f"{name} had a problem at {wall_clock(device.problem_at, now)}: {device.problem}"


def _doing(device: DeviceStatus, now: float, *, alive: bool) -> str:
    since = wall_clock(device.since, now)
    at = f"round {device.round}, step {device.step} of {device.steps}"
    loss = f" (loss {device.loss:.3f})" if device.loss is not None else ""
    why = "; ".join(device.why) or "no reason was given"
    again = f", and asks again at {wall_clock(device.until, now)}" if device.until else ""
    present = {
        Doing.STARTING: f"starts since {since}.",
        Doing.WAITING: f"waits for a task since {since}: {why}{again}.",
        Doing.HELD: f"takes no task since {since}: {why}.",
        Doing.FETCHING: f"fetches what round {device.round} needs since {since}.",
        Doing.TRAINING: f"trains since {since}: {at}{loss}.",
        Doing.PAUSED: f"is paused since {since}, at {at}{loss}: {why}.",
        Doing.UPLOADING: f"uploads its update of round {device.round} since {since}{': ' + why if device.why else ''}.",
        Doing.ENDED: f"ended at {since}{': ' + why if device.why else ''}.",
    }[device.doing]
    if alive or device.doing is Doing.ENDED:
        return present
    return f"was last seen so: {present}"


def _sent(told: dict[str, object], now: float) -> str:
    last = told["last_upload"]
    if not isinstance(last, dict):
        return "No update has been sent from here."
    count = told["updates"]
    at = f"{last['ended']}".replace("T", " ").replace("Z", " UTC")
    return (
        f"{count} update{'' if count == 1 else 's'} sent, {_megabytes(told['bytes_up'])} in all, the last one at {at} "
        f"(round {last['round']}, receipt {last['receipt']}); ravan-edge uploads lists them."
    )


def _newer(client: Newer) -> dict[str, object]:
    """A newer client that is here, or was."""
    trial = {"starts": client.starts, "answered": client.answered, "given_up": client.given_up}
    return {"version": client.archive.version, "sha256": client.archive.sha256, **trial}


def _megabytes(size: object) -> str:
    return f"{int(str(size)) / 1e6:.1f} MB"
