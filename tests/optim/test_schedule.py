"""Learning rates and the moving average of weights."""

import math

import pytest
import torch
from torch import nn

from ttfs_fast.optim.averaging import average_weights, averaged_or_trained
from ttfs_fast.optim.schedule import cosine, set_learning_rate_


def test_cosine_falls_from_the_first_rate_to_the_last() -> None:
    assert cosine(0.1, 0.001, 0, 7) == pytest.approx(0.1)
    assert cosine(0.1, 0.001, 3.5, 7) == pytest.approx((0.1 + 0.001) / 2)
    assert cosine(0.1, 0.001, 7, 7) == pytest.approx(0.001)
    rates = [cosine(1.0, 0.0, step, 20) for step in range(21)]
    assert rates == sorted(rates, reverse=True)


def test_cosine_is_that_of_torch() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50, eta_min=1e-4)
    for step in range(50):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(cosine(0.02, 1e-4, step, 50))
        optimizer.step()
        schedule.step()


def test_a_learning_rate_is_set_for_all_groups() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (1.0, 2.0)]
    optimizer = torch.optim.SGD(groups)
    set_learning_rate_(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_averaged_weights_follow_the_recurrence() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    assert average_weights(model, 0.0) is None
    assert averaged_or_trained(model, None) is model
    averaged = average_weights(model, 0.75)
    assert averaged is not None
    network = averaged_or_trained(model, averaged)
    assert network is not model
    averaged.update_parameters(model)  # the first one copies
    expected = 1.0
    for value in (3.0, -2.0):
        nn.init.constant_(model.weight, value)
        averaged.update_parameters(model)
        expected = 0.75 * expected + 0.25 * value
        weight = next(network.parameters()).item()
        assert math.isclose(weight, expected, rel_tol=1e-6)
