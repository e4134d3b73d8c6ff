"""torch.compile of a training step with the paper's loss and gradient limit."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ttfs_fast.loss import SpikingLoss
from ttfs_fast.models import mnist_scnn
from ttfs_fast.optim.clipping import clip_gradient_

BACKEND = "aot_eager"  # inductor compiles C++ for a minute; docs/torch.md says what came of it
MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


def batch(count: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.rand(count, 1, 28, 28, generator=generator)).exp(), torch.arange(count)


def network() -> nn.Module:
    torch.manual_seed(1)
    return mnist_scnn()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-3)


def test_forward_and_loss_are_one_graph() -> None:
    model, objective = network(), SpikingLoss(scale=10.0)

    def forward(z: Tensor, labels: Tensor) -> Tensor:
        return objective(model(z), labels, model)

    whole = torch.compile(forward, fullgraph=True, backend=BACKEND)
    found = []
    for function in (forward, whole):
        loss = function(*batch())
        found.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    assert all(gradient.abs().sum() > 0 for gradient in found[0])
    for eager, compiled in zip(*found, strict=True):
        assert torch.equal(eager, compiled)


@pytest.mark.parametrize(("make", "exact"), [(sgd, True), (adam, False)])
def test_compiled_step_equals_the_eager_step(make: MakeOptimizer, exact: bool) -> None:
    losses, weights = [], []
    for compiled in (False, True):
        model, objective = network(), SpikingLoss(scale=10.0)
        optimizer = make(model)

        def step(
            z: Tensor,
            labels: Tensor,
            model: nn.Module = model,
            objective: SpikingLoss = objective,
            optimizer: torch.optim.Optimizer = optimizer,
        ) -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = objective(model(z), labels, model)
            loss.backward()
            clip_gradient_(model)
            optimizer.step()
            return loss.detach()

        run = torch.compile(step, backend=BACKEND) if compiled else step
        losses.append(torch.stack([run(*batch()) for _ in range(3)]))
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert losses[0][2] < losses[0][0] - 0.01  # it learns
    if exact:
        assert torch.equal(losses[0], losses[1])
        assert torch.equal(weights[0], weights[1])
    else:
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=1e-4)
