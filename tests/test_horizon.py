import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttfs_fast import reference
from ttfs_fast.encoding import Encoding, encode
from ttfs_fast.horizon import (
    HorizonConv2d,
    HorizonLinear,
    Mirror,
    Normalization,
    ReferenceSpikes,
    _spike_values,
    dirac_,
    estimate_statistics_,
    fold_horizons_,
    has_horizon_layers,
    renormalize_horizons_,
    unfold_horizons_,
    whiten_,
)
from ttfs_fast.models import HorizonNetwork, cifar_airbench, spiking_googlenet, vgg_stack
from ttfs_fast.models.description import Conv, Dense, Description, GlobalPool, Pool, numbered
from ttfs_fast.nn import SpikingConv2d, SpikingLinear, SpikingMaxPool2d

T_IN = 0.01


def chain(spread: float, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    options = {"spread": spread, "weight_sum": 2.0, "dtype": dtype}
    one = HorizonConv2d(2, 8, 3, padding=1, pool=2, t_in=T_IN, **options)
    two = HorizonConv2d(8, 12, 3, 2, (1, 0), 1, t_in=one.t_out, **options)
    three = HorizonLinear(12 * 2 * 1, 16, t_in=two.t_out, **options)
    last = HorizonLinear(16, 5, t_in=three.t_out, normalization="none", **options)
    return nn.Sequential(one, two, nn.Flatten(), three, last)


def spikes(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Spread over the input horizon, some exactly at it, some late, some silent."""
    z = (T_IN * torch.rand(shape, dtype=dtype)).exp()
    kind = torch.randint(12, shape)
    z[kind == 0] = math.exp(T_IN)
    z[kind == 1] = 3.0
    z[kind == 2] = math.inf
    return z


def settled(model: nn.Sequential) -> nn.Sequential:
    """With running statistics of their own, and shifts that are not 0."""
    for layer in model:
        if hasattr(layer, "shift"):
            nn.init.normal_(layer.shift, std=0.3)
    dtype = model[0].weight.dtype
    estimate_statistics_(model, [spikes(16, 2, 8, 6, dtype=dtype) for _ in range(4)])
    return model.eval()


def leads(z: Tensor, t: float) -> Tensor:
    return 1 - z.double() / math.exp(t)


# Where spikes are wide apart, early ones cut the causal set, and the dense product is wrong.
@pytest.mark.parametrize("spread", [0.001, 0.1, 0.4])
def test_folded_network_has_the_same_outputs(spread: float, seed: int) -> None:
    model = settled(chain(spread))
    z = spikes(8, 2, 8, 6)
    before = model(z)
    ran = {n: m.fallbacks for n, m in model.named_modules() if hasattr(m, "fallbacks")}
    assert all(calls == 0 for calls in ran.values()) == (spread == 0.001), ran
    folded = fold_horizons_(copy.deepcopy(model))
    assert not has_horizon_layers(folded)
    assert has_horizon_layers(model)
    after = folded(z)
    scale = leads(before, model[-1].t_out).std()
    assert torch.allclose(leads(after, 0) / scale, leads(before, 0) / scale, atol=1e-8)
    hidden = folded[1](folded[0](z))
    assert 0.2 < hidden.isfinite().double().mean() < 0.8  # late ones are silent
    assert after.isfinite().all()


def test_every_layer_is_the_relu_layer_of_its_leads(seed: int) -> None:
    """Of the plain form, by the sorting reference: nothing of the layer's own forward."""
    for normalization in ("batch", "mean", "none"):
        layer = HorizonConv2d(
            3, 7, 3, padding=1, t_in=T_IN, normalization=normalization, dtype=torch.float64
        )
        nn.init.normal_(layer.shift)
        z = spikes(4, 3, 5, 5)
        estimate_statistics_(layer, [z])
        layer.eval()
        x = leads(z, T_IN).clamp(min=0)
        product = F.conv2d(x, layer.weight, padding=1)
        if normalization == "batch":
            normed = F.batch_norm(product, None, None, None, layer.shift, True, eps=1e-12)
            assert layer(z).isfinite().all()
            # A running variance is unbiased, the batch's is not.
            count = product.numel() / 7
            gain = (product.var((0, 2, 3), correction=1) + 1e-12).rsqrt().view(-1, 1, 1)
            normed = (normed - layer.shift.view(-1, 1, 1)) * math.sqrt((count - 1) / count)
            normed = normed + layer.shift.view(-1, 1, 1)
            assert torch.allclose(
                gain * product.std((0, 2, 3)).view(-1, 1, 1), torch.ones(1).double()
            )
        else:
            factor = math.sqrt(2 / 27) / layer.spread
            mean = product.mean((0, 2, 3), keepdim=True) if normalization == "mean" else 0
            normed = factor * (product - mean) + layer.shift.view(-1, 1, 1)
        plain = layer.to_plain()
        prepared = plain[0](z)
        out = reference.spiking_conv2d(prepared, plain[1].weight, plain[1].bias)
        late = out > math.exp(layer.t_out)
        assert 0.1 < late.double().mean() < 0.9
        expected = math.exp(layer.t_out) * (1 - layer.spread * normed)
        assert torch.allclose(out, expected, rtol=1e-9), normalization
        assert torch.allclose(layer(z), expected, rtol=1e-9), normalization
        assert torch.equal(plain(z).isinf(), late)
        sums = plain[1].weight.flatten(1).sum(1) + plain[1].bias
        assert torch.allclose(sums, torch.full_like(sums, 4.0))


@pytest.mark.parametrize("spread", [0.001, 0.4])
@pytest.mark.parametrize("normalization", ["batch", "mean", "none"])
def test_positions_are_averaged(spread: float, normalization: Normalization, seed: int) -> None:
    """As an average pool of the leads and a layer behind it."""
    options = {"spread": spread, "normalization": normalization, "dtype": torch.float64}
    layer = HorizonLinear(6, 5, positions=4, t_in=T_IN, **options)
    behind = HorizonLinear(6, 5, t_in=T_IN, **options)
    nn.init.normal_(layer.shift)
    if spread == 0.4:
        with torch.no_grad():
            layer.weight *= 20
    z = spikes(32, 6, 2, 2)
    estimate_statistics_(layer, [z.flatten(1)])
    behind.load_state_dict(layer.state_dict())
    pooled = z.clamp(max=math.exp(T_IN)).mean((2, 3))
    for training in (True, False):
        layer.train(training), behind.train(training)
        early = layer.fallbacks
        out = layer(z.flatten(1))
        assert (layer.fallbacks > early) == (spread == 0.4)
        if spread == 0.001:  # where causal sets are cut, a mean of inputs is another input
            assert torch.allclose(leads(out, 0), leads(behind(pooled), 0), rtol=1e-12)
    folded = fold_horizons_(nn.Sequential(copy.deepcopy(layer)))
    assert torch.allclose(folded(z.flatten(1)), layer(z.flatten(1)), rtol=1e-12)
    prepared = folded[0][0](z.flatten(1))
    out = reference.spiking_linear(prepared, folded[0][1].weight, folded[0][1].bias)
    assert torch.allclose(out, layer(z.flatten(1)), rtol=1e-9)
    unfolded = unfold_horizons_(folded)
    assert unfolded[0].weight.shape == (5, 24)
    assert torch.allclose(unfolded(z.flatten(1)), layer(z.flatten(1)), rtol=1e-9)
    with pytest.raises(ValueError, match="positions must be at least 1; got 0"):
        HorizonLinear(6, 5, positions=0, t_in=T_IN)
    with pytest.raises(RuntimeError, match=r"takes an input of shape \(N, 24\)"):
        layer(z.flatten(1)[:, 1:])


def test_fallback_and_dense_product_have_the_same_gradients(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = settled(chain(0.001)).train()
    z = spikes(16, 2, 8, 6)
    z = z.where(z != math.exp(T_IN), 1.001).requires_grad_()  # rounding decides at the horizon
    found = []
    for certified in (True, False):
        monkeypatch.setattr(
            "ttfs_fast.horizon._HorizonLayer._certified", lambda *_, answer=certified: answer
        )
        copied = copy.deepcopy(model)
        out = copied(z)
        out.log().square().sum().backward()
        found.append([out.detach(), z.grad, *(p.grad for p in copied.parameters())])
        z.grad = None
    for one, other in zip(*found, strict=True):
        assert one.abs().max() > 0
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-9 * float(one.abs().max()))


def test_gradients_are_those_of_finite_differences(seed: int) -> None:
    options = {"t_in": T_IN, "spread": 0.01, "dtype": torch.float64}
    layer = HorizonConv2d(2, 3, 2, pool=2, **options).train()
    z = (T_IN * torch.rand(3, 2, 5, 5, dtype=torch.float64)).exp().requires_grad_()

    def run(z: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
        parameters = {"weight": weight, "shift": shift}
        return torch.func.functional_call(layer, parameters, (z,))

    weight, shift = layer.weight.detach().clone(), layer.shift.detach().clone()
    inputs = (z, weight.requires_grad_(), shift.requires_grad_())
    assert torch.autograd.gradcheck(run, inputs, eps=1e-7, atol=1e-4, rtol=1e-3)


def test_float32_decides_as_float64(seed: int) -> None:
    model = settled(chain(0.001))
    single = copy.deepcopy(model).float()
    z = spikes(200, 2, 8, 6)
    one, other = model(z), single(z.float())
    folded = fold_horizons_(single)(z.float())
    spread = leads(one, 0).std()
    for out in (other, folded):
        assert (leads(out, 0) - leads(one, 0)).abs().max() < 0.02 * spread
        assert (out.argmin(1) == one.argmin(1)).double().mean() > 0.97


def test_bfloat16_products_leave_spike_values_float32(seed: int) -> None:
    model = chain(0.001, torch.float32).train()
    z = spikes(32, 2, 8, 6, dtype=torch.float32)
    exact = copy.deepcopy(model)(z)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(z)
    assert out.dtype == torch.float32
    spread = leads(exact, 0).std()
    assert 0 < (leads(out, 0) - leads(exact, 0)).std() < 0.1 * spread
    out.log().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_state_dict_restores_the_statistics(seed: int) -> None:
    model = settled(chain(0.001))
    z = spikes(4, 2, 8, 6)
    fresh = chain(0.001).eval()
    assert not torch.equal(fresh(z), model(z))
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(z), model(z))
    folded = fold_horizons_(copy.deepcopy(model))
    other = fold_horizons_(chain(0.001).eval())
    other.load_state_dict(folded.state_dict())
    assert torch.equal(other(z), folded(z))


def test_statistics_are_means_over_the_batches(seed: int) -> None:
    layer = HorizonLinear(6, 4, t_in=T_IN, dtype=torch.float64).train()
    batches = [spikes(10, 6) for _ in range(3)]
    estimate_statistics_(layer, batches)
    products = [F.linear(leads(z, T_IN).clamp(min=0), layer.weight) for z in batches]
    assert torch.allclose(layer.running_mean, torch.stack([p.mean(0) for p in products]).mean(0))
    assert torch.allclose(layer.running_var, torch.stack([p.var(0) for p in products]).mean(0))
    assert layer.momentum == 0.1
    assert layer.training
    mixed = nn.Sequential(layer, nn.Identity().eval())
    estimate_statistics_(mixed, batches)
    assert [module.training for module in mixed] == [True, False]


@pytest.mark.parametrize("spread", [0.001, 0.05])
def test_unfolded_layers_are_the_folded_ones(spread: float, seed: int) -> None:
    model = settled(chain(0.001))
    z = spikes(16, 2, 8, 6)
    folded = fold_horizons_(copy.deepcopy(model))
    plain = {n: p.detach().clone() for n, p in folded.named_parameters()}
    wanted = folded(z)
    assert 0.2 < (wanted.log() < model[-1].t_out).double().mean() < 0.8
    again = unfold_horizons_(folded, spread)
    kinds = [type(m) for m in model.modules()]
    assert [type(m) for m in again.modules()] == kinds
    assert torch.allclose(again(z), wanted, rtol=1e-12)
    assert torch.allclose(leads(again(z), 0), leads(wanted, 0), rtol=1e-7)
    for layer, old in zip(again, model, strict=True):
        if isinstance(layer, HorizonConv2d | HorizonLinear):
            assert (layer.normalization, layer.spread) == ("none", spread)
            assert layer.t_out == pytest.approx(old.t_out, rel=1e-9)
    for name, value in fold_horizons_(again).named_parameters():
        assert torch.allclose(value, plain[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("spread", [0.001, 0.3])
def test_groups_are_layers_side_by_side(spread: float, seed: int) -> None:
    """Each half of the channels by itself; forward, gradients, fallback, folded and unfolded."""
    options = {"spread": spread, "weight_sum": 2.0, "dtype": torch.float64}
    geometry = (3, 2, (1, 0), (1, 2))
    grouped = HorizonConv2d(4, 6, *geometry, groups=2, t_in=T_IN, **options)
    halves = [HorizonConv2d(2, 3, *geometry, t_in=T_IN, **options) for _ in range(2)]
    with torch.no_grad():
        for half, own in zip(halves, grouped.weight.chunk(2), strict=True):
            half.weight.copy_(own)
    z = spikes(8, 4, 9, 8)
    for train in (True, False):
        grouped.train(train)
        out = grouped(z)
        expected = torch.cat(
            [half.train(train)(some) for half, some in zip(halves, z.chunk(2, 1), strict=True)], 1
        )
        assert torch.allclose(out, expected, rtol=1e-12)
        (gradient,) = torch.autograd.grad(out.log().square().sum(), grouped.weight)
        theirs = torch.autograd.grad(expected.log().square().sum(), [h.weight for h in halves])
        assert torch.allclose(gradient, torch.cat(theirs), rtol=1e-6)
    assert (grouped.fallbacks > 0) == (spread == 0.3)
    bounds = [half.early_bound(some) for half, some in zip(halves, z.chunk(2, 1), strict=True)]
    assert max(bounds) <= grouped.early_bound(z) <= 1.5 * max(bounds)
    folded = fold_horizons_(nn.Sequential(copy.deepcopy(grouped)))
    assert folded[0][1].weight.shape == (6, 3, 3, 3)  # two channels and a reference
    last = math.exp(grouped.t_out)
    assert torch.allclose(folded(z).clamp(max=last), out.clamp(max=last), rtol=1e-9)
    again = unfold_horizons_(folded, spread).eval()
    assert again[0].groups == 2
    assert torch.allclose(again(z), out, rtol=1e-9)
    with pytest.raises(ValueError, match="divisible by groups"):
        HorizonConv2d(4, 6, 3, groups=3, t_in=T_IN)
    for refusing in (dirac_, lambda layer: whiten_(layer, torch.rand(4, 4, 8, 8))):
        with pytest.raises(ValueError, match="one group; this one has 2"):
            refusing(HorizonConv2d(4, 6, 3, groups=2, t_in=T_IN))


def test_layers_without_neurons_fold() -> None:
    for layer in (HorizonLinear(3, 0, t_in=1.0), HorizonConv2d(3, 0, 3, t_in=1.0)):
        assert layer.to_plain()[1].weight.shape[0] == 0


def test_unfolding_names_unsupported_layers(seed: int) -> None:
    with pytest.raises(ValueError, match="SpikingLinear has no layer that fold_horizons_ made"):
        unfold_horizons_(SpikingLinear(3, 2))
    folded = fold_horizons_(settled(chain(0.001)))
    with torch.no_grad():
        folded[0][1].weight[2] += 0.1
    with pytest.raises(ValueError, match=r"the neurons of 0 sum to 2 to .* they have one sum"):
        unfold_horizons_(folded)


def test_what_a_layer_with_a_horizon_cannot_keep_is_not_unfolded(seed: int) -> None:
    folded = fold_horizons_(settled(chain(0.001)))
    folded[0][1].t_max = 0.999 * folded[1][0].reference.log().item()
    with pytest.raises(ValueError, match=r"spikes of 0 after t_max=.* do not count"):
        unfold_horizons_(folded)
    padded = nn.Sequential(ReferenceSpikes(0.01), SpikingConv2d(3, 4, 3, padding=1))
    with torch.no_grad():
        padded[1].weight.fill_(0.1)
        padded[1].bias.fill_(0.2)
    assert padded(torch.ones(1, 2, 5, 5)).shape == (1, 4, 5, 5)
    with pytest.raises(ValueError, match="has no layer that fold_horizons_ made"):
        unfold_horizons_(padded)


def test_renormalized_weights_have_deviation_one(seed: int) -> None:
    model = chain(0.001)
    before = model.train()[0](z := spikes(8, 2, 8, 6))
    with torch.no_grad():
        model[0].weight.mul_(torch.linspace(0.5, 40, 8).double().view(-1, 1, 1, 1))
        model[-1].weight.mul_(3)
        last = model[-1].weight.clone()
    renormalize_horizons_(model)
    assert torch.equal(model[-1].weight, last)  # its scale is that of the outputs
    norms = model[0].weight.flatten(1).square().mean(1)
    assert torch.allclose(norms, torch.ones_like(norms))
    assert torch.allclose(leads(model[0](z), 0), leads(before, 0), rtol=1e-9)


@pytest.mark.parametrize("normalization", ["batch", "none"])
def test_whitening_filters_whiten(seed: int, normalization: str) -> None:
    base = torch.rand(64, 1, 9, 9, dtype=torch.float64)
    images = (0.7 * base + 0.3 * torch.rand(64, 3, 9, 9, dtype=torch.float64)).clamp(0, 1)
    layer = HorizonConv2d(
        3, 24, 2, t_in=T_IN, normalization=normalization, spread=0.001, dtype=torch.float64
    )
    whiten_(layer, images, eps=0)
    assert not layer.weight.requires_grad
    pixels = -torch.expm1(-T_IN * images)
    out = F.conv2d(pixels, layer.weight).transpose(0, 1).flatten(1)
    covariance = torch.cov(out[:12])
    scale = covariance[0, 0]
    assert torch.allclose(covariance / scale, torch.eye(12, dtype=torch.float64), atol=1e-8)
    assert torch.equal(layer.weight[12:], -layer.weight[:12])
    if normalization == "none":
        z = encode(images, alpha=T_IN)
        lead = 1 - layer(z) / math.exp(layer.t_out)
        both = (lead[:, :12] - lead[:, 12:]) / layer.spread
        assert torch.allclose(both.mean([0, 2, 3]).abs().max(), torch.zeros(()).double(), atol=1e-6)
        assert torch.allclose(both.std([0, 2, 3]), torch.full((12,), 2.0).double(), atol=1e-3)
    with pytest.raises(ValueError, match="takes a convolution from 3 to 24 channels; this one has"):
        whiten_(HorizonConv2d(3, 16, 2, t_in=T_IN), images)


def test_whitening_leaves_noise_small(seed: int) -> None:
    gray = torch.rand(64, 1, 9, 9, dtype=torch.float64).expand(-1, 3, -1, -1)
    images = (0.9 * gray + 1e-3 * torch.rand(64, 3, 9, 9, dtype=torch.float64)).clamp(0, 1)
    layer = whiten_(
        HorizonConv2d(3, 24, 2, t_in=T_IN, normalization="none", dtype=torch.float64), images
    )
    lead = 1 - layer(encode(images, alpha=T_IN)) / math.exp(layer.t_out)
    sizes = lead.std([0, 2, 3])[:12] / layer.spread
    assert (sizes < 0.1).sum() == 8  # two directions of color in each of four pixels
    assert (sizes > 0.9).sum() == 4


def test_dirac_passes_channels_on(seed: int) -> None:
    layer = HorizonConv2d(3, 5, 3, padding=1, t_in=T_IN, dtype=torch.float64)
    before = layer.weight.detach().clone()
    dirac_(layer)
    assert torch.equal(layer.weight[3:], before[3:])
    model = renormalize_horizons_(torch.nn.Sequential(layer))
    assert torch.equal(
        model[0].weight[:3].nonzero(), torch.tensor([[i, i, 1, 1] for i in range(3)])
    )
    assert torch.allclose(layer.weight[:3].square().mean([1, 2, 3]), torch.ones(3).double())
    with pytest.raises(ValueError, match="odd in both directions; this one is 2 x 3"):
        dirac_(HorizonConv2d(3, 5, (2, 3), t_in=T_IN))
    wide = dirac_(HorizonConv2d(5, 3, 1, t_in=T_IN))
    assert wide.weight.flatten(1).count_nonzero() == 3


def test_a_network_starts_with_dirac_and_whitening(seed: int) -> None:
    description = cifar_airbench(width=0.1, device="meta").description
    model = HorizonNetwork(description, encoding=Encoding(T_IN), whitening=True, dirac=True)
    first, *others = [m for m in model.modules() if isinstance(m, HorizonConv2d)]
    assert first.normalization == "none"
    for layer in others:
        assert layer.normalization == "batch"
        passing = layer.weight[: layer.in_channels].flatten(1).count_nonzero(1)
        assert torch.equal(passing, torch.ones_like(passing))
    assert (first.weight != 0).all()
    dense = Description("dense", (("fc", Dense(3)),), 1, (4, 4))
    with pytest.raises(ValueError, match="begins with a convolution"):
        HorizonNetwork(dense, encoding=Encoding(T_IN), whitening=True)


def test_reference_spikes() -> None:
    z = torch.tensor([[[[0.5, math.inf], [2.0, math.nan]]]])
    out = ReferenceSpikes(0.0, padding=(1, 0))(z)
    assert out.shape == (1, 2, 4, 2)
    assert (out[0, 1] == 1).all()
    assert (out[0, 0, [0, 3]] == 1).all()
    assert out[0, 0, 1].tolist() == [0.5, 1.0]
    assert out[0, 0, 2, 0] == 1
    assert out[0, 0, 2, 1].isnan()
    with pytest.raises(ValueError, match=r"t must be a finite time, in units of tau, below 709.8"):
        ReferenceSpikes(800.0)


def test_networks_with_horizons_follow_descriptions(seed: int) -> None:
    description = cifar_airbench(width=1 / 16, image_size=16).description
    model = HorizonNetwork(description, encoding=Encoding(T_IN), weight_sum=2.0, spread=0.001)
    assert [type(m).__name__ for m in model][:3] == ["HorizonConv2d"] * 3
    z = (T_IN * torch.rand(8, 3, 16, 16)).exp()
    model.train()(z)  # the first batch sets the statistics
    out = model.eval()(z)
    assert out.shape == (8, 10)
    folded = copy.deepcopy(model).fold_()
    kinds = (SpikingConv2d, SpikingLinear, SpikingMaxPool2d)
    assert [sum(isinstance(m, kind) for m in folded.modules()) for kind in kinds] == [7, 1, 3]
    assert (folded(z).argmin(1) == out.argmin(1)).all()
    with pytest.raises(ValueError, match=r"inception3a is an Inception module"):
        HorizonNetwork(spiking_googlenet(device="meta").description, encoding=Encoding(1.0))
    deep = HorizonNetwork(vgg_stack(13, width=0.1).description, encoding=Encoding(T_IN))
    assert deep(torch.full((2, 3, 32, 32), 1.001)).shape == (2, 10)


def test_average_pools_are_part_of_the_layer_behind(seed: int) -> None:
    layers = (Conv(3, 6), GlobalPool(), Dense(8), Dense(4))
    description = Description("pooled", tuple(numbered(layers)), 2, (5, 4))
    encoding = Encoding(T_IN)
    model = HorizonNetwork(description, encoding=encoding, average_pool=True)
    assert [type(m).__name__ for m in model] == [
        *("HorizonConv2d", "Flatten", "HorizonLinear", "HorizonLinear")
    ]
    assert [m.positions for m in list(model)[2:]] == [20, 1]
    z = (T_IN * torch.rand(16, 2, 5, 4)).exp()
    estimate_statistics_(model, [z])
    out = model.eval()(z)
    first, _, dense, last = model
    pooled = first(z).clamp(max=math.exp(first.t_out)).mean((2, 3))
    alone = HorizonLinear(6, 8, t_in=dense.t_in).eval()
    alone.load_state_dict(dense.state_dict())
    assert torch.allclose(leads(out, 0), leads(last(alone(pooled)), 0), rtol=1e-6)
    assert torch.equal(model.fold_()(z).argmin(1), out.argmin(1))
    for layers in ((Conv(3, 6), Dense(4)), (Conv(3, 6), GlobalPool(), Conv(1, 6), Dense(4))):
        other = Description("other", tuple(numbered(layers)), 2, (5, 4))
        with pytest.raises(ValueError, match="other: average_pool is for a network whose global"):
            HorizonNetwork(other, encoding=encoding, average_pool=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t_in": 0.0}, "t_in must be a finite time above 0"),
        ({"t_in": math.inf}, "t_in must be a finite time above 0"),
        ({"weight_sum": 1.0}, "weight_sum must be finite and above 1"),
        ({"spread": 0.0}, "spread must be above 0 and below 1"),
        ({"spread": 1.5}, "spread must be above 0 and below 1"),
        ({"normalization": "layer"}, "normalization must be one of batch, mean, none"),
        ({"momentum": 0.0}, "momentum must be above 0"),
    ],
)
def test_settings_outside_their_range_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HorizonLinear(3, 4, **{"t_in": 1.0, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t_in": 88.5}, "the outputs' horizon, .* must be below 88.7 in torch.float32; got 88.8"),
        ({"t_in": 800.0, "dtype": torch.float64}, "must be below 709.8 in torch.float64"),
        ({"t_in": 1e-8}, "t_in must be at least 1e-05 in torch.float32"),
        ({"spread": 1e-6}, "spread must be at least 1e-05 in torch.float32"),
        ({"eps": -1.0}, "eps must be finite and not negative"),
    ],
)
def test_settings_that_rounding_defeats_are_refused(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        HorizonLinear(3, 4, **{"t_in": 1.0, **change})


def test_inputs_that_do_not_fit_are_named() -> None:
    conv, linear = HorizonConv2d(3, 4, 3, t_in=T_IN), HorizonLinear(3, 4, t_in=T_IN)
    for layer, shape in ((conv, (3, 5, 5)), (conv, (2, 4, 5, 5)), (linear, (2, 5, 3))):
        with pytest.raises(RuntimeError, match=r"takes an input of shape \(N, 3.*; got \(\d"):
            layer(torch.ones(shape))
    with pytest.raises(TypeError, match=r"input is torch\.float64 and weight is torch\.float32"):
        conv(torch.ones(2, 3, 5, 5).double())
    with pytest.raises(TypeError, match=r"compute in float32 or float64; got torch.bfloat16"):
        conv.bfloat16()(torch.ones(2, 3, 5, 5).bfloat16())
    with pytest.raises(TypeError, match=r"compute in float32 or float64; got torch.float16"):
        HorizonLinear(3, 4, t_in=T_IN, dtype=torch.float16)
    with pytest.raises(ValueError, match="holds a value that is not positive"):
        linear(torch.tensor([[0.0, 1, 1], [1, 1, 1]]))


@pytest.mark.parametrize(("normalization", "images"), [("batch", 1), ("mean", 0)])
def test_batches_without_statistics_do_not_spoil_the_running_ones(
    normalization: Normalization, images: int, seed: int
) -> None:
    layer = HorizonLinear(6, 4, t_in=T_IN, normalization=normalization, dtype=torch.float64)
    layer(spikes(8, 6))
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match=r"needs at least . values? of each channel"):
        layer(spikes(images, 6))
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert layer.eval()(spikes(images, 6)).shape == (images, 4)


def test_nan_stays_with_its_image(seed: int) -> None:
    model = settled(chain(0.001))
    z = spikes(4, 2, 8, 6)
    expected = model(z)
    z[2, 0, 3, 3] = math.nan
    out = model(z)
    assert out[2].isnan().all()
    assert torch.allclose(out[[0, 1, 3]], expected[[0, 1, 3]], rtol=1e-9)


def test_the_last_layer_to_spike_is_the_answer(seed: int) -> None:
    first = HorizonLinear(6, 8, t_in=T_IN, dtype=torch.float64)
    last = HorizonLinear(8, 3, t_in=first.t_out, normalization="none", dtype=torch.float64)
    model = nn.ModuleDict({"last": last, "first": first})
    first(z := spikes(20, 6))
    model.eval()
    expected = last(first(z))
    assert (expected > math.exp(last.t_out)).any()
    folded = fold_horizons_(model)
    assert torch.allclose(folded["last"](folded["first"](z)), expected)


def test_layers_run_on_the_meta_device() -> None:
    layer = HorizonConv2d(3, 4, 3, t_in=T_IN, device="meta")
    assert all(value.is_meta for value in layer.state_dict().values())
    assert layer(torch.ones(2, 3, 5, 5, device="meta")).shape == (2, 4, 3, 3)


def test_compiled_layers_leave_rsub_out() -> None:
    """In inductor's code for torch.rsub every layer has the horizon of the first one."""
    graphs: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph.code)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(_spike_values, backend=backend)
    u = torch.randn(16)
    for last in (1.5, 2.5, 3.5):
        assert torch.equal(compiled(u, last, 0.001), torch.rsub(u, last, alpha=last * 0.001))
    assert graphs
    assert all("torch.sub" in code and "rsub" not in code for code in graphs)


def test_set_weights_takes_the_shapes_of_the_layer() -> None:
    layer = HorizonLinear(3, 4, t_in=1.0, normalization="none")
    with pytest.raises(ValueError, match=r"must have the shapes \(4, 3\) and \(4,\); got \(1,\)"):
        layer.set_weights_(torch.ones(1), torch.ones(4))


def test_whitening_names_unsuitable_images() -> None:
    layer = HorizonConv2d(3, 24, 2, t_in=T_IN)
    for images, message in (
        (torch.ones(4, 3, 8, 8, dtype=torch.uint8), "must be intensities in .* got torch.uint8"),
        (torch.rand(3, 8, 8), "must be intensities"),
        (torch.rand(1, 3, 2, 2), "hold fewer than two patches of 2 x 2"),
        (torch.rand(9, 3, 1, 8), "hold fewer than two patches"),
    ):
        with pytest.raises(ValueError, match=message):
            whiten_(layer, images)
    with pytest.raises(ValueError, match="filters are not finite"):
        whiten_(layer, torch.ones(4, 3, 8, 8), eps=0.0)
    for wrong in (255 * torch.rand(4, 3, 8, 8), torch.full((4, 3, 8, 8), math.nan)):
        with pytest.raises(ValueError, match=r"images must be intensities in \[0, 1\]; got"):
            whiten_(layer, wrong)
    with pytest.raises(ValueError, match=r"this layer has dilation \(2, 2\)"):
        whiten_(HorizonConv2d(3, 24, 2, t_in=T_IN, dilation=2), torch.rand(4, 3, 8, 8))


def test_pools_behind_pools_are_kept(seed: int) -> None:
    pool = Pool(2, 2)
    for layers in (
        [Conv(3, 4), pool, pool, Conv(1, 4), GlobalPool(), Dense(3)],
        [pool, Conv(3, 4), pool, Dense(3)],
        [Conv(3, 4), Pool(1, 2), Conv(1, 4), Pool(3, 1), GlobalPool(), Dense(3)],
    ):
        description = Description("pools", tuple(numbered(layers)), 3, (8, 8))
        model = HorizonNetwork(description, encoding=Encoding(T_IN))
        kept = sum(isinstance(m, SpikingMaxPool2d) for m in model)
        assert kept + sum(getattr(m, "_pools", False) for m in model) == 2
        z = (T_IN * torch.rand(4, 3, 8, 8)).exp()
        assert model(z).shape == (4, 3)
        before = model.eval()(z)
        assert torch.allclose(model.fold_()(z), before, rtol=1e-5)


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan])
def test_airbench_needs_a_width(width: float) -> None:
    with pytest.raises(ValueError, match="width must be a finite number above 0"):
        cifar_airbench(width=width)


