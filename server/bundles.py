"""The bundles of the server's runs, each checked once per process."""

import asyncio
from pathlib import Path

from ravan.bundle import Bundle, open_bundle
from ravan.errors import BundleError
from server.records import Run


class Bundles:
    """Opens a run's bundle when it is first needed."""

    def __init__(self) -> None:
        self._opened: dict[str, Bundle] = {}

    async def open(self, folder: Path) -> Bundle:
        """A bundle by its folder, checked.

        Raises:
            BundleError: it is damaged.
        """
        bundle = await asyncio.to_thread(open_bundle, folder.resolve())
        return self._opened.setdefault(bundle.manifest.bundle_id, bundle)

    async def of(self, run: Run) -> Bundle:
        """A run's bundle.

        Raises:
            BundleError: it was moved or changed since the run began.
        """
        if run.bundle_id not in self._opened:
            bundle = await asyncio.to_thread(open_bundle, Path(run.bundle_folder))
            if bundle.manifest.bundle_id != run.bundle_id:
                raise BundleError(
                    f"Run {run.run_id} began with another bundle than {bundle.folder} holds: put it back."
                )
            self._opened[run.bundle_id] = bundle
        return self._opened[run.bundle_id]
