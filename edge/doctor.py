"""ravan-edge doctor: looks a device over, and says of each thing in one sentence whether it is in order.

It takes no lock and changes nothing, so that it may run beside the client and after it was killed.
"""

import os
import platform
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edge.client import LOCAL_SERVER
from edge.clients import given_up, newer_clients
from edge.conditions import Conditions, Rules, broken
from edge.enrollment import DAY
from edge.findings import Finding, Verdict, problem, sound, warning
from edge.identity import ENROLLED, Identities, Identity
from edge.look_at_server import look_at_server
from edge.quota import MEGABYTE, Quota, whole_bundles
from edge.settings import DoctorSettings
from edge.status import Status, read_status
from ravan.bundle import Bundle, open_bundle
from ravan.bundle_files import OPTIONAL
from ravan.cli.errors import explain_os_error
from ravan.errors import EnvironmentProblem, RavanError

LITTLE_DISK = 200 << 20
LATE_DAYS = 7
"""Days beyond the time for a new key after which something seems to keep the client from making one."""
SETTLE_SECONDS = 1.0
"""Over which the work of other programs is measured."""


def examine(settings: DoctorSettings, clock: Callable[[], float] = time.time) -> Iterator[Finding]:
    """Every check, one after another; ``clock`` is this machine's, Unix time."""
    home = settings.home
    try:
        found = _home(home)
    except OSError as error:
        found = problem("home", str(explain_os_error(error)))
    yield found
    if found.verdict is Verdict.PROBLEM:
        return
    status = read_status(home)
    yield _client(status)
    identities = Identities(home / "devices")
    yield from _keys(identities, settings)
    for address, identity in _servers(identities, settings):
        yield from look_at_server(address, identity, clock)
    yield _disk(Quota(home, settings.disk_mb * MEGABYTE))
    bundle = None
    for held in whole_bundles(home):
        try:
            bundle = open_bundle(held, may_lack=OPTIONAL)
        except RavanError as error:
            yield warning("bundle", f"{error} The client fetches it again.")
    yield from _memory(bundle, settings)
    yield from _data(bundle, settings, status)
    yield _versions()
    for each in newer_clients(home):
        if each.given_up:
            yield warning("update", f"{given_up(each)} Tell the operator.")
    yield from _conditions(settings.rules(home))


def _home(home: Path) -> Finding:
    if not home.is_dir():
        return problem(
            "home", f"{home} does not exist: run ravan-edge enroll, or give the --home that you enrolled in."
        )
    list(home.iterdir())
    if not os.access(home, os.W_OK):
        return problem(
            "home", f"{home} can't be written: run as the user that the client runs as, or change its owner."
        )
    return sound("home", f"{home} can be read and written.")


def _client(status: Status | None) -> Finding:
    if status is None:
        return warning("client", "No client has run here yet: start it with ravan-edge run.")
    if status.is_alive:
        return sound("client", f"A client runs (process {status.pid}); ravan-edge status says what it does.")
    if status.ended_well:
        return warning("client", "No client runs; the last one ended: start it with ravan-edge run.")
    return warning("client", "No client runs; the last one was killed or lost power: start it with ravan-edge run.")


def _keys(identities: Identities, settings: DoctorSettings) -> Iterator[Finding]:
    if settings.insecure:
        yield warning("enrolled", "--insecure: no key is used, and any program on this machine is let in as a device.")
        return
    try:
        known = [found for name in identities.names() if (found := identities.get(name, ENROLLED)) is not None]
    except EnvironmentProblem as error:
        yield problem("enrolled", str(error))
        return
    if not known:
        yield problem("enrolled", f"No device is enrolled in {settings.home}: run ravan-edge enroll.")
    for identity in known:
        name = f"{identity.name or 'This device'} ({identity.device_id[:8]})"
        age = (time.time() - identity.made_at) / DAY
        said = f"{name} is enrolled at {identity.server}; its key is {max(age, 0):.0f} days old"
        if not settings.key_days:
            yield sound("enrolled", f"{said} and kept (--key-days 0).")
        elif age > settings.key_days + LATE_DAYS:
            yield warning("enrolled", f"{said}, due for a new one after {settings.key_days}: let the client run.")
        else:
            left = max(settings.key_days - age, 0)
            yield sound("enrolled", f"{said} and is replaced in {left:.0f} days.")