def test_set_weights_is_refused_where_the_batch_decides() -> None:
    with pytest.raises(ValueError, match="set_weights_ is for normalization"):
        HorizonLinear(3, 4, t_in=1.0).set_weights_(torch.ones(4, 3), torch.zeros(4))


def mirrored(maps: Tensor) -> Tensor:
    """What a layer of mirrored pairs gives for the mirrored input, from what it gives."""
    return maps.roll(maps.shape[1] // 2, 1).flip(-1)


def untied(layer: HorizonConv2d) -> HorizonConv2d:
    """The layer without ties that has the weights of one with mirrored pairs."""
    copy = HorizonConv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        pool=layer.pool,
        pool_stride=layer.pool_stride,
        t_in=layer.t_in,
        spread=layer.spread,
        dtype=layer.weight.dtype,
    )
    with torch.no_grad():
        first = layer.weight
        second = first.flip(-1)
        if layer.mirror == "pairs":
            half = layer.in_channels // 2
            second = torch.cat([second[:, half:], second[:, :half]], dim=1)
        copy.weight.copy_(torch.cat([first, second]))
        copy.shift.copy_(torch.cat([layer.shift, layer.shift]))
    return copy


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("spread", [0.002, 0.2])
@pytest.mark.parametrize(
    ("mirror", "channels", "outputs"), [("image", 3, 2), ("image", 1, 8), ("pairs", 4, 6)]
)
def test_mirrored_pairs_are_an_untied_layer_that_sees_both_images(
    mirror: Mirror,
    channels: int,
    outputs: int,
    spread: float,
    memory_format: torch.memory_format,
    seed: int,
) -> None:
    layer = HorizonConv2d(
        channels,
        outputs,
        (2, 3),
        padding=1,
        pool=3,
        pool_stride=2,
        mirror=mirror,
        t_in=T_IN,
        spread=spread,
        dtype=torch.float64,
    )
    nn.init.normal_(layer.shift, std=0.3)
    layer.to(memory_format=memory_format)
    plain = untied(layer)
    z = spikes(6, channels, 8, 7).contiguous(memory_format=memory_format).requires_grad_()
    with torch.no_grad():
        other = z.flip(-1) if mirror == "image" else mirrored(z)
    both = torch.cat([z.detach(), other]).requires_grad_()
    out, wide = layer(z), plain(both)
    assert layer.fallbacks == plain.fallbacks == (spread == 0.2)
    assert torch.allclose(out, wide[:6], rtol=1e-9)
    assert torch.allclose(mirrored(out), wide[6:], rtol=1e-9)
    assert torch.allclose(layer.running_mean.repeat(2), plain.running_mean)
    assert torch.allclose(layer(other), mirrored(layer(z)), rtol=1e-9)
    # A gradient of one image counts twice in the untied layer, which sees it twice.
    grad = torch.randn_like(out)
    (out * grad).sum().backward()
    (wide * torch.cat([grad, mirrored(grad)])).sum().backward()
    assert z.grad is not None
    assert both.grad is not None
    assert layer.weight.grad is not None
    assert plain.weight.grad is not None
    assert layer.shift.grad is not None
    assert plain.shift.grad is not None
    assert torch.allclose(z.grad, both.grad[:6], rtol=1e-6, atol=1e-12)
    half = outputs // 2
    scale = plain.weight.grad.abs().max()
    assert torch.allclose(layer.weight.grad, plain.weight.grad[:half], atol=1e-9 * scale)
    assert torch.allclose(layer.shift.grad, plain.shift.grad[:half])


