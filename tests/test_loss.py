import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ttfs_fast.loss import (
    MAX_TIME,
    SpikingLoss,
    first_spike_cross_entropy,
    l2_cost,
    weight_sum_cost,
    weights_and_biases,
)
from ttfs_fast.nn import SpikingConv2d, SpikingLinear


def outputs(samples: int = 6, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    times = 4 * torch.rand(samples, classes, generator=generator, dtype=torch.float64) - 1
    target = torch.randint(classes, (samples,), generator=generator)
    return times.exp().requires_grad_(), target


def small_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        SpikingConv2d(2, 4, 3), SpikingConv2d(4, 4, 3, groups=2, bias=False), nn.Flatten()
    )
    model.append(SpikingLinear(64, 3))
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.01, 0.1)
    return model


def test_keeps_the_target_in_the_sum_by_default() -> None:
    z, target = outputs()
    expected = torch.stack(
        [-torch.log((1 / row[c]) / (1 / row).sum()) for row, c in zip(z, target, strict=True)]
    )
    torch.testing.assert_close(first_spike_cross_entropy(z, target), expected.mean())
    torch.testing.assert_close(
        first_spike_cross_entropy(z, target, reduction="sum"), expected.sum()
    )
    torch.testing.assert_close(first_spike_cross_entropy(z, target, reduction="none"), expected)


def test_excluding_the_target_is_the_printed_log_ratio() -> None:
    z, target = outputs()
    expected = []
    for row, c in zip(z, target, strict=True):
        others = torch.cat([row[:c], row[c + 1 :]])
        expected.append(-torch.log((1 / row[c]) / (1 / others).sum()))
    losses = first_spike_cross_entropy(z, target, exclude_target=True, reduction="none")
    torch.testing.assert_close(losses, torch.stack(expected))


def test_only_the_printed_form_is_unbounded_below() -> None:
    z = torch.tensor([[1e-20, 1.0]], dtype=torch.float64)
    target = torch.tensor([0])
    assert first_spike_cross_entropy(z, target) >= 0
    assert first_spike_cross_entropy(z, target, exclude_target=True) < -40


def test_scale_multiplies_the_times() -> None:
    z, target = outputs()
    loss = first_spike_cross_entropy(z, target, scale=3.0)
    torch.testing.assert_close(loss, cross_entropy(-3.0 * z.log(), target))


@pytest.mark.parametrize("exclude_target", [False, True])
def test_unbatched_is_the_batch_of_one(exclude_target: bool) -> None:
    z, target = outputs(1)
    batched = first_spike_cross_entropy(z, target, exclude_target=exclude_target)
    single = first_spike_cross_entropy(z[0], target[0], exclude_target=exclude_target)
    assert single.shape == ()
    torch.testing.assert_close(single, batched)


@pytest.mark.parametrize("exclude_target", [False, True])
def test_gradient_is_that_of_the_formula(exclude_target: bool) -> None:
    z, target = outputs()

    def loss(z: Tensor) -> Tensor:
        return first_spike_cross_entropy(z, target, scale=1.5, exclude_target=exclude_target)

    assert torch.autograd.gradcheck(loss, (z,))


@pytest.mark.parametrize("exclude_target", [False, True])
def test_gradient_pulls_the_target_earlier_and_the_others_later(exclude_target: bool) -> None:
    z, target = outputs()
    first_spike_cross_entropy(z, target, exclude_target=exclude_target).backward()
    assert z.grad is not None
    descent = -z.grad
    is_target = nn.functional.one_hot(target, z.shape[1]).bool()
    assert (descent[is_target] < 0).all()
    assert (descent[~is_target] > 0).all()


@pytest.mark.parametrize(("exclude_target", "classes"), [(False, 4), (True, 3)])
def test_all_silent_gives_a_finite_loss_and_no_gradient(exclude_target: bool, classes: int) -> None:
    z = torch.full((2, 4), math.inf, requires_grad=True)
    loss = first_spike_cross_entropy(z, torch.tensor([0, 3]), exclude_target=exclude_target)
    assert loss.item() == pytest.approx(math.log(classes))
    loss.backward()
    assert z.grad is not None
    assert torch.equal(z.grad, torch.zeros(2, 4))


