"""All transfers of a client together stay below the owner's cap."""

import threading
from dataclasses import dataclass

import pytest

from edge.bandwidth import BURST_SECONDS, Bandwidth, parse_rate
from ravan.errors import SettingsError
from ravan.rpc.transfer import CHUNK


@dataclass
class Waits(threading.Event):
    """An event whose waits move a clock instead of taking time."""

    now: float = 0.0

    def __post_init__(self) -> None:
        super().__init__()

    def wait(self, timeout: float | None = None) -> bool:
        self.now += timeout or 0.0
        return False


def capped(rate: float) -> tuple[Bandwidth, Waits]:
    waits = Waits()
    return Bandwidth(rate, waits, lambda: waits.now), waits


@pytest.mark.parametrize(
    ("text", "rate"), [("", 0), ("500kB/s", 5e5), ("2MB/s", 2e6), ("4Mbit/s", 5e5), ("1.5 MB/s", 1.5e6)]
)
def test_a_rate_is_read_as_people_write_it(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["500", "fast", "500kb/s", "-1MB/s", "5kB/s", "100kbit/s", "1MB"])
def test_what_is_no_rate_or_too_slow_to_come_through_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--bandwidth"):
        parse_rate(text)


@pytest.mark.parametrize("sizes", [[100_000] * 50, [1] * 100_000, [5_000_000], [3, 700_000, 40, 1_000_000]])
def test_what_went_in_any_time_is_at_most_the_rate_and_one_burst(sizes: list[int]) -> None:
    bandwidth, waits = capped(500_000)
    for size in sizes:
        bandwidth.take(size)
    assert sum(sizes) <= 500_000 * (waits.now + BURST_SECONDS) * 1.000001
    assert waits.now <= sum(sizes) / 500_000


def test_a_silent_hour_is_made_up_for_by_one_burst_at_most() -> None:
    bandwidth, waits = capped(100_000)
    bandwidth.take(1)
    waits.now += 3600
    began = waits.now
    bandwidth.take(100_000)
    assert waits.now - began == pytest.approx(1 - BURST_SECONDS)


def test_threads_share_one_cap() -> None:
    stop = threading.Event()
    clock = [0.0]
    bandwidth = Bandwidth(100_000, stop, lambda: clock[0])
    stop.set()  # nobody waits, all is counted

    def transfer() -> None:
        for _ in range(100):
            bandwidth.take(10_000)

    threads = [threading.Thread(target=transfer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bandwidth._free_at == pytest.approx(40 - BURST_SECONDS)


def test_without_a_cap_nobody_waits_and_pieces_are_large() -> None:
    bandwidth, waits = capped(0)
    bandwidth.take(10**12)
    assert waits.now == 0
    assert bandwidth.piece == CHUNK
    assert capped(20_000)[0].piece == 5000
    assert capped(1e9)[0].piece == CHUNK


def test_a_client_that_stops_waits_for_nothing() -> None:
    bandwidth = Bandwidth(16_000)
    bandwidth.stop.set()
    bandwidth.take(10**9)
