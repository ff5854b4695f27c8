"""Logs that a stranger can't fill."""

import pytest
import structlog

from ravan.cli.logs import Repeats


def test_refusals_of_a_code_are_logged_once_a_second_and_none_is_forgotten() -> None:
    now = 100.0
    repeats = Repeats(lambda: now)

    def logged(code: str) -> object:
        try:
            return repeats(None, "", {"event": "refused", "code": code}).get("left_out", 0)
        except structlog.DropEvent:
            return None

    assert [logged("a"), logged("a"), logged("b"), logged("a")] == [0, None, 0, None]
    now = 101.0
    assert [logged("a"), logged("b")] == [2, 0]


def test_everything_else_is_logged() -> None:
    repeats = Repeats(lambda: 0.0)
    for _ in range(3):
        assert repeats(None, "", {"event": "round published"}) == {"event": "round published"}


@pytest.mark.parametrize("event", [{"event": "refused"}])
def test_a_refusal_without_a_code_is_no_error(event: dict[str, object]) -> None:
    assert Repeats(lambda: 0.0)(None, "", event) == event
