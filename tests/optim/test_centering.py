import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from ttfs_fast import spiking_linear
from ttfs_fast.geometry import tap_fractions
from ttfs_fast.loss import SpikingLoss
from ttfs_fast.models import cifar_scnn, mnist_scnn, vgg_stack
from ttfs_fast.nn import SpikingConv2d, SpikingLinear
from ttfs_fast.optim.centering import (
    CenteredWeight,
    center,
    center_weights_,
    fold_,
    is_centered,
    renormalize_weights_,
)


def layers_of(model: nn.Module) -> dict[str, SpikingConv2d | SpikingLinear]:
    return {n: m for n, m in model.named_modules() if isinstance(m, SpikingConv2d | SpikingLinear)}


@pytest.mark.parametrize("relative", [True, False])
def test_sum_and_norm_at_the_start(relative: bool, seed: int) -> None:
    model = center_weights_(vgg_stack(8, in_channels=6), total=4.0, norm=3.0, relative=relative)
    for name, layer in layers_of(model).items():
        conv = isinstance(layer, SpikingConv2d)
        size = {"conv1": 32, "conv2": 32, "conv3": 16, "conv4": 16, "conv5": 8, "conv6": 8}
        share = (1 - 2 / (3 * size[name])) ** 2 if conv else 1.0
        norm = 3 / math.sqrt(share)
        weight = layer.weight.detach()
        inputs = weight[0].numel()
        assert torch.allclose(weight.flatten(1).sum(1), torch.tensor(4 / share), atol=1e-4), name
        rest = weight - 4 / share / inputs
        assert torch.allclose(rest.flatten(1).norm(dim=1), torch.tensor(norm), atol=1e-4), name
        # Every tap of a kernel is centered by itself.
        assert rest.sum(1).abs().max() < 1e-4
        v = layer.parametrizations.weight.original
        expected = 1.0 if relative else norm / math.sqrt(inputs)
        assert v.std().item() == pytest.approx(expected, rel=0.1), name
        assert layer.bias.abs().max() == 0


def test_everything_spikes_and_learns(seed: int) -> None:
    model = center_weights_(vgg_stack(17, width=0.5, in_channels=6))
    z = (1.5 * torch.rand(4, 6, 32, 32)).exp()
    out = model(z)
    assert out.isfinite().all()
    out.log().square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0, name


