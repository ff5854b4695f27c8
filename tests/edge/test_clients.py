"""Newer clients in a home: taken if signed, whole, newer and for this machine; started on trial; given up in time."""

import hashlib
import json
import os
import platform
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from edge import updating
from edge.clients import CLIENTS, STARTS, Clients, given_up, newer_clients, operator_of
from edge.enrollment import enroll
from edge.fleet_client import FleetClient
from edge.identity import ENROLLED, Identities, Identity
from edge.quota import PARTIAL, Quota
from ravan.archives import PROGRAM
from ravan.errors import EnvironmentProblem, ReleaseError
from ravan.rpc.keys import new_key, public_hex
from ravan.rpc.vouching import Archive, sign_archive
from server import client as operator_client
from tests.archives import SOUND, Entry, entry, program, signed_archive, write_archive
from tests.server.secured import Secured, secured

KEY, MACHINE = new_key(), platform.machine()
OPERATOR = public_hex(KEY)


class Offer:
    """An archive that a server offers, and serves as it is told to."""

    def __init__(self, folder: Path, version: str = "0.2.0", text: str = "#!/bin/sh\nexit 0\n") -> None:
        path = folder / f"{version}.tar.gz"
        release = signed_archive(path, KEY, version, MACHINE, text)
        self.archive, self.signature = Archive.from_proto(release), release.signature
        self.data, self.asked = path.read_bytes(), list[int]()
        self.breaks_at: int | None = None

    def fetch(self, sha256: str, write: Callable[[bytes], object], offset: int, size: int) -> None:
        assert (sha256, size) == (self.archive.sha256, self.archive.size)
        self.asked.append(offset)
        write(self.data[offset : self.breaks_at])
        if self.breaks_at is not None:
            raise OSError("the line broke")

    @property
    def name(self) -> str:
        return f"{self.archive.version}-{self.archive.sha256[:12]}"

    def taken_by(self, clients: Clients) -> bool:
        return clients.take(self.archive, self.signature, self.fetch)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def offers(tmp_path: Path) -> Path:
    folder = tmp_path / "offers"
    folder.mkdir()
    return folder


def installed(home: Path, operator: str = OPERATOR, most: int = 0) -> Clients:
    """As the installed client of version 0.1.0 sees them."""
    return Clients(home, operator, Quota(home, most), version="0.1.0", program=home.parent / "opt" / PROGRAM)


def started(home: Path, offer: Offer) -> Clients:
    """As a newer one does once it is started."""
    return Clients(home, OPERATOR, Quota(home), version="0.1.0", program=home / CLIENTS / offer.name / PROGRAM)


def versions(clients: Clients) -> list[str]:
    return [successor.version for successor in clients.successors()]


def held(home: Path) -> list[str]:
    return sorted(path.name for path in (home / CLIENTS).iterdir())


def test_a_signed_newer_client_is_taken_once_and_may_be_started(home: Path, offers: Path) -> None:
    offer = Offer(offers)
    assert offer.taken_by(installed(home))
    assert offer.taken_by(installed(home))
    assert offer.asked == [0]
    assert held(home) == [offer.name, f"{offer.name}.json"]
    (successor,) = installed(home).successors()
    assert (successor.program, successor.on_trial) == (home / CLIENTS / offer.name / PROGRAM, True)
    assert os.access(successor.program, os.X_OK)


def test_nothing_is_fetched_that_another_key_signed_or_that_was_said_otherwise(home: Path, offers: Path) -> None:
    offer = Offer(offers)
    for signature in ("", "0" * 128, sign_archive(new_key(), offer.archive)):
        with pytest.raises(ReleaseError, match=r"operator's key did not sign client 0\.2\.0"):
            installed(home).take(offer.archive, signature, offer.fetch)
    with pytest.raises(ReleaseError, match="did not sign"):
        installed(home).take(replace(offer.archive, version="0.3.0"), offer.signature, offer.fetch)
    with pytest.raises(ReleaseError, match="did not sign"):
        offer.taken_by(installed(home, ""))
    assert offer.asked == []
    assert not (home / CLIENTS).exists()


