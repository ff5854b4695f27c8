"""Where bundles and held-out examples of runs are found: where the operator has them, or kept for several servers."""

import hashlib
import json
import shutil
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from ravan.bundle import Bundle, Manifest, open_bundle
from ravan.bundle_files import MANIFEST, FileEntry, check_file, describe_file, read_entries
from ravan.errors import BundleError
from ravan.files import new_folder
from server.records import Run
from server.sql_blobs import SqlBlobs


class Shelf(Protocol):
    """Keeps what a run names, so that it is found again."""

    def keep_bundle(self, bundle: Bundle) -> Bundle:
        """Takes a bundle in; returns it where it is kept."""
        ...

    def bundle(self, run: Run) -> Bundle:
        """A run's bundle, checked.

        Raises:
            BundleError: it is damaged, or not where it was.
        """
        ...

    def keep_examples(self, path: Path) -> str:
        """Takes held-out examples in, a file or a folder; returns what a run names them by."""
        ...

    def examples(self, name: str) -> Path:
        """Where the examples of this name are."""
        ...


class OwnShelf:
    """``Shelf`` of a server alone: everything stays where the operator has it."""

    def keep_bundle(self, bundle: Bundle) -> Bundle:
        """See ``Shelf``."""
        return bundle

    def bundle(self, run: Run) -> Bundle:
        """See ``Shelf``."""
        return open_bundle(Path(run.bundle_folder))

    def keep_examples(self, path: Path) -> str:
        """See ``Shelf``."""
        return str(path.resolve())

    def examples(self, name: str) -> Path:
        """See ``Shelf``."""
        return Path(name)


class SharedShelf:
    """``Shelf`` of several servers: files are blobs by their sha256, and each server lays them out in a cache.

    Args:
        files: where the files are.
        cache: this server's own folder for them.
    """

    def __init__(self, files: SqlBlobs, cache: Path) -> None:
        self._files = files
        self._cache = cache
        self._lock = threading.Lock()

    def keep_bundle(self, bundle: Bundle) -> Bundle:
        """See ``Shelf``."""
        self._keep(bundle.folder, bundle.manifest.files)
        return self._laid_out(self._files.put(bundle.manifest.to_json().encode()))

    def bundle(self, run: Run) -> Bundle:
        """See ``Shelf``."""
        return self._laid_out(run.bundle_id)

    def _laid_out(self, bundle_id: str) -> Bundle:
        folder = self._cache / "bundles" / bundle_id
        with self._lock:
            try:
                return open_bundle(folder)
            except BundleError:
                shutil.rmtree(folder, ignore_errors=True)
            manifest = Manifest.from_json(self._files.get(bundle_id))
            with new_folder(folder) as laid:
                (laid / MANIFEST).write_text(manifest.to_json(), "utf-8")
                self._lay(laid, manifest.files)
        return Bundle(folder, manifest)

    def keep_examples(self, path: Path) -> str:
        """See ``Shelf``."""
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        files = {str(p.relative_to(path.parent)): describe_file(p) for p in inside}
        self._keep(path.parent, files)
        listed = json.dumps({name: asdict(entry) for name, entry in files.items()}, sort_keys=True)
        return f"{self._files.put(listed.encode())}/{path.name}"

    def examples(self, name: str) -> Path:
        """See ``Shelf``."""
        sha256 = name.partition("/")[0]
        folder = self._cache / "examples" / sha256
        with self._lock:
            files = read_entries(json.loads(self._files.get(sha256)))
            try:
                for file, entry in files.items():
                    check_file(folder, file, entry)
            except BundleError:
                shutil.rmtree(folder, ignore_errors=True)
                with new_folder(folder) as laid:
                    self._lay(laid, files)
        return self._cache / "examples" / name

    def _keep(self, folder: Path, files: Mapping[str, FileEntry]) -> None:
        for name, entry in files.items():
            with (folder / name).open("rb") as file:
                self._files.put_file(file, entry.sha256)

    def _lay(self, folder: Path, files: Mapping[str, FileEntry]) -> None:
        """Writes files into a folder.

        Raises:
            BundleError: the database holds other bytes.
        """
        for name, entry in files.items():
            path, digest = folder / name, hashlib.sha256()
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for piece in self._files.pieces(entry.sha256):
                    digest.update(piece)
                    file.write(piece)
            if digest.hexdigest() != entry.sha256:
                raise BundleError(f"The database holds {name} damaged: start another run with the bundle.")
