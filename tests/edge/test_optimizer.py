"""Our optimizers beside torch's, on the same gradients."""

import numpy as np
import pytest
import torch

from edge.optimizer import SGD, AdamW, Optimizer, clip, learning_rates, make_optimizer
from ravan.rpc.plan import OptimizerName, TrainingPlan
from ravan.spec import AdapterSpec


def both(
    ours: Optimizer, theirs: torch.optim.Optimizer, parameter: torch.Tensor, steps: int = 30
) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    values = parameter.detach().numpy().copy()
    for _ in range(steps):
        gradient = generator.standard_normal(values.shape).astype(np.float32)
        ours.step(values, gradient)
        parameter.grad = torch.from_numpy(gradient.copy())
        theirs.step()
    return values, parameter.detach().numpy()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_is_torchs(weight_decay: float) -> None:
    parameter = torch.randn(50, requires_grad=True)
    ours = AdamW(np.full(50, 1e-2, np.float32), weight_decay)
    theirs = torch.optim.AdamW([parameter], lr=1e-2, weight_decay=weight_decay)
    np.testing.assert_allclose(*both(ours, theirs, parameter), atol=1e-6)


def test_sgd_with_momentum_is_torchs() -> None:
    parameter = torch.randn(50, requires_grad=True)
    ours = SGD(np.full(50, 1e-2, np.float32), 0.9)
    np.testing.assert_allclose(*both(ours, torch.optim.SGD([parameter], lr=1e-2, momentum=0.9), parameter), atol=1e-6)


def test_clipping_is_torchs() -> None:
    gradient = np.random.default_rng(0).standard_normal(40).astype(np.float32)
    parameter = torch.zeros(40, requires_grad=True)
    parameter.grad = torch.from_numpy(gradient.copy())
    torch.nn.utils.clip_grad_norm_([parameter], 0.5)
    clip(gradient, 0.5)
    np.testing.assert_allclose(gradient, parameter.grad.numpy(), rtol=1e-5)
    before = gradient.copy()
    clip(gradient, 0)
    clip(gradient, 2.0)
    np.testing.assert_array_equal(gradient, before)


def test_rates_are_by_part_and_zero_for_what_is_not_trained(spec: AdapterSpec) -> None:
    trained = np.ones(spec.size, np.bool_)
    trained[3] = trained[-1] = False
    rates = learning_rates(spec, TrainingPlan(learning_rate=0.5, saved_learning_rate=0.25), trained)
    assert rates[0] == 0.5
    assert rates[spec.H_size + spec.s_size] == 0.25
    assert rates[3] == rates[-1] == 0


@pytest.mark.parametrize("name", OptimizerName)
def test_what_has_rate_zero_never_moves(name: OptimizerName) -> None:
    rates = np.array([0.1, 0.0], np.float32)
    optimizer = make_optimizer(TrainingPlan(optimizer=name, weight_decay=0.1), rates)
    values = np.ones(2, np.float32)
    for _ in range(3):
        optimizer.step(values, np.ones(2, np.float32))
    assert values[0] < 1
    assert values[1] == 1
