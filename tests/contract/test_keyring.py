"""What every state must do about tokens, device keys and nonces."""

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from server.errors import Conflict, ExpiredToken, Revoked, UsedToken, WrongToken
from server.records import Assignment, AssignmentState, Device, Holder, LocalReport, Nonce
from server.state import State
from tests.contract.conftest import A, B, C

ONE = Holder(A, "1" * 64, "one", 10.0)
TWO = Holder(B, "2" * 64, "two", 20.0)


@pytest.fixture
def enrolled(state: State) -> State:
    """Both devices, each with a token of its own."""
    state.add_tokens(["t1", "t2", "t3"], 0.0, 100.0)
    state.enroll("t1", ONE)
    state.enroll("t2", TWO)
    return state


def test_enrolled_devices_are_known_by_their_keys_after_a_restart(enrolled: State, reopen: Callable[[], State]) -> None:
    state = reopen()
    assert state.holders() == [ONE, TWO]
    assert state.holder(TWO.public_key) == TWO
    assert state.holder("3" * 64) is None


def test_a_token_enrolls_one_device_and_answers_it_again(enrolled: State) -> None:
    enrolled.enroll("t1", replace(ONE, name="asked again", enrolled_at=5000.0))
    with pytest.raises(UsedToken):
        enrolled.enroll("t1", Holder(C, "3" * 64, "three", 30.0))
    assert enrolled.holders() == [ONE, TWO]


def test_tokens_that_are_wrong_or_late_enroll_nobody(enrolled: State) -> None:
    for token, now, refusal in (("t4", 30.0, WrongToken), ("t3", 100.0, ExpiredToken)):
        with pytest.raises(refusal):
            enrolled.enroll(token, Holder(C, "3" * 64, "three", now))
    assert enrolled.holders() == [ONE, TWO]
    enrolled.enroll("t3", Holder(C, "3" * 64, "three", 99.0))
    assert len(enrolled.holders()) == 3


def test_tokens_are_forgotten_long_after_their_expiry(enrolled: State) -> None:
    enrolled.add_tokens([], 100.0 + 29 * 86_400, 1e9)
    with pytest.raises(ExpiredToken):
        enrolled.enroll("t3", Holder(C, "3" * 64, "three", 100.0 + 29 * 86_400))
    enrolled.add_tokens([], 100.0 + 31 * 86_400, 1e9)
    with pytest.raises(WrongToken):
        enrolled.enroll("t3", Holder(C, "3" * 64, "three", 100.0 + 31 * 86_400))


def test_a_rotated_key_opens_and_the_old_one_no_more(enrolled: State, reopen: Callable[[], State]) -> None:
    for _ in range(2):  # asked again when the answer was lost
        enrolled.rotate(A, "a" * 64)
    state = reopen()
    assert state.holder("a" * 64) == replace(ONE, public_key="a" * 64)
    assert state.holder(ONE.public_key) is None
    with pytest.raises(Conflict):
        state.rotate(A, TWO.public_key)
    with pytest.raises(Conflict):  # the key it had comes back with a new token
        state.enroll("t3", ONE)
    assert state.holder("a" * 64) == replace(ONE, public_key="a" * 64)


def test_a_revoked_device_stays_out(enrolled: State, reopen: Callable[[], State]) -> None:
    enrolled.revoke(A, 50.0)
    enrolled.revoke(A, 60.0)
    state = reopen()
    assert state.holder(ONE.public_key) == replace(ONE, revoked_at=50.0)
    with pytest.raises(Revoked):
        state.rotate(A, "a" * 64)
    with pytest.raises(Revoked):
        state.enroll("t3", ONE)
    with pytest.raises(Revoked):
        state.enroll("t1", ONE)


