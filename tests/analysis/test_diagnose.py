import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ttfs_fast.analysis import Diagnosis, diagnose
from ttfs_fast.data import load
from ttfs_fast.encoding import encode
from ttfs_fast.models import SpikingNetwork, mnist_scnn, spiking_googlenet, vgg_stack
from ttfs_fast.nn import SpikingConv2d, SpikingLinear
from ttfs_fast.optim.centering import center_weights_


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    """Digits, enlarged to three channels of 32 x 32. Real images differ more than noise images."""
    digits = load("digits", train=True)
    pixels = digits.images_as_tensor()[:16].float() / 255
    pixels = nn.functional.interpolate(pixels, (32, 32)).expand(-1, 3, -1, -1)
    return encode(pixels, 1.5, "both"), digits.labels_as_tensor()[:16]


def deep() -> SpikingNetwork:
    return vgg_stack(17, width=0.5, in_channels=6)


def test_figures_of_one_layer(seed: int) -> None:
    """Every figure of a small fully connected layer, counted by hand."""
    layer = nn.Sequential(SpikingLinear(6, 4, dtype=torch.float64))
    with torch.no_grad():
        layer[0].weight.copy_(torch.rand(4, 6) + 0.1)
        layer[0].weight[3] = 0.01  # never spikes
        layer[0].bias.fill_(0.05)
    z = (1 + torch.rand(5, 6, dtype=torch.float64)).exp()
    target = torch.tensor([0, 1, 2, 0, 1])
    (found,) = diagnose(layer, (z, target), scale=2.0).layers
    out = layer(z)
    spiked = out.isfinite()
    assert spiked[:, :3].all()
    assert not spiked[:, 3].any()
    assert found.neurons == 4
    assert found.firing == spiked.double().mean().item() == 0.75
    assert found.silent_neurons == 0.25
    t = out[:, :3].detach().log()
    assert found.time == pytest.approx(t.mean().item())
    assert found.shift == pytest.approx(t.mean(1).std().item())
    assert found.spread_over_neurons == pytest.approx(t.std(1).mean().item())
    rest = t - t.mean(1, keepdim=True)
    assert found.spread_over_images == pytest.approx(rest.std(0).mean().item())
    causal = z[:, None, :] < out[:, :3, None]
    assert found.causal == pytest.approx(causal.sum(2).double().mean().item())
    assert found.causal_fraction == pytest.approx(causal.double().mean().item())
    slopes = (causal * layer[0].weight[:3]).sum(2) + 0.05 - 1
    assert found.slope_least == pytest.approx(slopes.min().item())
    assert found.steep == pytest.approx((slopes < 0.05).double().mean().item())


def test_gradients_of_one_layer(seed: int) -> None:
    model = nn.Sequential(SpikingLinear(6, 4, dtype=torch.float64))
    z = (1 + torch.rand(5, 6, dtype=torch.float64)).exp()
    target = torch.tensor([0, 1, 2, 3, 1])
    (found,) = diagnose(model, (z, target), scale=2.0).layers
    from ttfs_fast.loss import first_spike_cross_entropy

    out = model(z)
    assert out.isfinite().all()
    out.retain_grad()
    first_spike_cross_entropy(out, target, scale=2.0).backward()
    norm = math.hypot(model[0].weight.grad.norm(), model[0].bias.grad.norm()) / 4
    assert norm > 0
    assert found.weight_gradient == pytest.approx(norm)
    assert found.time_gradient == pytest.approx((out.grad * out).norm().item())


