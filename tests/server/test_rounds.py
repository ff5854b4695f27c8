"""The round state machine: examples, and that every run of events ends."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.records import RoundState
from server.rounds import Facts, Step, next_step
from server.settings import RunOptions

OPTIONS = RunOptions(rounds=2, clients_per_round=3, over_select=1, min_updates=2, min_devices=5)


def facts(state: RoundState | None, **values: object) -> Facts:
    return Facts(**({"now": 0.0, "published": 0, "state": state} | values))  # type: ignore[arg-type]


COLLECTING = RoundState.COLLECTING


@pytest.mark.parametrize(
    ("given_facts", "step"),
    [
        (facts(None), Step.OPEN),
        (facts(RoundState.PUBLISHED, published=1), Step.OPEN),
        (facts(RoundState.PUBLISHED, published=2), Step.FINISH),
        (facts(RoundState.ABANDONED, published=1), Step.OPEN),
        (facts(RoundState.SELECTING, present=("d",) * 4), Step.WAIT),
        (facts(RoundState.SELECTING, present=("d",) * 5), Step.SELECT),
        (facts(COLLECTING, selected=4, received=2, deadline=9), Step.WAIT),
        (facts(COLLECTING, selected=4, received=3, deadline=9), Step.CLOSE),
        (facts(COLLECTING, selected=4, received=2, failed=2, deadline=9), Step.CLOSE),
        (facts(COLLECTING, selected=4, received=1, failed=3, deadline=9), Step.ABANDON),
        (facts(COLLECTING, selected=4, received=2, deadline=9, now=9), Step.CLOSE),
        (facts(COLLECTING, selected=4, received=1, deadline=9, now=9), Step.ABANDON),
        (facts(RoundState.AGGREGATING), Step.PUBLISH),
    ],
)
def test_each_situation_has_its_step(given_facts: Facts, step: Step) -> None:
    assert next_step(OPTIONS, given_facts) is step


@settings(max_examples=300)
@given(st.data())
def test_whatever_clients_do_a_round_ends_by_its_deadline(draw: st.DataObject) -> None:
    """Clients answer, fail or vanish at any moment: by the deadline the round closes with enough updates, or not."""
    selected = draw.draw(st.integers(1, 4))
    received = failed = 0
    for now in range(11):
        event = draw.draw(st.sampled_from(["receive", "fail", "nothing"]))
        if received + failed < selected:
            received += event == "receive"
            failed += event == "fail"
        step = next_step(
            OPTIONS, facts(COLLECTING, now=now, selected=selected, received=received, failed=failed, deadline=10)
        )
        if step is Step.CLOSE:
            assert received >= OPTIONS.min_updates
            return
        if step is Step.ABANDON:
            assert received < OPTIONS.min_updates
            assert now >= 10 or received + failed == selected
            return
        assert step is Step.WAIT
    pytest.fail("the round did not end")
