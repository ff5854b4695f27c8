"""What every state must do about releases of the client."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from ravan.rpc.vouching import Archive
from server.errors import NotFound
from server.records import Release
from server.state import State

ONE = Release(Archive("x86_64", "0.2.0", "1" * 64, 50_000_000, "2" * 64, 2**29), "3" * 128)
ARM = replace(ONE, archive=replace(ONE.archive, machine="aarch64", version="0.2.1rc1"))
TWO = replace(ONE, archive=replace(ONE.archive, version="0.3.0", sha256="4" * 64), signature="5" * 128)


def test_each_kind_of_machine_is_offered_one_release_also_after_a_restart(
    state: State, reopen: Callable[[], State]
) -> None:
    assert state.releases() == []
    assert state.set_release(ONE) is None
    assert state.set_release(ARM) is None
    assert state.set_release(TWO) == ONE
    assert reopen().releases() == [ARM, TWO]


def test_a_release_is_withdrawn_once(state: State) -> None:
    state.set_release(ONE)
    state.set_release(ARM)
    assert state.withdraw_release("x86_64") == ONE
    assert state.releases() == [ARM]
    for machine in ("x86_64", "riscv64", ""):
        with pytest.raises(NotFound, match="No release is offered"):
            state.withdraw_release(machine)
