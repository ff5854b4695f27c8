"""Blobs in the database that several servers share, in pieces, so that no server needs the others' disks."""

import hashlib
from collections.abc import Iterator
from typing import BinaryIO

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    delete,
    event,
    insert,
    select,
)
from sqlalchemy.dialects import postgresql

from server.blobs import PIECE, missing
from server.sql_database import SqlDatabase

shared = MetaData()
"""Tables of a shared database beside those of every state."""

blobs = Table(
    "blobs",
    shared,
    Column("kind", String(16), primary_key=True),
    Column("sha256", String(64), primary_key=True),
    Column("size", BigInteger, nullable=False),
)

blob_pieces = Table(
    "blob_pieces",
    shared,
    Column("kind", String(16), primary_key=True),
    Column("sha256", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
)
# Weights don't compress: trying takes longer than writing them.
event.listen(
    blob_pieces,
    "after_create",
    DDL("ALTER TABLE blob_pieces ALTER COLUMN data SET STORAGE EXTERNAL"),  # type: ignore[no-untyped-call]
)


class SqlBlobs(SqlDatabase):
    """``Blobs`` of one kind in PostgreSQL; see there for what each method promises."""

    def __init__(self, engine: Engine, kind: str) -> None:
        super().__init__(engine)
        self._kind = kind

    def put(self, data: bytes) -> str:
        """See ``Blobs``."""
        with self.transaction() as db:
            return self.put_in(db, data)

    def put_in(self, db: Connection, data: bytes) -> str:
        """``put`` as a part of a transaction, to the end of which nobody else puts or drops this blob."""
        sha256 = hashlib.sha256(data).hexdigest()
        pieces = (data[start : start + PIECE] for start in range(0, len(data), PIECE))
        self._insert(db, sha256, len(data), pieces)
        return sha256

    def put_file(self, file: BinaryIO, sha256: str) -> None:
        """See ``Blobs``."""
        size = file.seek(0, 2)
        file.seek(0)
        with self.transaction() as db:
            self._insert(db, sha256, size, iter(lambda: file.read(PIECE), b""))

    def get(self, sha256: str) -> bytes:
        """See ``Blobs``."""
        return b"".join(self.pieces(sha256))

    def pieces(self, sha256: str, offset: int = 0) -> Iterator[bytes]:
        """See ``Blobs``."""
        left, (number, skip) = self.size(sha256) - offset, divmod(offset, PIECE)
        while left > 0:
            mine = blob_pieces.c.number == number
            row = self.first(select(blob_pieces.c.data).where(self._is(blob_pieces, sha256), mine))
            if row is None:
                raise missing(sha256)
            data = bytes(row["data"])[skip:]
            left, number, skip = left - len(data), number + 1, 0
            yield data

    def size(self, sha256: str) -> int:
        """See ``Blobs``."""
        row = self.first(select(blobs.c.size).where(self._is(blobs, sha256)))
        if row is None:
            raise missing(sha256)
        return int(row["size"])

    def names(self) -> list[str]:
        """See ``Blobs``."""
        return [row["sha256"] for row in self.all(select(blobs.c.sha256).where(blobs.c.kind == self._kind))]

    def drop(self, sha256: str) -> None:
        """See ``Blobs``."""
        with self.transaction() as db:
            self.drop_in(db, sha256)

    def drop_in(self, db: Connection, sha256: str) -> None:
        """``drop`` as a part of a transaction."""
        for table in (blobs, blob_pieces):
            db.execute(delete(table).where(self._is(table, sha256)))

    def lock_in(self, db: Connection, sha256: str) -> None:
        """Waits until nobody else puts or drops a blob that is there, and keeps others from it."""
        db.execute(select(blobs.c.size).where(self._is(blobs, sha256)).with_for_update())

    def _insert(self, db: Connection, sha256: str, size: int, pieces: Iterator[bytes]) -> None:
        row = {"kind": self._kind, "sha256": sha256, "size": size}
        added = postgresql.insert(blobs).values(row)
        keys = [blobs.c.kind, blobs.c.sha256]
        # Writing over it locks a row that is there, so that nobody drops it before this transaction ends.
        db.execute(added.on_conflict_do_update(index_elements=keys, set_={"size": added.excluded.size}))
        if db.execute(select(blob_pieces.c.number).where(self._is(blob_pieces, sha256)).limit(1)).first():
            return
        for number, piece in enumerate(pieces):
            db.execute(insert(blob_pieces).values(kind=self._kind, sha256=sha256, number=number, data=piece))

    def _is(self, table: Table, sha256: str) -> ColumnElement[bool]:
        return (table.c.kind == self._kind) & (table.c.sha256 == sha256)
