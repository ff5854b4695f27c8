"""What a server without a gate does with bytes that are no message, and with calls that never say anything."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from ravan.bundle import Bundle
from ravan.rpc.refusal import status_of
from server import messages
from server.pace import CHECK_INS_PER_SECOND, POPULATION_SECONDS, stretched
from tests.server.hosting import hosting, refusal

pytestmark = pytest.mark.anyio
CHECK_IN, UPLOAD = "/ravan.v1.Fleet/CheckIn", "/ravan.v1.Fleet/UploadUpdate"


async def test_bytes_that_are_no_message_are_a_bad_request(tmp_path: Path, bundle: Bundle) -> None:
    async with hosting(tmp_path / "state", bundle) as host:
        channel: Any = host.channel
        code, status, sentence = await refusal(channel.unary_unary(CHECK_IN)(b"\xff\xff"))
        assert (code, status) == ("bad-request", "INVALID_ARGUMENT")
        assert sentence.endswith(".")


async def test_a_call_that_never_says_anything_is_ended(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "FIRST_SECONDS", 0.2)
    async with hosting(tmp_path / "state", bundle) as host:
        channel: Any = host.channel
        for path in (CHECK_IN, UPLOAD):
            call = channel.stream_unary(path)()
            assert (await refusal(call))[:2] == ("too-slow", "ABORTED")


async def test_calls_that_are_refused_before_they_end_leave_no_stream_open(tmp_path: Path, bundle: Bundle) -> None:
    """A connection has a hundred streams; what a refused upload left open would use them up."""
    async with hosting(tmp_path / "state", bundle) as host:

        def refused() -> list[str]:
            seen = []
            with grpc.insecure_channel(host.address) as channel:
                call: Any = channel.stream_stream(UPLOAD)
                for _ in range(250):
                    try:
                        list(call(_pieces(), timeout=20))
                    except grpc.RpcError as error:
                        seen.append(status_of(error).name)
            return seen

        assert await asyncio.to_thread(refused) == ["INVALID_ARGUMENT"] * 250


def _pieces() -> Iterator[bytes]:
    yield b""


def test_return_windows_grow_with_the_number_of_devices() -> None:
    assert stretched((2, 6), 100) == (2, 6)
    shortest, longest = stretched((2, 6), 2000)
    assert 2000 / ((shortest + longest) / 2) == pytest.approx(CHECK_INS_PER_SECOND)
    assert shortest / longest == pytest.approx(2 / 6)
    assert stretched((2, 6), 10**7)[1] == POPULATION_SECONDS
    assert stretched((2, 900), 10**7) == (2, 900)
