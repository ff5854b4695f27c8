"""What every implementation of the server's state must do."""

import math
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from ravan.norms import Norms
from ravan.runtime.session import Evaluation
from server.errors import Conflict, NotFound, NotSelected, RoundClosed, WrongState
from server.records import Assignment, AssignmentState, Device, LocalReport, Round, RoundState, RunState
from server.sql_state import SqlState
from server.state import State
from tests.contract.conftest import RUN, A, B, C

REPORT = LocalReport(50, 10, 2.5, 1.25, 3.5, 2)


def part(device_id: str) -> Assignment:
    """As it is given to a device with a whole budget."""
    return Assignment("run-1", 1, device_id, head_budget=0.5)


def test_a_run_is_kept_over_a_restart(reopen: Callable[[], State]) -> None:
    reopen().create_run(RUN)
    state = reopen()
    assert state.run("run-1") == RUN
    assert state.runs() == [RUN]
    assert state.active_run() == RUN
    state.record_initial("run-1", Evaluation(2.0, 0.25, 100))
    assert reopen().run("run-1") == replace(RUN, initial=Evaluation(2.0, 0.25, 100))


def test_only_one_run_is_active_at_a_time(state: State) -> None:
    state.create_run(RUN)
    with pytest.raises(WrongState, match="Another run is active"):
        state.create_run(replace(RUN, run_id="run-2"))
    state.set_run_state("run-1", RunState.FINISHED, 5.0)
    assert state.active_run() is None
    state.create_run(replace(RUN, run_id="run-2", created_at=101.0))
    assert [run.run_id for run in state.runs()] == ["run-2", "run-1"]


def test_a_run_that_ends_takes_its_open_round_with_it(collecting: State) -> None:
    collecting.set_run_state("run-1", RunState.PAUSED, 300.0)
    collecting.set_run_state("run-1", RunState.STOPPED, 301.0)
    current = collecting.current_round("run-1")
    assert current is not None
    assert (current.state, current.closed_at) == (RoundState.ABANDONED, 301.0)
    for state in RunState:
        with pytest.raises(WrongState, match="has ended"):
            collecting.set_run_state("run-1", state, 302.0)


def test_a_figure_that_is_no_number_is_kept_as_that(state: State) -> None:
    state.create_run(RUN)
    state.record_initial("run-1", Evaluation(float("nan"), float("nan"), 10))
    kept = state.run("run-1").initial
    assert kept is not None
    assert math.isnan(kept.loss)
    assert math.isnan(kept.accuracy)


def test_an_unknown_run_is_named(state: State) -> None:
    with pytest.raises(NotFound, match="no run 'x'"):
        state.run("x")
    with pytest.raises(NotFound):  # PostgreSQL knows no such text
        state.run("\0")


def test_a_check_in_updates_a_device_but_not_its_counters(state: State) -> None:
    state.see_device(Device(A, "old", 1.0))
    state.count_bundle_bytes(A, 500)
    state.see_device(Device(A, "new", 2.0, cores=8, bytes_down=0))
    assert state.devices() == [Device(A, "new", 2.0, cores=8, bytes_down=500)]


def test_a_round_goes_through_its_states(collecting: State) -> None:
    state = collecting
    assert state.current_round("run-1") == Round("run-1", 1, RoundState.COLLECTING, RUN.adapter, 110.0, 700.0)
    state.extend_deadline("run-1", 1, 900.0)
    state.close_round("run-1", 1)
    state.publish("run-1", 1, "f" * 64, Evaluation(1.5, 0.5, 100), 950.0, "9" * 64)
    published = Round(
        "run-1", 1, RoundState.PUBLISHED, RUN.adapter, 110.0, 900.0, 950.0, "f" * 64, Evaluation(1.5, 0.5, 100)
    )
    published = replace(published, optimizer_memory="9" * 64)
    assert state.rounds("run-1") == [published]
    assert state.run("run-1").adapter == "f" * 64


def test_a_round_keeps_its_bounds(state: State) -> None:
    state.create_run(RUN)
    opened = Round("run-1", 1, RoundState.SELECTING, RUN.adapter, 110.0, head_bound=2.5)
    state.open_round(opened)
    current = state.current_round("run-1")
    assert current == opened
    assert current.bound == Norms(2.5, math.inf)


def test_a_round_can_be_abandoned_and_followed_by_another(collecting: State) -> None:
    collecting.abandon("run-1", 1, 800.0)
    collecting.open_round(Round("run-1", 2, RoundState.SELECTING, RUN.adapter, 810.0))
    assert [r.state for r in collecting.rounds("run-1")] == [RoundState.ABANDONED, RoundState.SELECTING]
    assert collecting.run("run-1").adapter == RUN.adapter


def test_a_step_out_of_turn_is_refused(collecting: State) -> None:
    with pytest.raises(WrongState):
        collecting.select("run-1", 1, [C], 800.0)
    with pytest.raises(WrongState):
        collecting.publish("run-1", 1, "f" * 64, None, 950.0)
    collecting.close_round("run-1", 1)
    with pytest.raises(WrongState):
        collecting.abandon("run-1", 1, 950.0)
    assert collecting.assignment("run-1", 1, C) is None


