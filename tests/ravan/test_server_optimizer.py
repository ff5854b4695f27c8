"""Server optimizers against torch, and against the formulas written out number by number."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given

from ravan.errors import UpdateError
from ravan.parts import over
from ravan.server_optimizer import (
    FedAdam,
    FedAvg,
    FedAvgM,
    FedYogi,
    Memory,
    ServerOptimizer,
    decode_memory,
    encode_memory,
)
from ravan.spec import AdapterSpec, LayerSpec, TensorSpec
from ravan.update import Update, encode
from tests.ravan.updates import full_update, random_update, seeds

SPEC = AdapterSpec((LayerSpec("q", 8, 8),), 3, 2, seed=2, saved=(TensorSpec("head", (2, 2)),))
EVERY = [FedAvg(0.7), FedAvgM(0.7), FedAdam(), FedYogi()]


def flat(update: Update) -> np.ndarray:
    return np.concatenate([update.sH.ravel(), update.saved])


def steps(optimizer: ServerOptimizer, seed: int, rounds: int = 4) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Adapters from the start on, and the averages between them."""
    generator = np.random.default_rng(seed)
    x, memory = full_update(SPEC, generator), ()
    xs, ys = [flat(x)], []
    for _ in range(rounds):
        y = full_update(SPEC, generator)
        x, memory = optimizer.step(SPEC, x, y, memory)  # type: ignore[assignment]
        xs.append(flat(x))
        ys.append(flat(y))
    return xs, ys


@given(seeds)
def test_fedavg_at_rate_one_is_the_average_itself(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, y = full_update(SPEC, generator), random_update(SPEC, generator)
    new, memory = FedAvg().step(SPEC, x, y, ())
    assert encode(SPEC, new) == encode(SPEC, over(x, y))
    assert memory == ()


@pytest.mark.parametrize(("optimizer", "momentum"), [(FedAvg(0.3), 0.0), (FedAvgM(0.3, 0.8), 0.8)])
def test_fedavg_and_fedavgm_are_torchs_sgd_on_the_averaged_change(optimizer: ServerOptimizer, momentum: float) -> None:
    xs, ys = steps(optimizer, 5)
    parameter = torch.nn.Parameter(torch.tensor(xs[0]))
    sgd = torch.optim.SGD([parameter], lr=0.3, momentum=momentum)
    for x, y in zip(xs[1:], ys, strict=True):
        parameter.grad = parameter.detach() - torch.tensor(y)
        sgd.step()
        np.testing.assert_allclose(x, parameter.detach().numpy(), atol=2e-6)


@pytest.mark.parametrize("kind", [FedAdam, FedYogi])
def test_fedadam_and_fedyogi_follow_algorithm_2(kind: type[FedAdam]) -> None:
    """Reddi et al., arXiv 2003.00295, algorithm 2, written out for single numbers."""
    eta, beta1, beta2, tau = 0.05, 0.9, 0.95, 0.01
    xs, ys = steps(kind(eta, beta1, beta2, tau), 9)
    for i in range(len(xs[0])):
        x, m, v = float(xs[0][i]), 0.0, tau**2
        for t, y in enumerate(ys):
            delta = float(y[i]) - x
            m = beta1 * m + (1 - beta1) * delta
            if kind is FedYogi:
                sign = 1 if v > delta**2 else -1
                v = v - (1 - beta2) * delta**2 * sign
            else:
                v = beta2 * v + (1 - beta2) * delta**2
            x = x + eta * m / (v**0.5 + tau)
            assert xs[t + 1][i] == pytest.approx(x, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("optimizer", EVERY, ids=lambda o: type(o).__name__)
def test_a_head_out_of_the_average_stays_with_all_that_is_remembered_of_it(optimizer: ServerOptimizer) -> None:
    generator = np.random.default_rng(3)
    x, memory = full_update(SPEC, generator), ()
    x, remembered = optimizer.step(SPEC, x, full_update(SPEC, generator), memory)
    heads = np.array([[True, False, True]])
    new, after = optimizer.step(SPEC, x, random_update(SPEC, generator, heads), remembered)
    assert new.heads.all()
    still = np.concatenate([np.repeat(~heads.ravel(), 4), np.zeros(4, np.bool_)])
    np.testing.assert_array_equal(flat(new)[still], flat(x)[still])
    assert (flat(new)[~still] != flat(x)[~still]).all()
    for old, now in zip(remembered, after, strict=True):
        np.testing.assert_array_equal(old[still], now[still])
        assert (old[~still] != now[~still]).all()


@pytest.mark.parametrize("optimizer", EVERY, ids=lambda o: type(o).__name__)
def test_an_adapter_is_always_finite(optimizer: ServerOptimizer) -> None:
    x = full_update(SPEC, np.random.default_rng(0))
    memory: Memory = ()
    for sign in (1, 1, -1, -1):
        far = np.float32(sign * 3.4e38)
        x, memory = optimizer.step(SPEC, x, Update(x.heads, np.full_like(x.sH, far), x.saved * 0 + far), memory)
        for vector in (flat(x), *memory):
            assert np.isfinite(vector).all()


@pytest.mark.parametrize("optimizer", EVERY, ids=lambda o: type(o).__name__)
def test_what_is_remembered_survives_its_bytes_bit_by_bit(optimizer: ServerOptimizer) -> None:
    generator = np.random.default_rng(4)
    _, memory = optimizer.step(SPEC, full_update(SPEC, generator), full_update(SPEC, generator), ())
    read = decode_memory(SPEC, encode_memory(SPEC, memory))
    assert len(read) == len(memory)
    for one, other in zip(memory, read, strict=True):
        assert one.tobytes() == other.tobytes()


def test_bytes_that_are_no_memory_are_refused() -> None:
    with pytest.raises(UpdateError):
        decode_memory(SPEC, b"x" * 7)
    other = replace(SPEC, seed=9)
    _, memory = FedAvgM().step(
        other, full_update(other, np.random.default_rng(0)), full_update(other, np.random.default_rng(1)), ()
    )
    with pytest.raises(UpdateError):
        decode_memory(SPEC, encode_memory(other, memory))
