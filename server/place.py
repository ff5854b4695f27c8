"""Where a server keeps what it must not lose: a folder of its own, or a database that it shares with others."""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ravan.errors import SettingsError

DEFAULT_STATE = "ravan-state"
SCHEME = "postgresql://"


@dataclass(frozen=True)
class Place:
    """What ``--state`` and ``--folder`` come to.

    Attributes:
        folder: everything, or beside a database what is this server's own: certificates, keys, socket, cached bundles.
        database: URL of the database that several servers share; empty for the one in the folder.
    """

    folder: Path
    database: str = ""

    @classmethod
    def of(cls, state: str | Path, folder: Path | None = None) -> "Place":
        """The place that the settings name.

        Raises:
            SettingsError: a database of a kind unknown here, or a second folder.
        """
        text = str(state)
        if text.startswith(SCHEME):
            return cls(folder or Path(os.environ.get("RAVAN_SERVER_FOLDER", DEFAULT_STATE)), text)
        if "://" in text:
            raise SettingsError(f"--state takes a folder or {SCHEME}USER@HOST/DATABASE, not {text.partition(':')[0]}.")
        if folder is not None and folder != Path(text):
            raise SettingsError("--folder goes with a database alone: without one everything is in --state.")
        return cls(Path(text))

    def __str__(self) -> str:
        """For logs: without a password."""
        if not self.database:
            return str(self.folder)
        parts = urlsplit(self.database)
        return f"{SCHEME}{parts.netloc.rpartition('@')[2]}{parts.path}"