def test_an_update_is_counted_once(collecting: State, reopen: Callable[[], State]) -> None:
    received = part(A).received("d" * 64, 1000, REPORT).measured(Norms(0.25, 1e30))
    collecting.receive(received)
    collecting.receive(received)
    state = reopen()
    assert state.assignments("run-1", 1) == [received, part(B)]
    with pytest.raises(Conflict):
        state.receive(part(A).received("e" * 64, 1000, REPORT))
    assert state.assignment("run-1", 1, A) == received


def test_an_update_without_a_part_is_refused(collecting: State) -> None:
    with pytest.raises(NotSelected):
        collecting.receive(part(C).received("d" * 64, 1000, REPORT))


def test_a_closed_round_takes_no_update_but_answers_a_repeated_one(collecting: State) -> None:
    received = part(A).received("d" * 64, 1000, REPORT)
    collecting.receive(received)
    collecting.close_round("run-1", 1)
    collecting.receive(received)
    with pytest.raises(RoundClosed):
        collecting.receive(part(B).received("e" * 64, 1000, REPORT))


def test_racing_updates_of_one_device_count_once(collecting: State) -> None:
    """Twenty threads, each with a body of its own: one wins, all others hear of the conflict."""
    outcomes: list[str] = []

    def race(number: int) -> None:
        try:
            collecting.receive(part(A).received(f"{number:064}", 1000, REPORT))
            outcomes.append("received")
        except Conflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=race, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["conflict"] * 19 + ["received"]


def test_a_round_closes_after_the_update_that_is_being_counted(collecting: State) -> None:
    """Whoever has a receipt is in the round, also where many transactions run at once."""
    assert isinstance(collecting, SqlState)
    received = part(A).received("d" * 64, 1000, REPORT)
    seen: list[Assignment] = []

    def close() -> None:
        collecting.close_round("run-1", 1)
        seen.extend(collecting.assignments("run-1", 1))

    closing = threading.Thread(target=close)
    with collecting.transaction() as db:
        collecting.receive_in(db, received)
        closing.start()
        closing.join(0.3)
        assert closing.is_alive()
    closing.join()
    assert seen == [received, part(B)]


def test_racing_check_ins_of_a_new_device_are_one_device(state: State) -> None:
    threads = [threading.Thread(target=state.see_device, args=(Device(A, "one", float(n)),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [device.device_id for device in state.devices()] == [A]


def test_a_part_given_back_may_still_be_filled_while_the_round_collects(collecting: State) -> None:
    collecting.fail("run-1", 1, A, "no-examples: none")
    failed = collecting.assignment("run-1", 1, A)
    assert failed is not None
    assert (failed.state, failed.failure) == (AssignmentState.FAILED, "no-examples: none")
    assert collecting.devices()[0].failure == "no-examples: none"
    collecting.receive(part(A).received("d" * 64, 1000, REPORT))
    collecting.fail("run-1", 1, A, "too late to fail")
    assert collecting.assignment("run-1", 1, A) == part(A).received("d" * 64, 1000, REPORT)


def test_devices_at_work_or_long_unseen_are_not_present(collecting: State) -> None:
    assert collecting.present_devices("run-1", 150.0) == [C]
    assert (collecting.count_present(150.0), collecting.count_present(201.0)) == (3, 0)
    collecting.receive(part(A).received("d" * 64, 1000, REPORT))
    assert collecting.present_devices("run-1", 150.0) == [A, C]
    collecting.close_round("run-1", 1)
    collecting.publish("run-1", 1, "f" * 64, None, 950.0)
    assert collecting.present_devices("run-1", 150.0) == [A, B, C]
    assert collecting.present_devices("run-1", 201.0) == []


def test_bytes_add_up(collecting: State) -> None:
    for _ in range(3):
        collecting.count_bytes_down("run-1", 1, A, 2**31)
    assert [p.bytes_down for p in collecting.assignments("run-1")] == [3 * 2**31, 0]


def test_an_update_is_named_by_its_parts(collecting: State) -> None:
    assert not collecting.names_update("d" * 64)
    collecting.receive(part(A).received("d" * 64, 1000, REPORT))
    assert collecting.names_update("d" * 64)
    assert collecting.names_update("d" * 64, "run-1", 0)
    assert not collecting.names_update("d" * 64, "run-1", 1)
    assert collecting.names_update("d" * 64, "run-2", 1)


def test_a_part_has_the_budget_that_the_device_had_when_it_was_selected(state: State) -> None:
    state.create_run(RUN)
    state.see_device(Device(A, "one", 1.0, head_budget=0.25))
    state.open_round(Round("run-1", 1, RoundState.SELECTING, RUN.adapter, 100.0))
    state.select("run-1", 1, [A], 900.0)
    state.see_device(Device(A, "one", 2.0, head_budget=1.0))
    found = state.assignment("run-1", 1, A)
    assert found is not None
    assert found.head_budget == 0.25
