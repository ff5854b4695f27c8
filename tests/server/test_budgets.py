"""Budgets of heads: given by what a device measured, told in the task, and held at the door."""

from pathlib import Path

import numpy as np
import pytest

from protos.ravan.v1 import fleet_pb2 as pb
from ravan.bundle import Bundle
from ravan.heads import select_heads
from ravan.rpc.plan import SPREADS, plan_from_proto
from ravan.spread import Spread
from ravan.update import Update
from tests.server.hosting import DEVICES, Host, refusal
from tests.server.test_fleet import nothing_stored, played

A, B = DEVICES[:2]
EVERY = list(SPREADS.values())


def capabilities(budget: float, *times: pb.StepTime) -> pb.Capabilities:
    return pb.Capabilities(cores=1, head_budget=budget, head_spreads=EVERY, step_times=times)


async def ask(host: Host, device: str, able: pb.Capabilities) -> pb.CheckInResponse:
    return await host.fleet.CheckIn(pb.CheckInRequest(device_id=device, name="test", capabilities=able))


async def tasks(host: Host, able: dict[str, pb.Capabilities]) -> dict[str, pb.Task]:
    """Opens a round with these devices."""
    await host.settle()
    for device, its in able.items():
        await ask(host, device, its)
    await host.settle()
    return {device: (await ask(host, device, its)).task for device, its in able.items()}


def carrying(host: Host, heads: np.ndarray) -> Update:
    whole = host.update(1)
    return Update(heads, whole.sH[heads.ravel()], whole.saved)


@pytest.mark.parametrize("spread", Spread)
def test_an_update_may_carry_what_its_budget_buys_and_no_head_more(
    bundle: Bundle, tmp_path: Path, spread: Spread
) -> None:
    async def play(host: Host) -> None:
        await host.begin(rounds=1, head_spread=spread)
        given = await tasks(host, {A: capabilities(0.5), B: capabilities(1.0)})
        assert (given[A].head_budget, given[B].head_budget) == (0.5, 1.0)
        assert plan_from_proto(given[A].plan).head_spread is spread
        layers, heads = bundle.manifest.adapter.H_shape[:2]
        scores = np.random.default_rng(0).random((layers, heads))
        bought = select_heads(spread, scores, 0.5, np.random.default_rng(0))
        more = bought.copy()
        more[tuple(np.argwhere(~bought)[0])] = True
        seen = await refusal(host.upload(A, given[A].binding, carrying(host, more)))
        assert seen[:2] == ("heads-not-allowed", "INVALID_ARGUMENT")
        await nothing_stored(host, tmp_path)
        await host.upload(A, given[A].binding, carrying(host, bought))
        await host.upload(B, given[B].binding, host.update(2))

    played(bundle, tmp_path, play)


def test_a_slow_device_is_given_what_it_has_time_for_and_keeps_it_in_the_round(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        run = await host.begin(rounds=1, head_spread=Spread.TOP_LAYERS, local_steps=9, batch_size=10, deadline=100)
        slow = pb.StepTime(bundle_id=run.bundle_id, depth=1.0, seconds_per_example=0.95)
        elsewhere = pb.StepTime(bundle_id="0" * 64, depth=1.0, seconds_per_example=50.0)
        given = await tasks(host, {A: capabilities(1.0, slow), B: capabilities(1.0, elsewhere)})
        assert (given[A].head_budget, given[B].head_budget) == (0.5, 1.0)
        again = await ask(host, A, capabilities(0.25))
        assert again.task.head_budget == 0.5

    played(bundle, tmp_path, play)


def test_a_device_that_joins_an_asynchronous_run_has_a_budget_too(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        await host.begin(rounds=1, mode="async", buffer=2, clients_per_round=3, head_spread=Spread.TOP_LAYERS)
        await host.settle()
        task = (await ask(host, A, capabilities(0.25))).task
        assert task.head_budget == 0.25
        seen = await refusal(host.upload(A, task.binding, host.update(1)))
        assert seen[0] == "heads-not-allowed"

    played(bundle, tmp_path, play)


def test_a_device_that_knows_no_other_spread_is_told_to_update(bundle: Bundle, tmp_path: Path) -> None:
    async def play(host: Host) -> None:
        await host.begin(rounds=1, head_spread=Spread.ACROSS_LAYERS)
        seen = await refusal(ask(host, A, pb.Capabilities(head_budget=1.0)))
        assert seen[:2] == ("unknown-format", "FAILED_PRECONDITION")

    played(bundle, tmp_path, play)


@pytest.mark.parametrize(("depth", "seconds"), [(0.0, 1.0), (1.5, 1.0), (1.0, 0.0), (1.0, float("inf")), (0.5, -1.0)])
def test_times_that_make_no_sense_are_refused(bundle: Bundle, tmp_path: Path, depth: float, seconds: float) -> None:
    async def play(host: Host) -> None:
        await host.begin(rounds=1)
        time = pb.StepTime(bundle_id="0" * 64, depth=depth, seconds_per_example=seconds)
        assert (await refusal(ask(host, A, capabilities(1.0, time))))[0] == "bad-request"

    played(bundle, tmp_path, play)