def test_silent_counts_as_a_spike_at_max_time() -> None:
    silent = torch.tensor([[2.0, math.inf, 3.0]], requires_grad=True)
    stand_in = torch.tensor([[2.0, math.exp(4.0), 3.0]])
    for target in (torch.tensor([0]), torch.tensor([1])):
        loss = first_spike_cross_entropy(silent, target, max_time=4.0)
        torch.testing.assert_close(loss, first_spike_cross_entropy(stand_in, target))
        (gradient,) = torch.autograd.grad(loss, silent)
        assert gradient[0, 1] == 0
        assert gradient.isfinite().all()
        assert (gradient[0, [0, 2]] != 0).all()


def test_spikes_after_max_time_count_as_silent() -> None:
    silent = torch.tensor([2.0, math.inf, 3.0])
    late = torch.tensor([2.0, math.exp(5.0), 3.0], requires_grad=True)
    target = torch.tensor(1)
    loss = first_spike_cross_entropy(late, target, max_time=4.0)
    assert loss == first_spike_cross_entropy(silent, target, max_time=4.0)
    (gradient,) = torch.autograd.grad(loss, late)
    assert gradient[1] == 0


def test_default_max_time_is_that_of_the_published_codes() -> None:
    assert math.exp(MAX_TIME) == pytest.approx(1e5)
    target = torch.tensor(0)
    just_before = first_spike_cross_entropy(torch.tensor([0.99e5, 1.0]), target)
    at_infinity = first_spike_cross_entropy(torch.tensor([math.inf, 1.0]), target)
    assert just_before < at_infinity
    assert at_infinity.item() == pytest.approx(math.log1p(1e5), rel=1e-6)


def test_nan_is_propagated() -> None:
    z = torch.tensor([[1.0, math.nan], [1.0, 2.0]])
    losses = first_spike_cross_entropy(z, torch.tensor([0, 0]), reduction="none")
    assert losses[0].isnan()
    assert losses[1].isfinite()


def test_empty_batch_sums_to_zero() -> None:
    z, target = torch.empty(0, 3), torch.empty(0, dtype=torch.int64)
    assert first_spike_cross_entropy(z, target, reduction="sum") == 0


def test_compiles_without_a_graph_break() -> None:
    z, target = outputs()
    compiled = torch.compile(first_spike_cross_entropy, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(z, target), first_spike_cross_entropy(z, target))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda z, y: first_spike_cross_entropy(z.int(), y), TypeError, "int32"),
        (lambda z, y: first_spike_cross_entropy(z, y.int()), TypeError, "int64"),
        (lambda z, y: first_spike_cross_entropy(z, y[:-1]), ValueError, r"\(6, 5\) and \(5,\)"),
        (lambda z, y: first_spike_cross_entropy(z[None], y[None]), ValueError, "target"),
        (lambda z, y: first_spike_cross_entropy(z, y + 5), ValueError, r"classes 0\.\.4"),
        (lambda z, y: first_spike_cross_entropy(z, y - 100), ValueError, "got -"),
        (lambda z, y: first_spike_cross_entropy(z.log(), y), ValueError, "above 0"),
        (lambda z, y: first_spike_cross_entropy(z, y, scale=0.0), ValueError, "scale"),
        (lambda z, y: first_spike_cross_entropy(z, y, max_time=math.inf), ValueError, "max_time"),
        (lambda z, y: first_spike_cross_entropy(z, y, reduction="max"), ValueError, "'max'"),
        (
            lambda z, y: first_spike_cross_entropy(z[:, :1], y * 0, exclude_target=True),
            ValueError,
            "two classes",
        ),
    ],
)
def test_wrong_input_is_named(
    call: Callable[[Tensor, Tensor], Tensor], error: type[Exception], message: str
) -> None:
    z, target = outputs()
    with pytest.raises(error, match=message):
        call(z.detach(), target)


def test_weight_sum_cost_by_hand() -> None:
    weight = torch.tensor([[0.2, 0.3], [2.0, 1.0], [-1.0, 0.5]])
    bias = torch.tensor([0.1, 0.0, 0.0])
    assert weight_sum_cost([weight]).item() == pytest.approx(0.5 + 0 + 1.5)
    assert weight_sum_cost([(weight, bias)]).item() == pytest.approx(0.4 + 0 + 1.5)
    assert weight_sum_cost([(weight, None)], beta=2.0).item() == pytest.approx(1.5 + 0 + 2.5)
    assert weight_sum_cost([weight], reduction="mean").item() == pytest.approx(2 / 3)