def test_a_device_that_left_stays_out_and_hears_what_counts_of_it(
    collecting: State, reopen: Callable[[], State]
) -> None:
    collecting.add_tokens(["t1", "t3"], 0.0, 100.0)
    collecting.enroll("t1", ONE)
    collecting.receive(Assignment("run-1", 1, A).received("d" * 64, 1000, LocalReport()))
    assert collecting.leave(A, 300.0) == 0  # the round still collected: it is taken out
    (part,) = (part for part in collecting.assignments("run-1") if part.device_id == A)
    assert (part.state, part.sha256, part.failure) == (AssignmentState.FAILED, None, "left")
    state = reopen()
    assert state.holder(ONE.public_key) == replace(ONE, revoked_at=300.0, left_at=300.0)
    state.revoke(A, 400.0)
    assert state.holder(ONE.public_key) == replace(ONE, revoked_at=300.0, left_at=300.0)
    with pytest.raises(Revoked):
        state.enroll("t3", ONE)


def test_what_is_counted_when_a_device_leaves_stays(collecting: State) -> None:
    collecting.add_tokens(["t1"], 0.0, 100.0)
    collecting.enroll("t1", ONE)
    collecting.receive(Assignment("run-1", 1, A).received("d" * 64, 1000, LocalReport()))
    collecting.close_round("run-1", 1)
    assert collecting.leave(A, 300.0) == 1
    (part,) = (part for part in collecting.assignments("run-1") if part.device_id == A)
    assert part.state is AssignmentState.RECEIVED


def test_a_revoked_device_is_taken_out_of_the_round_that_collects(collecting: State) -> None:
    collecting.add_tokens(["t1"], 0.0, 100.0)
    collecting.enroll("t1", ONE)
    mine = Assignment("run-1", 1, A, head_budget=0.5).received("d" * 64, 1000, LocalReport())
    collecting.receive(mine)
    collecting.revoke(A, 300.0)
    part = collecting.assignment("run-1", 1, A)
    assert part is not None
    assert (part.state, part.sha256) == (AssignmentState.FAILED, None)
    assert not collecting.names_update("d" * 64)
    with pytest.raises(Revoked):  # an upload that had begun before
        collecting.receive(mine)
    other = collecting.assignment("run-1", 1, B)
    assert other is not None
    assert other.state is AssignmentState.ASSIGNED


def test_a_revoked_device_changes_no_closed_round_and_is_selected_for_none(collecting: State) -> None:
    collecting.add_tokens(["t1"], 0.0, 100.0)
    collecting.enroll("t1", ONE)
    mine = Assignment("run-1", 1, A, head_budget=0.5).received("d" * 64, 1000, LocalReport())
    collecting.receive(mine)
    collecting.close_round("run-1", 1)
    collecting.revoke(A, 300.0)
    assert collecting.assignment("run-1", 1, A) == mine
    collecting.publish("run-1", 1, "f" * 64, None, 950.0)
    collecting.see_device(Device(A, "one", 960.0))
    assert collecting.present_devices("run-1", 150.0) == [B, C]


def test_a_nonce_is_new_once_per_key_and_after_a_restart_too(state: State, reopen: Callable[[], State]) -> None:
    mine, theirs = Nonce(ONE.public_key, "a" * 32, 100.0), Nonce(TWO.public_key, "a" * 32, 100.0)
    assert state.remember([mine, theirs, mine], 50.0) == [True, True, False]
    state = reopen()
    assert state.remembers(mine)
    assert not state.remembers(replace(mine, nonce="b" * 32))
    assert state.remember([replace(mine, nonce="b" * 32), mine], 100.0) == [True, False]


def test_nonces_are_forgotten_when_their_calls_are_too_old_to_be_taken(state: State) -> None:
    nonce = Nonce(ONE.public_key, "a" * 32, 100.0)
    state.remember([nonce], 50.0)
    state.remember([], 100.0)
    assert state.remembers(nonce)
    state.remember([], 100.1)
    assert not state.remembers(nonce)


def test_racing_nonces_are_new_once(state: State) -> None:
    fresh: list[bool] = []
    nonce = Nonce(ONE.public_key, "a" * 32, 100.0)
    threads = [threading.Thread(target=lambda: fresh.extend(state.remember([nonce], 50.0))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fresh) == [False] * 19 + [True]