@pytest.mark.parametrize("spread", [0.002, 0.2])
def test_mirrored_images_get_the_same_answer(spread: float, seed: int) -> None:
    options = {"t_in": T_IN, "spread": spread, "dtype": torch.float64}
    one = HorizonConv2d(2, 8, 3, padding=1, pool=3, pool_stride=2, mirror="image", **options)
    options["t_in"] = one.t_out
    two = HorizonConv2d(8, 12, 3, padding=1, mirror="pairs", **options)
    options["t_in"] = two.t_out
    last = HorizonLinear(12, 5, positions=9, mirror="pairs", normalization="none", **options)
    model = nn.Sequential(one, two, nn.Flatten(), last)
    estimate_statistics_(model, [spikes(16, 2, 8, 7) for _ in range(4)]).eval()
    z = spikes(16, 2, 8, 7)
    before = model(z)
    assert torch.allclose(model(z.flip(-1)), before, rtol=1e-12)
    assert before.std(0).min() > 1e-7
    plain = fold_horizons_(copy.deepcopy(model))
    assert plain[0][2].kernel_size == (3, 3)
    assert plain[0][2].stride == (2, 2)
    assert torch.allclose(plain(z), before, rtol=1e-9)
    again = unfold_horizons_(plain, spread)
    assert [type(layer) for layer in again] == [type(layer) for layer in model]
    assert torch.allclose(again(z), before, rtol=1e-9)
    assert again[0].pool_stride == (2, 2)
    assert again[0].mirror is None
    restored = copy.deepcopy(model)
    nn.init.zeros_(restored[0].weight)
    restored.load_state_dict(model.state_dict())
    assert torch.equal(restored(z), before)


