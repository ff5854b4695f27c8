"""The bundle that an adapter was trained with, for commands that need no server."""

import re
from pathlib import Path

from edge.home import SHA256
from edge.quota import BUNDLES
from ravan.bundle import Bundle, open_bundle
from ravan.bundle_files import OPTIONAL
from ravan.errors import BundleError
from ravan.runtime.adapter import bundle_of


def find_bundle(adapter: Path, bundle: Path | None, home: Path) -> Bundle:
    """The bundle in the folder given, or the one in the device's home that the adapter was trained with.

    Raises:
        BundleError: there is none, or it is damaged.
    """
    if bundle is not None:
        return open_bundle(bundle, may_lack=OPTIONAL)
    bundle_id = bundle_of(adapter)
    folder = home / BUNDLES / bundle_id
    if not re.fullmatch(SHA256, bundle_id) or not folder.is_dir():
        raise BundleError(
            f"{home} has no bundle {bundle_id[:12]}, which {adapter} was trained with: give the --home of a device "
            "that took part, or the bundle's folder with --bundle."
        )
    return open_bundle(folder, may_lack=OPTIONAL)
