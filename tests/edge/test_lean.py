"""An idle client gives back what it does not use, and nothing that it has changed."""

from edge.lean import give_back, unchanged_code

SMAPS = """\
7f00000000-7f00002000 r-xp 00000000 08:01 123                            /usr/lib/code with a name.so
Rss:                   8 kB
Anonymous:             0 kB
7f00002000-7f00003000 r--p 00002000 08:01 123                            /usr/lib/relocated.so
Rss:                   4 kB
Anonymous:             4 kB
7f00003000-7f00004000 rw-p 00003000 08:01 123                            /usr/lib/data.so
Anonymous:             0 kB
7f00004000-7f00005000 r--p 00000000 00:00 0
Anonymous:             0 kB
7f00005000-7f00006000 r-xp 00000000 00:00 0                              [vdso]
Anonymous:             0 kB
7f00006000-7f00009000 r--p 00000000 08:01 124                            /usr/lib/constants.so
Anonymous:             0 kB
"""


def test_only_unchanged_pages_of_files_are_let_go() -> None:
    assert unchanged_code(SMAPS) == [(0x7F00000000, 0x2000), (0x7F00006000, 0x3000)]


def test_all_works_as_before_afterwards() -> None:
    before = {number: str(number) for number in range(1000)}
    for _ in range(3):
        give_back()
        assert {number: str(number) for number in range(1000)} == before
