"""Keeping an idle client small: memory that it does not use goes back to the system."""

import ctypes
import gc
from pathlib import Path

MAPPINGS = Path("/proc/self/smaps")
MADV_DONTNEED = 4


def give_back() -> None:
    """Frees what the allocator holds, and lets go of code that only starting needed.

    Pages of programs and libraries stay in the system's cache and are mapped again when they are run; none that this
    process has changed is among them. Where the system has no such means nothing happens.
    """
    gc.collect()
    try:
        library = ctypes.CDLL(None)
        library.malloc_trim(0)
        madvise = library.madvise
        text = MAPPINGS.read_text("utf-8", "surrogateescape")
    except (OSError, AttributeError):
        return
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for start, size in unchanged_code(text):
        madvise(start, size, MADV_DONTNEED)


def unchanged_code(text: str) -> list[tuple[int, int]]:
    """Start and bytes of mappings that nobody can write to and that are as in their files, from the text of smaps."""
    found: list[tuple[int, int]] = []
    mapping: tuple[int, int] | None = None
    for line in text.splitlines():
        head, *rest = line.split()
        if not head.endswith(":"):
            start, end = (int(address, 16) for address in head.split("-"))
            is_file = len(rest) > 4 and rest[4].startswith("/")
            mapping = (start, end - start) if is_file and rest[0] in ("r-xp", "r--p") else None
        elif head == "Anonymous:" and mapping and rest[0] == "0":
            found.append(mapping)
    return found
