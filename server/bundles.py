"""The bundles of the server's runs, each checked once per process."""

import asyncio
from pathlib import Path

from ravan.bundle import Bundle, open_bundle
from ravan.errors import BundleError
from server.records import Run
from server.shelf import Shelf


class Bundles:
    """Opens a run's bundle when it is first needed."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._opened: dict[str, Bundle] = {}

    async def take(self, folder: Path) -> Bundle:
        """A bundle by its folder, checked, and kept for runs.

        Raises:
            BundleError: it is damaged.
        """
        bundle = await asyncio.to_thread(open_bundle, folder.resolve())
        kept = await asyncio.to_thread(self._shelf.keep_bundle, bundle)
        return self._opened.setdefault(bundle.manifest.bundle_id, kept)

    async def take_examples(self, path: Path) -> str:
        """Keeps held-out examples for runs; returns what they name them by."""
        return await asyncio.to_thread(self._shelf.keep_examples, path)

    async def examples_of(self, run: Run) -> Path | None:
        """Where a run's held-out examples are, if it has some."""
        return await asyncio.to_thread(self._shelf.examples, run.evaluation_file) if run.evaluation_file else None

    async def of(self, run: Run) -> Bundle:
        """A run's bundle.

        Raises:
            BundleError: it was moved or changed since the run began.
        """
        if run.bundle_id not in self._opened:
            bundle = await asyncio.to_thread(self._shelf.bundle, run)
            if bundle.manifest.bundle_id != run.bundle_id:
                raise BundleError(
                    f"Run {run.run_id} began with another bundle than {bundle.folder} holds: put it back."
                )
            self._opened[run.bundle_id] = bundle
        return self._opened[run.bundle_id]