def test_l2_cost_by_hand() -> None:
    weight, bias = torch.tensor([[1.0, 2.0]]), torch.tensor([3.0])
    assert l2_cost([weight]) == 5
    assert l2_cost([(weight, bias)]) == 14
    assert l2_cost([(weight, bias)], "mean").item() == pytest.approx(14 / 3)
    assert l2_cost([weight, (weight, bias)]) == 19


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_costs_of_a_model_cover_its_layers_and_biases(reduction: str) -> None:
    model = small_model()
    matrices = []
    for layer in model.modules():
        if isinstance(layer, SpikingConv2d | SpikingLinear):
            columns = [layer.weight.flatten(1)]
            if layer.bias is not None:
                columns.append(layer.bias[:, None])
            matrices.append(torch.cat(columns, 1))
    assert len(matrices) == 3
    reduce = torch.sum if reduction == "sum" else torch.mean
    weight_sum = sum(reduce((1.5 - m.sum(1)).clamp(min=0)) for m in matrices)
    l2 = sum(reduce(m**2) for m in matrices)
    torch.testing.assert_close(weight_sum_cost(model, 1.5, reduction), weight_sum)  # type: ignore[arg-type]
    torch.testing.assert_close(l2_cost(model, reduction), l2)  # type: ignore[arg-type]
    layers = [layer for layer in model if not isinstance(layer, nn.Flatten)]
    torch.testing.assert_close(l2_cost(layers, reduction), l2)  # type: ignore[arg-type]


def test_costs_reach_weights_and_biases() -> None:
    model = small_model()
    (100 * weight_sum_cost(model) + l2_cost(model)).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_layers_without_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="Sequential has no SpikingLinear"):
        l2_cost(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="empty"):
        l2_cost([])
    with pytest.raises(TypeError, match="Flatten"):
        weight_sum_cost([nn.Flatten()])
    with pytest.raises(TypeError, match="two dimensions"):
        weight_sum_cost([torch.zeros(3)])
    with pytest.raises(TypeError, match="in a list"):
        weights_and_biases(torch.zeros(3, 3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bias"):
        weight_sum_cost([(torch.zeros(3, 2), torch.zeros(2))])
    with pytest.raises(ValueError, match="'none'"):
        l2_cost([torch.zeros(3, 3)], "none")  # type: ignore[arg-type]


def test_spiking_loss_adds_the_three_terms() -> None:
    z, target = outputs()
    z = z.float()
    model = small_model()
    loss = SpikingLoss(weight_sum_cost=7.0, l2_cost=0.3, beta=1.2, scale=2.0, exclude_target=True)
    terms = loss.terms(z, target, model)
    torch.testing.assert_close(
        terms.cross_entropy,
        first_spike_cross_entropy(z, target, scale=2.0, exclude_target=True),
    )
    torch.testing.assert_close(terms.weight_sum, weight_sum_cost(model, 1.2))
    torch.testing.assert_close(terms.l2, l2_cost(model))
    expected = terms.cross_entropy + 7.0 * terms.weight_sum + 0.3 * terms.l2
    torch.testing.assert_close(terms.total, expected)
    assert torch.equal(loss(z, target, model), terms.total)


def test_spiking_loss_defaults_are_the_papers() -> None:
    loss = SpikingLoss()
    assert (loss.weight_sum_cost, loss.l2_cost, loss.beta, loss.cost_reduction) == (
        100.0,
        0.001,
        1.0,
        "sum",
    )
    assert "weight_sum_cost=100.0" in repr(loss)
    assert list(loss.state_dict()) == []


@pytest.mark.parametrize(
    "options",
    [
        {"weight_sum_cost": -1.0},
        {"l2_cost": math.nan},
        {"beta": math.inf},
        {"scale": -1.0},
        {"max_time": 1e999},
    ],
)
def test_spiking_loss_refuses_bad_options(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        SpikingLoss(**options)  # type: ignore[arg-type]


def test_options_out_of_their_range_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="label_smoothing must be at least 0 and below 1; got 2"):
        SpikingLoss(label_smoothing=2.0)
    with pytest.raises(ValueError, match="contradict each other"):
        SpikingLoss(exclude_target=True, label_smoothing=0.1)


def test_the_loss_takes_single_examples_of_vmap() -> None:
    z = 1 + torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0, 1, 2, 0, 1])
    each = torch.func.vmap(first_spike_cross_entropy)(z, target)
    torch.testing.assert_close(each, first_spike_cross_entropy(z, target, reduction="none"))