@pytest.mark.parametrize("version", ["0.0.9", "0.1.0", "0.1", "0.1.0rc1"])
def test_an_older_client_is_refused_however_well_it_is_signed(home: Path, offers: Path, version: str) -> None:
    offer = Offer(offers, version)
    with pytest.raises(ReleaseError, match=r"is not newer than 0\.1\.0, which runs"):
        offer.taken_by(installed(home))
    assert offer.asked == []


def test_a_newer_client_that_runs_takes_none_between_it_and_the_installed_one(home: Path, offers: Path) -> None:
    third = Offer(offers, "0.3.0")
    third.taken_by(installed(home))
    with pytest.raises(ReleaseError, match=r"is not newer than 0\.3\.0"):
        Offer(offers, "0.2.0").taken_by(started(home, third))


def test_a_client_for_another_kind_of_machine_is_refused(home: Path, offers: Path) -> None:
    release = signed_archive(offers / "a.tar.gz", KEY, "0.2.0", "riscv64")
    with pytest.raises(ReleaseError, match="is for riscv64"):
        installed(home).take(Archive.from_proto(release), release.signature, Offer(offers).fetch)


def test_an_archive_that_was_tampered_with_is_never_unpacked(
    home: Path, offers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.clients.unpack", lambda *_: pytest.fail("unpacked"))
    offer = Offer(offers)
    sound = offer.data
    for data in (sound[:-1] + bytes([sound[-1] ^ 1]), sound[:-1], b"x" * len(sound), b""):
        offer.data = data
        with pytest.raises(ReleaseError, match="is not what was signed"):
            offer.taken_by(installed(home))
        assert held(home) == []
        assert versions(installed(home)) == []


def test_a_signed_archive_that_reaches_out_of_its_folder_leaves_nothing(home: Path, offers: Path) -> None:
    """As if the operator's own key had signed it."""
    hostile: list[Entry] = [program(), entry("ravan-edge/../../../evil", b"x")]
    path = write_archive(offers / "a.tar.gz", hostile)
    offer = Offer(offers)
    offer.data = path.read_bytes()
    sha256 = hashlib.sha256(offer.data).hexdigest()
    offer.archive = replace(offer.archive, sha256=sha256, size=len(offer.data))
    offer.signature = sign_archive(KEY, offer.archive)
    with pytest.raises(ReleaseError, match="outside of ravan-edge"):
        offer.taken_by(installed(home))
    assert not list(home.parent.rglob("evil"))
    assert [name for name in held(home) if not name.endswith(PARTIAL)] == []


def test_a_signed_archive_that_unpacks_to_something_else_is_refused(home: Path, offers: Path) -> None:
    offer = Offer(offers)
    offer.archive = replace(offer.archive, tree="0" * 64)
    offer.signature = sign_archive(KEY, offer.archive)
    with pytest.raises(ReleaseError, match="does not unpack to what was signed"):
        offer.taken_by(installed(home))
    assert versions(installed(home)) == []


def test_a_fetch_that_broke_off_goes_on_where_it_stopped(home: Path, offers: Path) -> None:
    offer = Offer(offers)
    offer.breaks_at = 100
    with pytest.raises(OSError, match="the line broke"):
        offer.taken_by(installed(home))
    assert held(home) == [f"{offer.name}{PARTIAL}"]
    offer.breaks_at = None
    assert offer.taken_by(installed(home))
    assert offer.asked == [0, 100]
    assert versions(installed(home)) == ["0.2.0"]


def test_what_a_power_cut_left_of_an_archive_is_fetched_anew(home: Path, offers: Path) -> None:
    offer = Offer(offers)
    (home / CLIENTS).mkdir()
    (home / CLIENTS / f"{offer.name}{PARTIAL}").write_bytes(bytes(150))
    (home / CLIENTS / f".{offer.name}-cut").mkdir()
    (home / CLIENTS / f"0.1.9-other{PARTIAL}").write_bytes(b"x")
    assert offer.taken_by(installed(home))
    assert offer.asked == [150, 0]
    assert held(home) == [offer.name, f"{offer.name}.json"]


@pytest.mark.parametrize("point", ["client-fetched", "client-unpacked"])
def test_a_kill_at_any_point_leaves_none_or_all_of_it(
    home: Path, offers: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    def cut(name: str) -> None:
        if name == point:
            raise KeyboardInterrupt

    offer = Offer(offers)
    with monkeypatch.context() as patch:
        patch.setattr("edge.clients.reached", cut)
        with pytest.raises(KeyboardInterrupt):
            offer.taken_by(installed(home))
    assert versions(installed(home)) == []
    assert offer.taken_by(installed(home))
    assert offer.asked == [0]
    assert versions(installed(home)) == ["0.2.0"]


def test_a_client_that_does_not_fit_is_not_fetched(home: Path, offers: Path) -> None:
    offer = Offer(offers)
    with pytest.raises(EnvironmentProblem, match=r"Client 0\.2\.0 needs 0\.0 MB .* --disk-mb"):
        offer.taken_by(installed(home, most=offer.archive.size))
    assert offer.asked == []


CHANGES: dict[str, Callable[[Path], object]] = {
    "the program": lambda folder: (folder / PROGRAM).write_text("#!/bin/sh\necho evil\n"),
    "a library": lambda folder: (folder / "_internal/libs/lib.so.1").write_bytes(b"libraru"),
    "a file more": lambda folder: (folder / "_internal/evil.so").write_bytes(b""),
    "a file less": lambda folder: (folder / "_internal/lib.so").unlink(),
    "all": shutil.rmtree,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_client_that_was_changed_on_disk_is_not_started_and_goes(home: Path, offers: Path, name: str) -> None:
    offer = Offer(offers)
    offer.taken_by(installed(home))
    CHANGES[name](home / CLIENTS / offer.name)
    assert versions(installed(home)) == []
    assert held(home) == []


def test_a_record_that_another_key_signed_starts_nothing(home: Path, offers: Path) -> None:
    """Signatures are looked at again at every start."""
    offer = Offer(offers)
    offer.taken_by(installed(home))
    record = home / CLIENTS / f"{offer.name}.json"
    value = json.loads(record.read_text())
    record.write_text(json.dumps({**value, "signature": sign_archive(new_key(), offer.archive)}))
    assert versions(installed(home)) == []
    assert held(home) == []
    record.write_text("noise")
    assert versions(installed(home)) == []
    assert offer.taken_by(installed(home))


def test_the_newest_is_started_and_what_is_no_newer_than_the_installed_one_is_not(home: Path, offers: Path) -> None:
    for version in ("0.10.0", "0.2.0", "0.9.0"):
        Offer(offers, version).taken_by(installed(home))
    assert versions(installed(home)) == ["0.10.0", "0.9.0", "0.2.0"]
    upgraded = Clients(home, OPERATOR, Quota(home), version="0.9.0", program=home.parent / PROGRAM)
    assert versions(upgraded) == ["0.10.0"]


def test_a_newer_client_starts_no_other(home: Path, offers: Path) -> None:
    offer = Offer(offers)
    offer.taken_by(installed(home))
    running = started(home, offer)
    assert (running.version, running.on_trial) == ("0.2.0", True)
    assert versions(running) == []


def test_a_client_that_was_never_answered_is_given_up_and_the_old_one_goes_on(home: Path, offers: Path) -> None:
    offer = Offer(offers)
    offer.taken_by(installed(home))
    for _ in range(STARTS):
        assert versions(installed(home)) == ["0.2.0"]
    assert versions(installed(home)) == []
    assert versions(installed(home)) == []  # as long as the server answers nobody, it says nothing against the new one
    installed(home).answered()
    assert offer.taken_by(installed(home))
    assert versions(installed(home)) == ["0.2.0"]
    assert versions(installed(home)) == []
    installed(home).answered()
    (given_up,) = newer_clients(home)
    assert given_up.given_up
    assert held(home) == [f"{offer.name}.json"]
    assert not offer.taken_by(installed(home))
    installed(home).answered()
    assert versions(installed(home)) == []
    assert offer.asked == [0]


def test_a_client_that_was_answered_ends_those_before_and_needs_no_further_answer(home: Path, offers: Path) -> None:
    second, third, fourth = (Offer(offers, version) for version in ("0.2.0", "0.3.0", "0.4.0"))
    for offer in (second, third, fourth):
        offer.taken_by(installed(home))
    running = started(home, third)
    running.answered()
    assert not running.on_trial
    assert not started(home, third).on_trial
    assert [each.archive.version for each in newer_clients(home)] == ["0.3.0", "0.4.0"]
    for starts in (STARTS, 1):
        for _ in range(starts):
            assert versions(installed(home)) == ["0.4.0", "0.3.0"]
            started(home, third).did_well()
        for _ in range(2 * STARTS):
            assert versions(installed(home)) == ["0.3.0"]
            started(home, third).did_well()
        started(home, third).answered()
    assert held(home) == [third.name, f"{third.name}.json", f"{fourth.name}.json"]
    assert versions(installed(home)) == ["0.3.0"]


def test_a_client_that_crashes_at_every_start_after_an_answer_is_given_up(home: Path, offers: Path) -> None:
    offer = Offer(offers)
    offer.taken_by(installed(home))
    list(installed(home).successors())
    started(home, offer).answered()
    for starts in (STARTS, 1):
        for _ in range(starts):
            assert versions(installed(home)) == ["0.2.0"]
        assert versions(installed(home)) == []
        installed(home).answered()
    (gone,) = newer_clients(home)
    assert gone.given_up
    assert "ended at once" in given_up(gone)
    assert not offer.taken_by(installed(home))


def test_a_start_that_goes_well_after_some_that_did_not_makes_up_for_them(home: Path, offers: Path) -> None:
    offer = Offer(offers)
    offer.taken_by(installed(home))
    list(installed(home).successors())
    started(home, offer).answered()
    for _ in range(STARTS):
        assert versions(installed(home)) == ["0.2.0"]
    installed(home).answered()
    assert versions(installed(home)) == ["0.2.0"]
    started(home, offer).did_well()
    for _ in range(STARTS):
        assert versions(installed(home)) == ["0.2.0"]
    assert versions(installed(home)) == []


def test_to_run_for_long_without_an_answer_ends_no_trial(home: Path, offers: Path) -> None:
    offer = Offer(offers)
    offer.taken_by(installed(home))
    for _ in range(STARTS):
        assert versions(installed(home)) == ["0.2.0"]
        started(home, offer).did_well()
    assert versions(installed(home)) == []


def test_a_release_after_one_that_was_given_up_is_taken(home: Path, offers: Path) -> None:
    bad, good = Offer(offers, "0.2.0"), Offer(offers, "0.2.1")
    bad.taken_by(installed(home))
    for _ in range(2):
        for _ in range(STARTS):
            list(installed(home).successors())
        installed(home).answered()
    assert newer_clients(home)[0].given_up
    assert good.taken_by(installed(home))
    assert versions(installed(home)) == ["0.2.1"]
    started(home, good).answered()
    assert held(home) == [good.name, f"{good.name}.json"]


def test_devices_of_two_operators_take_no_client(tmp_path: Path) -> None:
    identities = Identities(tmp_path)
    assert operator_of(identities) == ""
    for name, operator in (("one", OPERATOR), ("two", OPERATOR)):
        identities.keep(Identity.new(name, "server:1", None, 0.0, operator), ENROLLED)
    assert operator_of(identities) == OPERATOR
    identities.keep(Identity.new("three", "server:2", None, 0.0, public_hex(new_key())), ENROLLED)
    assert operator_of(identities) == ""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Secured]:
    with secured(tmp_path / "state") as running:
        yield running


def test_a_device_takes_what_its_server_offers(server: Secured, home: Path, offers: Path) -> None:
    identities = Identities(home / "devices")
    (home / "devices").mkdir()
    identity = enroll(identities, "", server.address, server.ca, server.token())
    path = offers / "a.tar.gz"
    operator_client.set_release(server.control, path, signed_archive(path, server.tls.operator(), "0.2.0", MACHINE))
    clients = installed(home, operator_of(identities))
    with closing(FleetClient(server.address, identity.device_id, threading.Event(), identity)) as fleet:
        offered = fleet.find_release(MACHINE, clients.version)
        assert offered is not None
        assert clients.take(Archive.from_proto(offered), offered.signature, fleet.fetch_release)
    assert versions(clients) == ["0.2.0"]


class Became(Exception):
    """What a process would have turned into."""


@pytest.fixture
def frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process seems to be an installed program."""
    path = tmp_path / "opt" / PROGRAM
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", str(path))

    def execve(program: Path, arguments: list[str], environment: dict[str, str]) -> None:
        raise Became(Path(program), arguments, environment)

    monkeypatch.setattr("edge.updating.os.execve", execve)
    return path


def enrolled_home(home: Path) -> None:
    (home / "devices").mkdir()
    Identities(home / "devices").keep(Identity.new("", "server:1", None, 0.0, OPERATOR), ENROLLED)


def test_run_turns_into_a_client_that_takes_its_settings(home: Path, offers: Path, frozen: Path) -> None:
    enrolled_home(home)
    shows = f'#!/bin/sh\necho "$@" "$LD_LIBRARY_PATH" > {home.parent}/told\n[ "$1" = _try ]\n'
    offer = Offer(offers, text=shows)
    offer.taken_by(installed(home))
    with pytest.raises(Became) as became:
        updating.start_successor(home, 0, ["run", "--data", "x y"])
    program_, arguments, environment = became.value.args
    assert program_ == home / CLIENTS / offer.name / PROGRAM
    assert arguments == [str(program_), "run", "--data", "x y"]
    assert environment[updating.INSTALLED] == str(frozen)
    assert (home.parent / "told").read_text() == "_try --data x y \n"


@pytest.mark.parametrize("text", ["#!/bin/sh\necho no >&2\nexit 2\n", "#!/nowhere\n", "no program"])
def test_a_client_that_cannot_start_here_is_passed_over_at_once(
    home: Path, offers: Path, frozen: Path, text: str
) -> None:
    enrolled_home(home)
    bad, good = Offer(offers, "0.3.0", text), Offer(offers, "0.2.0")
    bad.taken_by(installed(home))
    updating.start_successor(home, 0, ["run"])
    good.taken_by(installed(home))
    with pytest.raises(Became) as became:
        updating.start_successor(home, 0, ["run"])
    assert good.name in str(became.value.args[0])
    assert {each.archive.version: each.starts for each in newer_clients(home)} == {"0.3.0": 2, "0.2.0": 1}


def test_from_source_nothing_is_started(home: Path, offers: Path) -> None:
    enrolled_home(home)
    Offer(offers).taken_by(installed(home))
    updating.start_successor(home, 0, ["run"])
    assert newer_clients(home)[0].starts == 0


def test_what_is_sound_beside_the_program_is_kept(home: Path, offers: Path) -> None:
    offer = Offer(offers)
    offer.taken_by(installed(home))
    unpacked = home / CLIENTS / offer.name
    assert (unpacked / "_internal/lib.so").read_bytes() == SOUND[1][1]