@pytest.mark.parametrize(
    ("channels", "groups", "stride", "padding", "dilation"),
    [(4, 1, 1, 1, 1), (4, 2, 2, "same", 1), (6, 3, (2, 1), (0, 2), 2), (2, 1, 3, "valid", 1)],
)
def test_causal_sets_of_convolutions(
    channels: int, groups: int, stride: int, padding: int | str, dilation: int, seed: int
) -> None:
    """D computed on receptive fields equals the D that the operator returns."""
    from ttfs_fast.analysis.diagnose import _causal_sets

    layer = SpikingConv2d(channels, 6, 3, stride, padding, dilation, groups, dtype=torch.float64)
    nn.init.uniform_(layer.bias, 0, 0.2)
    z = (2 * torch.rand(3, channels, 9, 8, dtype=torch.float64)).exp()
    z[z > 5] = math.inf
    with torch.no_grad():
        out = layer(z)
    causal, share, slopes = _causal_sets(layer, z, out, torch.Generator().manual_seed(1))
    assert out.isfinite().double().mean() > 0.3
    assert (slopes > 0).all()
    assert 1 <= causal <= 9 * channels // groups
    assert 0 < share <= 1
    # The closed form's D for each spike: z_j D_j = sum of the causal w z.
    every = set()
    weight = layer.weight.detach()
    for n in range(3):
        for j in range(6):
            for y in range(out.shape[2]):
                for x in range(out.shape[3]):
                    if out[n, j, y, x].isfinite():
                        grad = torch.zeros_like(out)
                        grad[n, j, y, x] = 1
                        inputs = z.clone().requires_grad_()
                        bias = layer.bias.detach().clone().requires_grad_()
                        from ttfs_fast import spiking_conv2d

                        spiking_conv2d(
                            inputs, weight, bias, stride, padding, dilation, groups
                        ).backward(grad)
                        # dz/db = (1 - z) / D
                        every.add(round(float((1 - out[n, j, y, x]) / bias.grad[j]), 6))
    assert {round(float(slope), 6) for slope in slopes} <= every


def test_a_healthy_deep_network(batch: tuple[Tensor, Tensor], seed: int) -> None:
    model = center_weights_(deep())
    found = diagnose(model, batch, scale=16.0)
    assert [layer.name for layer in found.layers] == [r.name for r in model.description.counts()]
    assert found.first_problem is None
    assert found.summary == "all 17 layers are without problems"
    assert all(layer.firing == 1.0 for layer in found.layers)
    spreads = [layer.spread_over_images for layer in found.layers]
    # s / m = 3 / 4 a layer, once all inputs are causal.
    assert spreads[-1] / spreads[-4] == pytest.approx(0.75**3, rel=0.3)
    shifts = [layer.shift for layer in found.layers]
    assert shifts[-1] / shifts[-4] == pytest.approx(1.0, rel=0.1)


def test_published_initial_weights_lose_the_image(batch: tuple[Tensor, Tensor], seed: int) -> None:
    """Uniform weights: differences between images vanish long before the last of 17 layers."""
    found = diagnose(deep(), batch, scale=16.0)
    assert found.first_problem is not None
    assert "is lost in rounding" in found.first_problem.issues[0]
    assert found.first_problem.name in found.summary
    assert "with problems" in found.summary


def test_silent_layer_is_named(batch: tuple[Tensor, Tensor], seed: int) -> None:
    model = center_weights_(vgg_stack(8, in_channels=6, width=0.5))
    from ttfs_fast.optim.centering import fold_

    fold_(model)
    with torch.no_grad():
        model.conv4.weight.mul_(0.1)
    found = diagnose(model, batch)
    assert found.first_problem is not None
    assert found.first_problem.name == "conv4"
    assert "neurons spike" in found.first_problem.issues[0]


def test_steep_layer_is_named(batch: tuple[Tensor, Tensor], seed: int) -> None:
    model = vgg_stack(8, in_channels=6, width=0.5)
    with torch.no_grad():
        weight = model.fc1.weight
        weight.div_(weight.sum(1, keepdim=True)).mul_(1.02)  # D = 0.02 once all have arrived
    found = diagnose(model, batch)
    assert found.first_problem is not None
    assert found.first_problem.name == "fc1"
    assert any("D below 0.05" in issue for issue in found.first_problem.issues)


def test_not_finite_gradients_are_named(batch: tuple[Tensor, Tensor], seed: int) -> None:
    model = vgg_stack(4, in_channels=6)
    with torch.no_grad():
        model.conv2.weight[0, 0, 0, 0] = math.nan
    found = diagnose(model, batch)
    assert any("not finite" in c for layer in found.layers for c in layer.issues)


