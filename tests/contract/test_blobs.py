"""What every store of blobs must do."""

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.blobs import PIECE, Blobs, FileBlobs
from server.errors import NotFound
from server.postgres import open_engine
from server.sql_blobs import SqlBlobs, shared
from server.sql_tables import create_tables
from tests.contract.conftest import STATES

Open = Callable[[str], Blobs]


@pytest.fixture(params=STATES)
def open_blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the blobs of a kind, as after a restart."""
    if request.param == "sqlite":
        yield lambda kind: FileBlobs(tmp_path / kind)
        return
    engine = open_engine(request.getfixturevalue("database"))
    create_tables(engine, shared)
    yield lambda kind: SqlBlobs(engine, kind)
    engine.dispose()


@pytest.mark.parametrize("size", [0, 1, PIECE, 2 * PIECE + 5])
def test_bytes_come_back_by_their_sha256_after_a_restart(open_blobs: Open, size: int) -> None:
    data = hashlib.shake_128(b"weights").digest(size)
    name = open_blobs("adapters").put(data)
    assert name == hashlib.sha256(data).hexdigest()
    blobs = open_blobs("adapters")
    assert (blobs.get(name), blobs.size(name), blobs.names()) == (data, size, [name])


@pytest.mark.parametrize("size", [0, 5, PIECE, 2 * PIECE + 5])
def test_a_file_goes_in_and_comes_out_piece_by_piece_from_any_offset(open_blobs: Open, size: int) -> None:
    data, blobs = hashlib.shake_128(b"archive").digest(size), open_blobs("releases")
    name = hashlib.sha256(data).hexdigest()
    for _ in range(2):
        blobs.put_file(io.BytesIO(data), name)
    assert (blobs.get(name), blobs.names()) == (data, [name])
    for offset in (0, 1, PIECE - 1, PIECE, PIECE + 1, size, size + 1):
        pieces = list(blobs.pieces(name, offset))
        assert b"".join(pieces) == data[offset:]
        assert max(map(len, pieces), default=0) <= PIECE
    with pytest.raises(NotFound):
        list(blobs.pieces("0" * 64))


def test_the_same_bytes_are_one_blob_and_kinds_know_nothing_of_one_another(open_blobs: Open) -> None:
    updates, adapters = open_blobs("updates"), open_blobs("adapters")
    assert updates.put(b"same") == updates.put(b"same") == adapters.put(b"same")
    assert updates.names() == adapters.names()
    updates.drop(updates.names()[0])
    assert (updates.names(), len(adapters.names())) == ([], 1)


def test_what_was_dropped_or_never_put_is_not_found(open_blobs: Open) -> None:
    blobs = open_blobs("updates")
    name = blobs.put(b"x")
    for _ in range(2):
        blobs.drop(name)
    for ask in (blobs.get, blobs.size):
        with pytest.raises(NotFound, match="not stored any more"):
            ask(name)
    assert blobs.put(b"x") == name
    assert blobs.get(name) == b"x"


def test_racing_puts_of_the_same_bytes_leave_one_whole_blob(open_blobs: Open) -> None:
    blobs, data = open_blobs("updates"), bytes(PIECE + 1)
    threads = [threading.Thread(target=blobs.put, args=(data,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (name,) = blobs.names()
    assert blobs.get(name) == data
