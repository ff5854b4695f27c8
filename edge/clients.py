"""Newer clients in a device's home: signed by the operator, verified to the last file, started on trial.

    clients/0.2.0-5891b5b522d5/          the folder of a client, as its archive unpacks
    clients/0.2.0-5891b5b522d5.json      what the operator signed of it, and how its trial goes
    clients/0.2.0-5891b5b522d5.partial   an archive on its way

The client that was installed starts the newest of them. After three starts that did not go well the older one goes on
in its place, and once the server answers that one, the newer gets a single start more, for it may have been the server
that was away; then it is given up. The start of one that the server has never answered, which is on trial, goes well
with its answer. From then on a start goes well if the client runs for a minute or ends of its own accord, whatever the
server does: in wrong hands that could lead a device back to an older one by silence else.
"""

import json
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import structlog

import ravan
from edge.identity import ENROLLED, Identities
from edge.itself import own_program
from edge.quota import PARTIAL, Quota, size_of
from edge.resuming import download
from ravan.archives import PROGRAM, Tree, sha256_of, tree_of, unpack
from ravan.errors import EnvironmentProblem, ReleaseError
from ravan.faults import reached
from ravan.files import drop_temporary, new_folder, sync_folder, write_atomically
from ravan.rpc.vouching import Archive, is_signed_archive
from ravan.versions import is_newer, order

log = structlog.get_logger()
CLIENTS = "clients"
STARTS = 3
"""So many starts in a row may go wrong before an older client goes on in its place."""
RECORD = ".json"

Fetch = Callable[[str, Callable[[bytes], object], int, int], None]
"""As ``FleetClient.fetch_release``."""


@dataclass(frozen=True)
class Newer:
    """A newer client.

    Attributes:
        archive: what the operator signed.
        signature: by the operator's key, hex.
        starts: since it came or a start of it went well.
        answered: whether the server has ever answered it.
        doubted: whether these were too many, and the server answered an older one after them.
        given_up: whether it is never started again.
    """

    archive: Archive
    signature: str
    starts: int = 0
    answered: bool = False
    doubted: bool = False
    given_up: bool = False

    @property
    def name(self) -> str:
        """Of its folder: versions may be built twice."""
        return f"{self.archive.version}-{self.archive.sha256[:12]}"

    @property
    def may_start(self) -> bool:
        """Whether it has not had all its starts."""
        return not self.given_up and self.starts < STARTS


@dataclass(frozen=True)
class Successor:
    """A program to start in place of the one that was installed, and whether it is on trial."""

    program: Path
    version: str
    on_trial: bool


