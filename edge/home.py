"""The folder a client keeps: its devices' identities and the bundles they share."""

import re
import secrets
import shutil
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import structlog

from edge.desk import Desk
from edge.fleet_client import FleetClient
from edge.identity import Identities
from edge.quota import BUNDLES, PARTIAL, Quota, mark_used, size_of
from edge.resuming import download
from edge.upload_log import UploadLog
from ravan.bundle import Bundle, Manifest, open_bundle
from ravan.bundle_files import MANIFEST, OPTIONAL, FileEntry, check_file
from ravan.errors import BundleError, EnvironmentProblem
from ravan.faults import reached
from ravan.files import drop_temporary, lock_folder, sync_folder, write_atomically

log = structlog.get_logger()
Admit = Callable[[Manifest], Collection[str]]
"""Called with a manifest before anything more of its bundle is fetched: raises EnvironmentProblem or BundleError if the
bundle is not for this device, and returns those of the artifacts that it downloads."""
LEFT_OUT = ".left-out"
Stamps = list[tuple[str, int, int]]
LARGEST_MANIFEST = 16 << 20  # bytes
WORK, PERSONAL = "work", "personal"
SHA256 = "[0-9a-f]{64}"


class Home:
    """Identities below ``devices/``, bundles below ``bundles/``, work in hand below ``work/``; one client at a time.

    It takes ``disk_quota`` bytes at most, 0 for what the disk has: bundles that no device uses make way for others.

    Attributes:
        identities: the devices' keys.
        uploads: the owner's record of what was sent.
        quota: what it may take of the disk.
        folder: its own.

    Raises:
        EnvironmentProblem: the folder can't be written, or another client uses it.
    """

    def __init__(self, folder: Path, disk_quota: int = 0) -> None:
        devices, self._bundles = folder / "devices", folder / BUNDLES
        devices.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._bundles.mkdir(exist_ok=True)
        self._lock = lock_folder(folder, "client")
        drop_temporary(devices)
        self.quota = Quota(folder, disk_quota)
        self._in_use: dict[str, str] = {}
        self.uploads = UploadLog(folder)
        self.identities = Identities(devices)
        self.folder = folder
        self._fetching = threading.Lock()
        self._checked: dict[str, tuple[Bundle, Stamps]] = {}

    def close(self) -> None:
        """Lets another client use the folder."""
        self._lock.close()

    def device_id(self, name: str) -> str:
        """The id of the device of this name at a server that knows no keys: drawn once, then kept."""
        path = self.identities.path(name)
        if not path.exists():
            write_atomically(path, secrets.token_hex(16).encode())
        return path.read_text("ascii")

    def desk(self, name: str) -> Desk:
        """Where the work of the device of this name lies."""
        left_out = self.identities.path(name, LEFT_OUT)
        return Desk(self.folder / WORK / left_out.stem, left_out)

    def folder_of(self, bundle_id: str) -> Path:
        """Where a bundle is, or would be."""
        return self._bundles / bundle_id

    def layers(self, bundle_id: str) -> tuple[str, ...]:
        """Names of the adapted layers of a bundle that is here; none of another."""
        path = self.folder_of(bundle_id) / MANIFEST
        if not path.exists():
            return ()
        return tuple(layer.name for layer in Manifest.from_json(path.read_bytes()).adapter.layers)

    def bundle(self, client: FleetClient, bundle_id: str, admit: Admit = lambda _: ()) -> Bundle:
        """The bundle with this id, fetched if it is not here, whole and checked.

        Raises:
            BundleError: what the server sends is not the bundle of this id.
            EnvironmentProblem: it is not for this device, or there is too little disk; nothing more than the manifest
                is fetched.
        """
        if not re.fullmatch(SHA256, bundle_id):  # or the server could name any folder of this device
            raise BundleError("The server names a bundle by no sha256: tell the operator, and trust nothing it sends.")
        folder = self._bundles / bundle_id
        with self._fetching:
            self._in_use[client.device_id] = bundle_id
            if folder.exists():
                try:
                    held = self._held(folder, bundle_id)
                except BundleError as error:
                    log.warning("bundle dropped", reason=str(error))
                    shutil.rmtree(folder)
                else:
                    mark_used(folder)
                    return self._complete(client, held, admit(held.manifest))
            fetched = self._fetch(client, bundle_id, folder, admit)
            for abandoned in self._bundles.glob(f"*{PARTIAL}"):  # of a run that was over before it was whole
                shutil.rmtree(abandoned)
            return fetched

    def _held(self, folder: Path, bundle_id: str) -> Bundle:
        """What is here, checked once and again whenever a file was changed: hashing it all takes long."""
        known = self._checked.get(bundle_id)
        if known is None or _stamps(known[0]) != known[1]:
            bundle = _opened(folder, bundle_id)
            known = self._checked[bundle_id] = bundle, _stamps(bundle)
        return known[0]

    def _complete(self, client: FleetClient, held: Bundle, optional: Collection[str]) -> Bundle:
        """Adds what of the optional files is not here yet."""
        missing = [name for name in optional if not held.path(name).exists()]
        if missing:
            partial = _partial(held.folder)
            self._download(client, held.manifest, missing, partial)
            for name in missing:
                held.path(name).parent.mkdir(exist_ok=True)
                (partial / name).rename(held.path(name))
            shutil.rmtree(partial)
        return held

    def _fetch(self, client: FleetClient, bundle_id: str, folder: Path, admit: Admit) -> Bundle:
        """Downloads manifest and files, then gives the folder its name."""
        partial = _partial(folder)
        received = bytearray()
        client.fetch_file(bundle_id, MANIFEST, received.extend, 0, LARGEST_MANIFEST)
        manifest = Manifest.from_json(bytes(received))
        if manifest.bundle_id != bundle_id:
            raise BundleError(
                "The server's manifest is not the one of this bundle: ask the operator to restart the run."
            )
        wanted = set(admit(manifest))
        self._download(client, manifest, [f for f in manifest.files if f in wanted or f not in OPTIONAL], partial)
        write_atomically(partial / MANIFEST, manifest.to_json().encode())
        partial.rename(folder)
        sync_folder(self._bundles)
        reached("bundle-fetched")
        log.info("bundle fetched", bundle=bundle_id[:12])
        return _opened(folder, bundle_id)

    def _download(self, client: FleetClient, manifest: Manifest, names: Sequence[str], partial: Path) -> None:
        """File by file; a download cut off goes on where it stopped."""
        bundle_id, entries = manifest.bundle_id, {name: manifest.files[name] for name in names}
        missing = sum(entry.size for entry in entries.values()) - size_of(partial)
        try:
            self.quota.make_room(bundle_id, missing, self._in_use.values())
        except EnvironmentProblem:
            shutil.rmtree(partial)
            raise
        log.info("fetching bundle", bundle=bundle_id[:12], bytes=sum(entry.size for entry in entries.values()))
        for name, entry in entries.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _fetch_file(client, bundle_id, name, path, entry)
            reached("file-fetched")


