from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from support.runs import LEARNING, assert_same_run, digits, interrupted
from ttfs_fast.optim.averaging import average_weights
from ttfs_fast.optim.muon import Muon, orthogonalize
from ttfs_fast.training import train, trainer


@pytest.mark.parametrize("shape", [(4, 30), (30, 4), (12, 12), (1, 9), (9, 1)])
def test_singular_values_approach_1_and_vectors_stay(shape: tuple[int, int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    steep = u @ torch.diag(torch.logspace(0, -1.5, len(s), dtype=torch.float64)) @ vt
    result = orthogonalize(steep)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.65
    assert values.max() < 1.25
    within = u.T @ result @ vt.T
    assert (within - torch.diag(within.diagonal())).abs().max() < 1e-9  # the same vectors


def test_zeros_stay_zeros() -> None:
    assert torch.equal(orthogonalize(torch.zeros(3, 5)), torch.zeros(3, 5))


def gradients(parameter: nn.Parameter, grad: Tensor, **options: float) -> Tensor:
    before = parameter.detach().clone()
    parameter.grad = grad
    Muon([parameter], **options).step()  # type: ignore[arg-type]
    return parameter.detach() - before


def test_the_learning_rate_is_the_size_of_a_step(seed: int) -> None:
    torch.manual_seed(seed)
    for shape in ((8, 4, 3, 3), (10, 50), (7,)):
        step = gradients(nn.Parameter(torch.zeros(shape)), torch.randn(shape), lr=0.01)
        assert step.square().mean().sqrt() == pytest.approx(0.01, rel=1e-4)
    decayed = gradients(nn.Parameter(torch.ones(2, 2)), torch.zeros(2, 2), lr=0.1, weight_decay=0.5)
    assert decayed == pytest.approx(torch.full((2, 2), -0.05))


def test_matrices_of_an_adam_group_get_adam_s_steps(seed: int) -> None:
    torch.manual_seed(seed)
    start = torch.randn(10, 50)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    hidden = nn.Parameter(start.clone())
    muon = Muon([{"params": [hidden]}, {"params": [ours], "adam": True}], lr=0.01, beta2=0.99)
    adam = torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.99))
    for _ in range(3):
        grad = torch.randn(10, 50)
        for parameter in (hidden, ours, theirs):
            parameter.grad = grad.clone()
        muon.step()
        adam.step()
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert not torch.allclose(ours, start, atol=1e-2)
    assert not torch.allclose(hidden, theirs, atol=1e-2)


def test_a_centered_gradient_gives_a_centered_step(seed: int) -> None:
    torch.manual_seed(seed)
    grad = torch.randn(6, 40)
    grad -= grad.mean(1, keepdim=True)
    step = gradients(nn.Parameter(torch.zeros(6, 40)), grad, lr=1.0)
    assert step.sum(1).abs().max() < 1e-4 * step.abs().sum(1).min()


def test_muon_finds_a_direction_hidden_by_a_common_one() -> None:
    """Regression on inputs with a large common mean, which dominates gradient descent."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 20, generator=generator) * 0.1 + 3
    truth = torch.randn(20, 5, generator=generator)
    wanted = inputs @ truth

    def loss_after(make: object) -> float:
        weight = nn.Parameter(torch.zeros(5, 20))
        optimizer = make([weight])  # type: ignore[operator]
        for step in range(200):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * (1 - step / 200) + 1e-4
            optimizer.zero_grad()
            loss = (inputs @ weight.T - wanted).square().mean()
            torch.autograd.backward(loss)
            optimizer.step()
        return loss.item()

    muon = loss_after(lambda weights: Muon(weights, 0.1))
    adam = loss_after(lambda weights: torch.optim.Adam(weights, 0.1, betas=(0.9, 0.99)))
    assert muon < adam / 3


def test_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    muon = {"optimizer": "muon", "relative_lr": True, "fixed_norm": True}
    config = digits(120, 40, epochs=2, **LEARNING | {"lr": 0.03} | muon)
    whole = train(config, tmp_path / "whole")
    assert whole.records[1].loss_class < 0.9 * whole.records[0].loss_class

    with interrupted(trainer, "save_checkpoint"):
        train(config, tmp_path / "stopped")
    resumed = train(config, tmp_path / "stopped", resume=True)
    assert_same_run(resumed, whole)


@pytest.mark.parametrize("size", [1e-12, 1e-24, 1e-40])
def test_small_gradients_give_the_step_of_large_ones(size: float) -> None:
    matrix = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        orthogonalize(size * matrix),
        orthogonalize(matrix),
        atol=0.02 if size < 1e-38 else 1e-4,
        rtol=0,
    )


def test_matrices_without_elements() -> None:
    assert orthogonalize(torch.zeros(3, 0)).shape == (3, 0)


def test_a_layer_that_falls_silent_keeps_finite_weights() -> None:
    weight = nn.Parameter(torch.randn(8, 16, generator=torch.Generator().manual_seed(1)))
    optimizer = Muon([weight], lr=0.01)
    weight.grad = 1e-3 * torch.randn(8, 16, generator=torch.Generator().manual_seed(2))
    for _ in range(2000):  # the moving average becomes too small for its own square
        optimizer.step()
        weight.grad = torch.zeros(8, 16)
    assert weight.isfinite().all()


@pytest.mark.parametrize(
    "wrong", [{"lr": -1.0}, {"momentum": 1.0}, {"beta2": -0.1}, {"weight_decay": float("nan")}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} must be at least 0"):
        Muon([nn.Parameter(torch.ones(2, 2))], **{"lr": 0.1, **wrong})


def test_an_average_that_never_moves_is_refused() -> None:
    with pytest.raises(ValueError, match="decay must be from 0 to below 1; got 1"):
        average_weights(nn.Linear(2, 2), 1.0)