class Clients:
    """The newer clients of a home, as one running client sees them.

    Args:
        home: the device's.
        operator: public key, hex, by which they must be signed; empty for a device that takes none.
        quota: of the home.
        machine: the kind that they must be for.
        version: of the program that runs.
        program: its file, None from source.
    """

    def __init__(
        self,
        home: Path,
        operator: str,
        quota: Quota,
        machine: str = platform.machine(),
        version: str = "",
        program: Path | None = None,
    ) -> None:
        self._home, self._folder = home, home / CLIENTS
        self._operator, self._quota, self._machine = operator, quota, machine
        found = own_program() if program is None else program
        self.own = None if found is None else self._own(found)
        """Which of them runs; None for what was installed."""
        version = version or ravan.__version__
        claimed = version if self.own is None else self.own.archive.version
        self.version = claimed if is_newer(claimed, version) else version

    @property
    def on_trial(self) -> bool:
        """Whether the client that runs is one that the server has never answered."""
        return self.own is not None and not self.own.answered

    def successors(self) -> Iterator[Successor]:
        """What may be started in place of the installed client, the newest first; each counts as started.

        A client whose files are not those that the operator signed is removed.
        """
        if self.own is not None or not self._operator:
            return
        for each in reversed(newer_clients(self._home)):
            if not (each.may_start and is_newer(each.archive.version, self.version)):
                continue
            try:
                self._verify(each)
            except (ReleaseError, OSError) as error:
                log.warning("newer client removed", version=each.archive.version, reason=str(error))
                self._remove(each)
                continue
            self._keep(replace(each, starts=each.starts + 1))
            yield Successor(self._folder / each.name / PROGRAM, each.archive.version, not each.answered)

    def take(self, archive: Archive, signature: str, fetch: Fetch) -> bool:
        """Fetches a client that is not here; returns whether it may be started.

        Raises:
            ReleaseError: the operator did not sign it, it is not for this device, it is not newer than what runs, or
                what the server sends is something else. Nothing of it was run, and unpacked only what was signed.
            EnvironmentProblem: there is too little disk.
        """
        if not is_signed_archive(self._operator, signature, archive):
            raise ReleaseError(
                f"The operator's key did not sign client {archive.version}, so it is not fetched: ask the operator "
                "whether the server is still theirs."
            )
        if archive.machine != self._machine:
            raise ReleaseError(f"Client {archive.version} is for {archive.machine}, this is {self._machine}.")
        if not is_newer(archive.version, self.version):
            raise ReleaseError(f"Client {archive.version} is not newer than {self.version}, which runs: it is refused.")
        known = next((each for each in newer_clients(self._home) if each.archive == archive), None)
        if known is not None and (known.given_up or (self._folder / known.name).is_dir()):
            return known.may_start
        self._fetch(Newer(archive, signature), fetch)
        return True

    def answered(self) -> None:
        """Notes that the server answers the client that runs, and what follows for the others.

        Older ones go. Newer ones that had all their starts get one more, or have had it and are given up.
        """
        if self.own is not None and not self.own.answered:
            self._goes_well(replace(self.own, answered=True))
        for each in newer_clients(self._home) if self._operator else ():
            if self.own is not None and each.archive == self.own.archive:
                continue
            if not is_newer(each.archive.version, self.version):
                self._remove(each)
            elif not each.may_start and not each.given_up:
                self._keep(replace(each, doubted=True, given_up=each.doubted, starts=each.starts - (not each.doubted)))
                if each.doubted:
                    log.warning("newer client given up", version=each.archive.version, starts=each.starts)
                    shutil.rmtree(self._folder / each.name, ignore_errors=True)

    def did_well(self) -> None:
        """Notes that the client that runs has run for a while or ends of its own accord; on trial that says nothing."""
        if self.own is not None and self.own.answered and self.own.starts:
            self._goes_well(self.own)

    def _goes_well(self, own: Newer) -> None:
        self.own = replace(own, starts=0, doubted=False)
        self._keep(self.own)

    def _own(self, program: Path) -> Newer | None:
        """The one of these clients that a program is."""
        where = program.resolve()
        inside = [c for c in newer_clients(self._home) if where.is_relative_to((self._folder / c.name).resolve())]
        return inside[0] if inside else None

    def _verify(self, newer: Newer) -> None:
        """Raises ReleaseError if a client on disk is not what the operator signed for this machine."""
        archive = newer.archive
        if not is_signed_archive(self._operator, newer.signature, archive) or archive.machine != self._machine:
            raise ReleaseError(f"The operator's key did not sign {newer.name} for this machine: it is not started.")
        if tree_of(self._folder / newer.name) != Tree(archive.tree, archive.unpacked):
            raise ReleaseError(f"The files of {newer.name} are not those that were signed: it is not started.")

    def _fetch(self, newer: Newer, fetch: Fetch) -> None:
        """Downloads, verifies and unpacks; what was cut off goes on where it stopped."""
        archive, partial = newer.archive, self._folder / f"{newer.name}{PARTIAL}"
        self._folder.mkdir(exist_ok=True)
        self._tidy(partial)
        needed = archive.size - size_of(partial) + archive.unpacked
        free = self._quota.free
        if free < needed:
            raise EnvironmentProblem(
                f"Client {archive.version} needs {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are left for it: free "
                "some space, or give more by --disk-mb."
            )
        log.info("fetching client", version=archive.version, bytes=archive.size)
        _download(archive, partial, fetch)
        reached("client-fetched")
        shutil.rmtree(self._folder / newer.name, ignore_errors=True)
        with new_folder(self._folder / newer.name) as fresh:
            unpack(partial, fresh, archive.unpacked)
            if tree_of(fresh) != Tree(archive.tree, archive.unpacked):
                raise ReleaseError(f"Client {archive.version} does not unpack to what was signed: it is refused.")
            self._keep(newer)  # first, so that whatever has a client's name is known
            reached("client-unpacked")
        partial.unlink()
        sync_folder(self._folder)
        log.info("client fetched", version=archive.version)

    def _tidy(self, partial: Path) -> None:
        """Removes what was cut off, and archives that are not asked for any more."""
        drop_temporary(self._folder)
        for path in self._folder.iterdir():
            if path.is_dir() and path.name.startswith("."):
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.endswith(PARTIAL) and path != partial:
                path.unlink()

    def _keep(self, newer: Newer) -> None:
        write_atomically(self._folder / f"{newer.name}{RECORD}", json.dumps(asdict(newer), indent=1).encode())

    def _remove(self, newer: Newer) -> None:
        shutil.rmtree(self._folder / newer.name, ignore_errors=True)
        (self._folder / f"{newer.name}{RECORD}").unlink(missing_ok=True)


def newer_clients(home: Path) -> list[Newer]:
    """The newer clients that a home knows of, those given up included, the oldest first."""
    found = []
    for path in (home / CLIENTS).glob(f"*{RECORD}"):
        try:
            value = json.loads(path.read_text("utf-8"))
            each = Newer(**{**value, "archive": Archive(**value["archive"])})
        except (OSError, ValueError, TypeError, KeyError, ReleaseError) as error:
            log.warning("client left alone", record=path.name, reason=str(error))
            continue
        if path.name == f"{each.name}{RECORD}":
            found.append(each)
    return sorted(found, key=lambda each: (order(each.archive.version), each.name))


def given_up(newer: Newer) -> str:
    """Of one that is, for its owner."""
    return (
        f"Version {newer.archive.version} was given up: it was started several times and "
        f"{'ended at once' if newer.answered else 'the server never answered it'}; an older one goes on."
    )


def operator_of(identities: Identities) -> str:
    """The one operator's key that all devices of a home know; empty if there is none, or more than one.

    Whoever signs clients has the say on all of a home's data, which no operator may get by another's devices.
    """
    known = [identities.get(name, ENROLLED) for name in identities.names()]
    operators = {identity.operator for identity in known if identity is not None}
    return operators.pop() if len(operators) == 1 else ""


def _download(archive: Archive, partial: Path, fetch: Fetch) -> None:
    """Fetches what of an archive is not here, durably.

    Raises:
        ReleaseError: its bytes are not those that were signed.
    """

    def check() -> None:
        if partial.stat().st_size != archive.size or sha256_of(partial) != archive.sha256:
            raise ReleaseError(
                f"What the server sends of client {archive.version} is not what was signed: it is refused."
            )

    def fetch_from(write: Callable[[bytes], object], offset: int) -> None:
        fetch(archive.sha256, write, offset, archive.size)

    download(partial, archive.size, fetch_from, check, ReleaseError)