def _servers(identities: Identities, settings: DoctorSettings) -> Iterator[tuple[str, Identity | None]]:
    if settings.insecure:
        yield settings.server or LOCAL_SERVER, None
        return
    try:
        for name in identities.names():
            identity = identities.get(name)
            if identity is not None:
                yield settings.server or identity.server, identity
    except EnvironmentProblem:
        return  # told by the check before


def _disk(quota: Quota) -> Finding:
    of = f" of --disk-mb {quota.most // MEGABYTE}" if quota.most else ""
    said = f"The home takes {quota.used / 1e6:.1f} MB{of}; {quota.free / 1e6:.0f} MB are left for it"
    if quota.free < LITTLE_DISK and not quota.most:
        return warning("disk", f"{said}: free some space, or a bundle may not fit.")
    return sound("disk", f"{said}.")


def _memory(bundle: Bundle | None, settings: DoctorSettings) -> Iterator[Finding]:
    from edge.workshop import require_memory, usable_memory

    if bundle is None:
        yield sound("bundle", "No bundle is here yet: the client fetches it with its first task.")
        return
    manifest = bundle.manifest
    yield sound("bundle", f"{manifest.bundle_id[:12]}, {manifest.task.replace('-', ' ')}, is here and undamaged.")
    available = usable_memory(settings.memory_mb << 20)
    try:
        require_memory(bundle, available)
    except EnvironmentProblem as error:
        yield problem("memory", str(error))
    else:
        free = "any amount" if available is None else f"{available / 1e6:.0f} MB"
        yield sound("memory", f"{free} may be used, enough for the bundle.")


def _data(bundle: Bundle | None, settings: DoctorSettings, status: Status | None) -> Iterator[Finding]:
    """The data named on the command line, or what the last client was given."""
    from ravan.runtime.dataset import find_dataset
    from ravan.runtime.examples import read_examples

    files = settings.data or tuple(Path(path) for path in (status.data if status else ()))
    if not files:
        yield warning("data", "No data file is known: give the --data that the client is to have.")
    for path in files:
        try:
            make = find_dataset(settings.dataset) if settings.dataset else None
            if bundle is not None:
                examples = read_examples(bundle, path, skip_bad=settings.skip_bad, make=make)
                skipped = f", {examples.skipped} left out" if examples.skipped else ""
                yield sound("data", f"{path} has {len(examples)} usable examples{skipped}.")
                continue
            list(path.iterdir()) if path.is_dir() else path.open("rb").close()
        except OSError as error:
            yield problem("data", str(explain_os_error(error)))
        except RavanError as error:
            yield problem("data", str(error))
        else:
            yield sound("data", f"{path} can be read; its examples can be counted once a bundle is here.")


def _versions() -> Finding:
    found = [f"Python {platform.python_version()}", " ".join(platform.libc_ver()), f"{platform.machine()}"]
    for package in ("ravan-fl", "onnxruntime", "onnxruntime-training-cpu", "numpy", "grpcio"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return sound("versions", ", ".join(found) + ".")


def _conditions(rules: Rules) -> Iterator[Finding]:
    conditions = Conditions(rules)
    if rules.max_load is not None:
        time.sleep(SETTLE_SECONDS)
    found = conditions.readings()
    if rules.max_temperature is not None and found.heat is None:
        yield warning("conditions", "No thermal zone can be read here: --max-temperature has no effect.")
    if rules.min_battery is not None and found.power.charge is None:
        yield warning("conditions", "No battery can be read here: --min-battery has no effect.")
    reasons = broken(rules, found)
    for reason in reasons:
        yield warning("conditions", f"Training would wait now: {reason.sentence}.")
    if rules.is_metered and not rules.allow_tasks:
        yield warning("conditions", f"The network is metered ({rules.metered_flag} exists): no task is taken.")
    if not reasons:
        yield sound("conditions", "Training would be allowed now.")