def _fetch_file(client: FleetClient, bundle_id: str, name: str, path: Path, entry: FileEntry) -> None:
    """Fetches what of a file is not here, durably.

    Raises:
        BundleError: its bytes are not those that the manifest promises.
    """

    def fetch(write: Callable[[bytes], object], offset: int) -> None:
        client.fetch_file(bundle_id, name, write, offset, entry.size)

    def check() -> None:
        check_file(path.parents[name.count("/")], name, entry)

    download(path, entry.size, fetch, check, BundleError)


def _partial(folder: Path) -> Path:
    """Where the files of a bundle wait until all are there."""
    partial = folder.with_name(f"{folder.name}{PARTIAL}")
    partial.mkdir(exist_ok=True)
    return partial


def _stamps(bundle: Bundle) -> Stamps:
    """Size and time of the last change of every file that is there."""
    found = [(name, bundle.path(name)) for name in (MANIFEST, *bundle.manifest.files)]
    stats = [(name, path.stat()) for name, path in found if path.exists()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _opened(folder: Path, bundle_id: str) -> Bundle:
    bundle = open_bundle(folder, may_lack=OPTIONAL)
    if bundle.manifest.bundle_id != bundle_id:
        raise BundleError(f"The manifest of {folder} was changed: it is fetched again.")
    return bundle