def test_mirrored_layers_start_with_dirac_and_whitening(seed: int) -> None:
    images = torch.rand(64, 3, 9, 9, dtype=torch.float64)
    options = {"t_in": T_IN, "mirror": "image"}
    layer = HorizonConv2d(3, 24, 2, normalization="none", dtype=torch.float64, **options)
    whiten_(layer, images, eps=0)
    assert torch.equal(layer.weight[6:], -layer.weight[:6])
    both = -torch.expm1(-T_IN * torch.cat([images, images.flip(-1)]))
    filters = torch.cat([layer.weight[:6], layer.weight[:6].flip(-1)])
    covariance = torch.cov(F.conv2d(both, filters).transpose(0, 1).flatten(1))
    assert torch.allclose(covariance / covariance[0, 0], torch.eye(12).double(), atol=1e-8)
    z = encode(images, alpha=T_IN)
    nn.init.normal_(layer.shift)
    assert torch.allclose(layer(z.flip(-1)), mirrored(layer(z)), rtol=1e-12)
    with pytest.raises(ValueError, match="pairs of mirrored filters need a kernel of even width"):
        whiten_(HorizonConv2d(1, 18, 3, **options), torch.rand(4, 1, 8, 8))
    behind = dirac_(HorizonConv2d(24, 32, 3, padding=1, mirror="pairs", t_in=1.0))
    x = (torch.rand(2, 24, 5, 5)).exp()
    passed = behind._product(x)
    assert torch.allclose(passed[:, [*range(12), *range(16, 28)]] / math.sqrt(24 * 9), x)


