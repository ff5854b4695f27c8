"""Keeping the server's memory from growing with the number of devices that transfer at once."""

import ctypes

M_ARENA_MAX = -8
WINDOW = 512 << 10
"""Bytes of an upload that may be on their way: on a line with a delay of 100 ms, 5 MB a second."""
STREAM_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.http2.bdp_probe", 0),  # or every connection on a fast line is given megabytes
    ("grpc.http2.lookahead_bytes", WINDOW),
]


def share_one_arena() -> None:
    """Has all threads take memory from one place, so that what one gave back is there for the next.

    To be called before there are threads. Where the system's allocator has no such setting nothing happens.
    """
    try:
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
    except (OSError, AttributeError):
        return
