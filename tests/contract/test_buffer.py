"""What every state must do in an asynchronous run."""

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from server.errors import Conflict, NotSelected, Revoked, RoundClosed, TooStale, WrongState
from server.records import Assignment, AssignmentState, Device, Holder, LocalReport, Round, RoundState, RunState
from server.settings import Mode, RunOptions
from server.state import State
from tests.contract.conftest import RUN, A, B, C

OPTIONS = RunOptions(mode=Mode.ASYNC, buffer=2, max_staleness=1, rounds=3)


def opened(number: int) -> Round:
    return Round("run-1", number, RoundState.COLLECTING, RUN.adapter, 100.0 + number)


def update(device_id: str, base: int = 1, sha256: str = "") -> Assignment:
    return Assignment("run-1", base, device_id).received(sha256 or f"{device_id[0]}{base}" * 32, 1000, LocalReport())


def publish(state: State, number: int) -> None:
    """Folds the buffer, publishes, and opens the next round."""
    state.close_buffer("run-1", number, OPTIONS.buffer)
    state.publish("run-1", number, "f" * 64, None, 900.0)
    state.open_round(opened(number + 1))


@pytest.fixture
def buffering(state: State) -> State:
    """An asynchronous run whose devices all began from the first adapter."""
    state.create_run(replace(RUN, options=OPTIONS))
    state.open_round(opened(1))
    for device_id in (A, B, C):
        state.see_device(Device(device_id, "x", 200.0))
        assert state.join(Assignment("run-1", 1, device_id)) == Assignment("run-1", 1, device_id)
    return state


def test_updates_keep_the_order_of_receipt_over_a_restart(buffering: State, reopen: Callable[[], State]) -> None:
    buffering.receive(update(C))
    state = reopen()
    state.receive(update(A))
    assert state.buffered("run-1") == 2
    state.close_buffer("run-1", 1, 2)
    assert [(p.device_id, p.sequence, p.folded_in) for p in state.counted("run-1", 1)] == [(C, 1, 1), (A, 2, 1)]
    assert state.buffered("run-1") == 0


def test_a_round_takes_the_oldest_out_of_the_buffer_and_no_fewer_than_it_must(buffering: State) -> None:
    buffering.receive(update(B))
    with pytest.raises(WrongState, match="1 updates of 2"):
        buffering.close_buffer("run-1", 1, 2)
    assert buffering.current_round("run-1") == opened(1)
    for device_id in (C, A):
        buffering.receive(update(device_id))
    publish(buffering, 1)
    assert [part.device_id for part in buffering.counted("run-1", 1)] == [B, C]
    assert buffering.counted("run-1", 2) == []
    assert buffering.buffered("run-1") == 1  # of A, which waits for another one


def test_a_device_counts_once_for_each_adapter_it_began_from(buffering: State) -> None:
    for _ in range(2):
        buffering.receive(update(A))
    with pytest.raises(Conflict):
        buffering.receive(update(A, sha256="e" * 64))
    buffering.receive(update(B))
    publish(buffering, 1)
    with pytest.raises(Conflict):
        buffering.receive(update(A, sha256="e" * 64))
    buffering.receive(update(A))  # the same again, long after
    with pytest.raises(NotSelected):
        buffering.receive(update(A, 2))
    assert buffering.join(Assignment("run-1", 2, A)) == Assignment("run-1", 2, A)
    buffering.receive(update(A, 2))
    joined = buffering.join(Assignment("run-1", 2, A))
    assert joined is not None
    assert joined.state is AssignmentState.RECEIVED
    assert buffering.buffered("run-1") == 1


def test_an_update_is_taken_while_a_round_is_folded_but_gives_no_device_a_part(buffering: State) -> None:
    for device_id in (A, B):
        buffering.receive(update(device_id))
    buffering.close_buffer("run-1", 1, 2)
    assert buffering.join(Assignment("run-1", 1, A)) is None
    buffering.receive(update(C))
    assert [part.device_id for part in buffering.counted("run-1", 1)] == [A, B]
    assert buffering.buffered("run-1") == 1


def test_how_stale_an_update_will_be_is_known_at_receipt(buffering: State) -> None:
    for device_id in (A, B):
        buffering.receive(update(device_id))
    publish(buffering, 1)
    for device_id in (A, B):
        buffering.join(Assignment("run-1", 2, device_id))
    buffering.expect(update(C))
    for device_id in (A, B):  # they fill the second round, so that C's would count in the third
        buffering.receive(update(device_id, 2))
    for attempt in (buffering.expect, buffering.receive):
        with pytest.raises(TooStale, match="2 adapters will have been published"):
            attempt(update(C))
    assert buffering.assignment("run-1", 1, C) == Assignment("run-1", 1, C)


def test_no_update_is_taken_that_no_round_would_fold(buffering: State) -> None:
    for number in (1, 2):
        for device_id in (A, B):
            buffering.join(Assignment("run-1", number, device_id))
            buffering.receive(update(device_id, number))
        publish(buffering, number)
    for device_id in (A, B, C):
        buffering.join(Assignment("run-1", 3, device_id))
    for device_id in (A, B):
        buffering.receive(update(device_id, 3))
    with pytest.raises(RoundClosed, match="takes no more updates"):
        buffering.receive(update(C, 3))
    buffering.set_run_state("run-1", RunState.STOPPED, 950.0)
    with pytest.raises(RoundClosed):
        buffering.receive(update(C, 3))


def test_a_revoked_device_is_taken_out_of_the_buffer_and_not_out_of_a_round(buffering: State) -> None:
    buffering.add_tokens(["t1"], 0.0, 1e9)
    buffering.enroll("t1", Holder(A, "1" * 64, "one", 10.0))
    for device_id in (A, B):
        buffering.receive(update(device_id))
    publish(buffering, 1)
    buffering.join(Assignment("run-1", 2, A))
    buffering.receive(update(A, 2))
    buffering.revoke(A, 300.0)
    assert buffering.buffered("run-1") == 0
    assert [part.device_id for part in buffering.counted("run-1", 1)] == [A, B]
    assert buffering.join(Assignment("run-1", 2, A)) is None
    with pytest.raises(Revoked):
        buffering.receive(update(A, 2))


def test_bytes_in_the_buffer_are_named_however_old_their_base(buffering: State) -> None:
    for device_id in (A, B, C):
        buffering.receive(update(device_id))
    publish(buffering, 1)
    folded, waiting = (f"{device_id[0]}1" * 32 for device_id in (A, C))
    assert not buffering.names_update(folded, "run-1", 1)
    assert buffering.names_update(waiting, "run-1", 1)


def test_racing_updates_have_places_of_their_own(state: State) -> None:
    devices = [f"{n:032x}" for n in range(8)]
    state.create_run(replace(RUN, options=RunOptions(mode=Mode.ASYNC, buffer=8)))
    state.open_round(opened(1))
    for device_id in devices:
        state.see_device(Device(device_id, "x", 200.0))
        state.join(Assignment("run-1", 1, device_id))
    threads = [
        threading.Thread(target=state.receive, args=(update(device_id, sha256=device_id * 2),)) for device_id in devices
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state.close_buffer("run-1", 1, 8)
    assert [part.sequence for part in state.counted("run-1", 1)] == list(range(1, 9))