def test_networks_of_mirrored_pairs(seed: int) -> None:
    description = cifar_airbench(width=0.1, overlapping_pools=True, device="meta").description
    encoding = Encoding(T_IN)
    for whitening in (False, True):
        model = HorizonNetwork(
            description, encoding=encoding, whitening=whitening, mirrored_pairs=True, dirac=True
        )
        images = torch.rand(16, 3, 32, 32)
        if whitening:
            whiten_(model[0], images)
        z = encode(images, alpha=T_IN)
        estimate_statistics_(model, [z]).eval()
        assert torch.allclose(leads(model(z), 0), leads(model(z.flip(-1)), 0), atol=2e-6)
        assert model(z).std(0).min() > 1e-6
    plain = HorizonNetwork(description, encoding=encoding)
    assert 1.9 < weights_of(plain) / weights_of(model) < 2.1
    for layers, message in (
        ((Conv(2, 4, padding=0), Pool(2, 2)), "windows of 2 with stride 2 do not fit 7 columns"),
        ((Conv(3, 4, 2, 1),), "do not fit 10 columns with its padding"),
        ((Conv(3, 5),), "conv1 has 5 channels, and mirrored_pairs need an even"),
    ):
        ends = (*layers, GlobalPool(), Dense(4))
        odd = Description("odd", tuple(numbered(ends)), 3, (8, 8))
        with pytest.raises(ValueError, match=message):
            HorizonNetwork(odd, encoding=encoding, mirrored_pairs=True)
    flat = Description("flat", tuple(numbered((Conv(3, 4), Dense(4)))), 3, (8, 8))
    with pytest.raises(ValueError, match="flat: mirrored_pairs is for a network whose global pool"):
        HorizonNetwork(flat, encoding=encoding, mirrored_pairs=True)
    with pytest.raises(ValueError, match="mirror is for a convolution of one group"):
        HorizonConv2d(4, 4, 3, groups=2, mirror="pairs", t_in=1.0)
    with pytest.raises(ValueError, match="mirror must be one of image, pairs"):
        HorizonConv2d(4, 4, 3, mirror="left", t_in=1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mirror='pairs' needs an even number of channels"):
        HorizonConv2d(4, 5, 3, mirror="pairs", t_in=1.0)
    for change in ({"pool": 0}, {"pool": 2, "pool_stride": (1, 0)}):
        with pytest.raises(ValueError, match="must be at least 1 in both directions"):
            HorizonConv2d(4, 4, 3, t_in=1.0, **change)
    with pytest.raises(ValueError, match="whiten_ is for a layer that sees images"):
        whiten_(HorizonConv2d(2, 16, 2, mirror="pairs", t_in=1.0), torch.rand(4, 2, 8, 8))
    with pytest.raises(ValueError, match="pairs need an even number of in_features"):
        HorizonLinear(3, 4, mirror="pairs", t_in=1.0)


def weights_of(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.dim() > 1)