def test_diagnose_removes_its_hooks(batch: tuple[Tensor, Tensor], seed: int) -> None:
    model = vgg_stack(4, in_channels=6)
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    state = torch.random.get_rng_state()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():  # works inside, too
        one = diagnose(model, batch)
    assert torch.equal(state, torch.random.get_rng_state())
    assert (model.conv1.weight.grad == 1).all()
    assert model.conv2.weight.grad is None
    assert not any(m._forward_hooks for m in model.modules())
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert diagnose(model, batch) == one


def test_table_and_plot(batch: tuple[Tensor, Tensor], tmp_path: Path, seed: int) -> None:
    pytest.importorskip("rich", reason="needs the extra ttfs_fast[train]")
    pytest.importorskip("matplotlib", reason="needs the extra ttfs_fast[plot]")
    found = diagnose(deep(), batch)
    text = str(found)
    assert all(layer.name in text for layer in found.layers)
    assert "is lost in rounding" in text
    path = tmp_path / "layers.png"
    figure = found.plot()
    figure.savefig(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [label.get_text() for label in figure.axes[-1].get_xticklabels()] == [
        layer.name for layer in found.layers
    ]
    assert isinstance(found, Diagnosis)


def test_inception_modules_run_in_order(seed: int) -> None:
    model = spiking_googlenet(width=0.1, image_size=32, classes=10)
    batch = (1.5 * torch.rand(2, 3, 32, 32)).exp(), torch.tensor([0, 1])
    names = [layer.name for layer in diagnose(model, batch).layers]
    assert names == [row.name for row in model.description.counts()]


def test_layers_that_are_frozen() -> None:
    net = nn.Sequential(SpikingLinear(3, 4), SpikingLinear(4, 2))
    for layer in net:
        nn.init.uniform_(layer.weight, 0.5, 1.5)
    net[0].requires_grad_(False)
    z = 1 + torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    frozen, last = diagnose(net, (z, torch.arange(6) % 2)).layers
    assert frozen.weight_gradient == 0
    assert last.weight_gradient > 0


def test_refusals() -> None:
    z = torch.rand(1, 1, 28, 28).exp()
    with pytest.raises(ValueError, match="at least two images"):
        diagnose(mnist_scnn(), (z, torch.tensor([0])))
    with pytest.raises(ValueError, match="no SpikingLinear"):
        diagnose(nn.Linear(2, 2), (torch.ones(2, 2), torch.tensor([0, 1])))
    odd = nn.Sequential(SpikingLinear(2, 2))
    odd.unused = SpikingLinear(2, 2)
    odd.forward = lambda z: odd[0](z)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="unused does not run"):
        diagnose(odd, (torch.ones(2, 2), torch.tensor([0, 1])))


def test_a_frozen_layer_keeps_an_old_gradient_to_itself() -> None:
    net = nn.Sequential(SpikingLinear(3, 4), SpikingLinear(4, 2))
    for layer in net:
        nn.init.uniform_(layer.weight, 0.5, 1.5)
    net[0].weight.grad = torch.full_like(net[0].weight, 1e4)
    net[0].requires_grad_(False)
    batch = (1 + torch.rand(6, 3), torch.arange(6) % 2)
    frozen, _ = diagnose(net, batch).layers
    assert frozen.weight_gradient == 0
    assert not frozen.issues
    assert net[0].weight.grad.unique().tolist() == [1e4]
    net.requires_grad_(False)
    both = diagnose(net, batch).layers
    assert [layer.weight_gradient for layer in both] == [0, 0]
    assert min(layer.time_gradient for layer in both) > 0


def test_a_silent_branch_is_not_held_against_the_others() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.dead = SpikingLinear(5, 6), SpikingLinear(6, 6, bias=False)
            self.c, self.out = SpikingLinear(6, 6), SpikingLinear(6, 3)

        def forward(self, z: Tensor) -> Tensor:
            z = self.a(z)
            return self.out(torch.minimum(self.dead(z), self.c(z)))

    net = Branches()
    for layer in net.children():
        nn.init.uniform_(layer.weight, 0.5, 1.5)
    nn.init.constant_(net.dead.weight, -1)
    found = {
        layer.name: layer.issues
        for layer in diagnose(net, ((2 * torch.rand(8, 5)).exp(), torch.arange(8) % 3)).layers
    }
    assert "only 0.0% of the neurons spike" in found["dead"][0]
    assert not any("gradient shrinks" in issue for name in found for issue in found[name])