def train_a_little(model: nn.Module, image: tuple[int, int, int], *, lr: float, steps: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(steps):
        loss = model((2 * torch.rand(4, *image)).exp()).log()[:, 0].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_weight_sum_stays_fixed_with_any_optimizer(seed: int) -> None:
    model = center_weights_(cifar_scnn(width=0.25, image_size=16))
    before = {n: m.weight.detach().clone() for n, m in layers_of(model).items()}
    train_a_little(model, (3, 16, 16), lr=0.05, steps=5)
    for name, layer in layers_of(model).items():
        sums = layer.weight.detach().flatten(1).sum(1)
        assert torch.allclose(sums, before[name].flatten(1).sum(1), atol=1e-4), name
        assert not torch.allclose(layer.weight, before[name], atol=1e-3), name


def deviations(layer: SpikingConv2d | SpikingLinear) -> torch.Tensor:
    """A neuron's weights without their mean, a row a neuron."""
    rows = layer.weight.detach().flatten(1)
    return rows - rows.mean(1, keepdim=True)


@pytest.mark.parametrize("relative", [True, False])
def test_the_norm_is_restored(relative: bool, seed: int) -> None:
    """Adam changes the norm of the deviations; it is restored, and the direction is kept."""
    model = center_weights_(mnist_scnn(), (1, 28, 28), norm=2.0, relative=relative)
    before = {n: deviations(m).norm(dim=1) for n, m in layers_of(model).items()}
    train_a_little(model, (1, 28, 28), lr=0.3 if relative else 0.06, steps=6)
    moved = {n: deviations(m) for n, m in layers_of(model).items()}
    sums = {n: m.weight.detach().flatten(1).sum(1) for n, m in layers_of(model).items()}
    assert renormalize_weights_(model) is model
    for name, layer in layers_of(model).items():
        renormalized = deviations(layer)
        assert (moved[name].norm(dim=1) / before[name] - 1).abs().mean() > 0.02, name
        assert torch.allclose(renormalized.norm(dim=1), before[name], rtol=1e-5), name
        assert nn.functional.cosine_similarity(renormalized, moved[name]).min() > 1 - 1e-5, name
        assert torch.allclose(layer.weight.detach().flatten(1).sum(1), sums[name], atol=1e-5), name
        v = layer.parametrizations.weight.original
        assert torch.allclose(v, center(v), atol=1e-5), name


def test_renormalizing_does_not_change_other_layers(seed: int) -> None:
    model = nn.Sequential(SpikingLinear(6, 4), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    renormalize_weights_(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    alone = center_weights_(SpikingLinear(1, 3))  # one input deviates from nothing
    renormalize_weights_(alone)
    assert torch.equal(alone.weight.detach(), torch.full((3, 1), 4.0))


def test_gradient_is_the_centered_one(seed: int) -> None:
    """d loss / d v = g center(d loss / d w): it has no component along the sum."""
    layer = SpikingLinear(20, 5, dtype=torch.float64)
    center_weights_(layer, total=4.0, norm=2.0)
    z = torch.rand(3, 20, dtype=torch.float64).exp()
    layer(z).sum().backward()
    plain = layer.weight.detach().clone().requires_grad_()
    spiking_linear(z, plain, layer.bias.detach()).sum().backward()
    gain = 2 / math.sqrt(20)
    expected = gain * center(plain.grad)
    assert torch.allclose(layer.parametrizations.weight.original.grad, expected, rtol=1e-10)
    assert (plain.grad <= 0).all()  # all of the causal set share a sign, which is why
    assert (plain.grad < 0).double().mean() > 0.5


def test_fold_keeps_every_bit(seed: int) -> None:
    model = center_weights_(vgg_stack(8, width=0.5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    z = (1.5 * torch.rand(2, 3, 32, 32)).exp()
    before = model(z)
    assert is_centered(model)
    assert fold_(model) is model
    assert not is_centered(model)
    assert torch.equal(model(z), before)
    assert model.state_dict().keys() == vgg_stack(8, width=0.5).state_dict().keys()
    assert all(p.is_leaf and p.requires_grad for p in model.parameters())
    fold_(model)  # nothing left to do
    plain = vgg_stack(8, width=0.5)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain(z), before)


def test_state_dict_round_trip(seed: int) -> None:
    """Also into a network that was centered with other numbers: they are part of the state."""
    model = center_weights_(cifar_scnn(width=0.25), total=5.0, norm=2.0)
    other = center_weights_(cifar_scnn(width=0.25))
    z = (1.5 * torch.rand(2, 3, 32, 32)).exp()
    assert not torch.equal(model(z), other(z))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(z), other(z))


def test_same_generator_same_start() -> None:
    def start(seed: int) -> nn.Module:
        return center_weights_(cifar_scnn(width=0.2), generator=torch.Generator().manual_seed(seed))

    one, same, other = start(3).state_dict(), start(3).state_dict(), start(4).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(
        one["fc1.parametrizations.weight.original"], other["fc1.parametrizations.weight.original"]
    )


def test_one_channel_is_centered_over_the_kernel(seed: int) -> None:
    """Tap by tap, a single channel would leave nothing."""
    model = center_weights_(mnist_scnn(), (1, 28, 28))
    weight = model.conv1.weight.detach()
    assert torch.allclose(weight.flatten(1).sum(1), weight.sum((1, 2, 3)))
    assert (weight - weight.mean((1, 2, 3), keepdim=True)).flatten(1).norm(dim=1).min() > 2.9


def test_right_inverse_accepts_plain_weights(seed: int) -> None:
    layer = center_weights_(SpikingLinear(8, 3), total=4.0, norm=3.0)
    given = torch.randn(3, 8)
    with torch.no_grad():
        layer.weight = given
    expected = given - given.mean(1, keepdim=True) + 0.5
    assert torch.allclose(layer.weight, expected, atol=1e-6)


def test_centering_rejects_invalid_arguments() -> None:
    with pytest.raises(ValueError, match=r"outputs of conv1 at the corners.*44%.*stay silent"):
        center_weights_(vgg_stack(8), total=2.0)
    with pytest.raises(ValueError, match="no SpikingLinear and no SpikingConv2d"):
        center_weights_(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="norm is -1"):
        center_weights_(SpikingLinear(2, 2), norm=-1)
    with pytest.raises(ValueError, match=r"total must exceed 1.00"):
        center_weights_(SpikingLinear(2, 2), total=1.0)
    with pytest.raises(ValueError, match="does not say how large its images are"):
        center_weights_(mnist_scnn())
    with pytest.raises(ValueError, match="image_shape must be"):
        center_weights_(mnist_scnn(), (28, 28))
    model = center_weights_(SpikingLinear(4, 2))
    with pytest.raises(ValueError, match="parametrized already"):
        center_weights_(model)
    odd = nn.Sequential(SpikingConv2d(1, 2, 3, padding=1))
    odd.unused = SpikingConv2d(1, 2, 3, padding=1)
    odd.forward = lambda z: odd[0](z)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="unused is not used"):
        center_weights_(odd, (1, 5, 5))


def test_fold_leaves_foreign_parametrizations(seed: int) -> None:
    layer = SpikingLinear(4, 2)
    parametrize.register_parametrization(layer, "weight", nn.Softplus())
    fold_(layer)
    assert parametrize.is_parametrized(layer, "weight")


def test_tap_fractions_against_a_convolution_of_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    compared = 0
    for _ in range(60):
        n, k, s, p, d = (
            int(torch.randint(low, high, (), generator=generator))
            for low, high in ((3, 12), (1, 6), (1, 4), (0, 3), (1, 3))
        )
        ones, kernel = torch.ones(1, 1, n, n + 1), torch.ones(1, 1, k, k)
        if n + 2 * p < d * (k - 1) + 1:
            with pytest.raises(ValueError, match="has no output"):
                tap_fractions((n, n + 1), k, s, p, d)
            continue
        taps = nn.functional.conv2d(ones, kernel, stride=s, padding=p, dilation=d) / k**2
        assert tap_fractions((n, n + 1), k, s, p, d) == pytest.approx(
            (taps.mean().item(), taps.min().item())
        )
        compared += 1
    assert compared > 20
    assert tap_fractions((28, 28), 5, 2, "same")[0] < 1 == tap_fractions((28, 28), 5, 2)[0]


def test_spread_and_gradient_follow_the_derived_factors(seed: int) -> None:
    """docs/deep.md: with all inputs causal, spread and gradient scale by s / m, a shift by 1."""
    inputs, outputs, total, spread, sigma = 2000, 300, 4.0, 3.0, 0.02
    layer = SpikingLinear(inputs, outputs, dtype=torch.float64)
    center_weights_(layer, total=total, norm=spread)
    z = (sigma * torch.randn(1, inputs, dtype=torch.float64)).exp().requires_grad_()
    out = layer(z)
    t_in, t_out = z.log(), out.log()
    assert (z < out.min()).all()  # all causal
    assert t_out.mean().item() == pytest.approx(math.log(total / (total - 1)), abs=0.01)
    assert t_out.std().item() == pytest.approx(spread / total * sigma, rel=0.15)
    jacobian = torch.stack(
        [torch.autograd.grad(t, z, retain_graph=True)[0][0] * z[0].detach() for t in t_out[0]]
    )
    assert torch.allclose(jacobian.sum(1), torch.ones(outputs, dtype=torch.float64))
    rest = jacobian - jacobian.mean(1, keepdim=True)
    assert rest.norm(dim=1).mean().item() == pytest.approx(spread / total, rel=0.05)
    # Weight gradient: one sign, and mean over deviation 1 / ((m - 1) sigma).
    weight = layer.weight.detach().requires_grad_()
    times = spiking_linear(z.detach(), weight)[0, :30].log()
    by_weight = torch.stack(
        [torch.autograd.grad(t, weight, retain_graph=True)[0][j] for j, t in enumerate(times)]
    )
    assert (by_weight < 0).all()
    ratio = (by_weight.mean(1).abs() / by_weight.std(1)).mean().item()
    assert ratio == pytest.approx(1 / ((total - 1) * sigma), rel=0.1)
    assert t_in.std() > 0


@pytest.mark.parametrize("shape", [(3, 5), (3, 4, 2, 3), (3, 1, 2, 3)])
def test_derivatives(shape: tuple[int, ...], seed: int) -> None:
    """Against plain torch and by differences, twice differentiable, under vmap."""
    module = CenteredWeight(4.0, 0.7)
    v = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    expected = 0.7 * center(v) + 4.0 / math.prod(shape[1:])
    assert torch.allclose(module(v), expected, rtol=1e-12)
    assert torch.autograd.gradcheck(module, v)
    assert torch.autograd.gradgradcheck(module, v)
    several = torch.randn(2, *shape, dtype=torch.float64)
    batched = torch.func.vmap(module)(several)
    assert torch.allclose(batched[1], module(several[1]), rtol=1e-12)


def test_compiled_training_step(seed: int) -> None:
    model = center_weights_(SpikingLinear(12, 4), total=4.0, norm=2.0)
    z = torch.rand(3, 12).exp()
    model(z).sum().backward()
    eager = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    torch.compile(model, backend="aot_eager")(z).sum().backward()
    for name, p in model.named_parameters():
        assert torch.allclose(p.grad, eager[name], rtol=1e-5), name


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("relative", [True, False])
def test_centered_networks_are_exported_as_they_are(
    strict: bool, relative: bool, seed: int, tmp_path: Path
) -> None:
    model = nn.Sequential(SpikingConv2d(2, 3, 3), nn.Flatten(), SpikingLinear(48, 5))
    center_weights_(model, (2, 6, 6), relative=relative)
    z = torch.rand(4, 2, 6, 6).exp()
    batch = torch.export.Dim("batch")
    shapes = ({0: batch},)
    program = torch.export.export(model, (z,), dynamic_shapes=shapes, strict=strict)
    torch.export.save(program, tmp_path / "network.pt2")
    exported = torch.export.load(tmp_path / "network.pt2").module()
    with torch.no_grad():
        for images in (z, z[:3]):
            assert torch.equal(exported(images), model(images))
        assert model(z).isfinite().all()


def test_centered_networks_run_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = vgg_stack(4, width=0.1)
    z = torch.empty(2, 3, 32, 32, device="meta")
    assert center_weights_(model)(z).shape == (2, 10)
    moved = center_weights_(vgg_stack(4, width=0.1)).to("meta")
    loss = SpikingLoss()(moved(z), torch.zeros(2, dtype=torch.int64, device="meta"), moved)
    loss.backward()
    assert all(p.grad is not None and p.grad.is_meta for p in moved.parameters())
    torch.optim.SGD(moved.parameters(), lr=0.1).step()
    assert renormalize_weights_(moved) is moved


def test_folding_a_copy_does_not_change_the_original() -> None:
    torch.manual_seed(3)
    model = center_weights_(vgg_stack(4, width=0.5))
    values = (1.5 * torch.rand(2, 3, 32, 32)).exp()
    before = model(values)
    copied = fold_(copy.deepcopy(model))
    assert is_centered(model)
    assert not is_centered(copied)
    assert torch.equal(model(values), before)
    assert torch.equal(copied(values), before)
    (gradient,) = torch.autograd.grad(model(values).log().sum(), [next(model.parameters())])
    assert gradient.abs().max() > 0


def test_neurons_with_one_input_have_no_deviation() -> None:
    layer = SpikingConv2d(1, 4, 1)
    center_weights_(nn.Sequential(layer), norm=5.0, image_shape=(1, 4, 4))
    assert layer.weight.isfinite().all()
    assert layer.weight.std() == 0
    assert layer.weight.mean() > 1


def test_centering_leaves_statistics_alone() -> None:
    norm = nn.BatchNorm2d(3)
    model = nn.Sequential(SpikingConv2d(2, 3, 3, padding=1), norm)
    center_weights_(model, image_shape=(2, 5, 5))
    assert norm.running_mean.tolist() == [0, 0, 0]
    assert norm.num_batches_tracked == 0
    assert norm.training
