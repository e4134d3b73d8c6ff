import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from ttfs_fast.conversion import LeadEncoding, from_relu
from ttfs_fast.data import load
from ttfs_fast.horizon import fold_horizons_, horizon_layers
from ttfs_fast.models import DecodeSpikes, relu_counterpart, vgg_stack
from ttfs_fast.training import TrainConfig, train


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    pool = nn.MaxPool2d(2)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        pool,
        nn.Sequential(nn.Conv2d(8, 12, 3, 1, "same", bias=False), nn.BatchNorm2d(12), nn.ReLU()),
        nn.Dropout(),
        pool,
        nn.Conv2d(12, 12, (3, 2), padding=(1, 0), dilation=(1, 2)),
        nn.MaxPool2d(2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12 * 3 * 1, 16, bias=False),
        nn.BatchNorm1d(16, affine=False),
        nn.ReLU(),
        nn.Linear(16, 7),
    ).to(dtype)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)  # negative gains, too
            nn.init.normal_(module.bias)
    images = torch.randn(64, 3, 16, 16, dtype=dtype)
    for _ in range(20):
        model(images)
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_outputs_are_the_logits(dtype: torch.dtype, seed: int) -> None:
    model = network(dtype)
    images = torch.randn(200, 3, 16, 16, dtype=dtype)
    spiking = from_relu(model, images)
    folded = fold_horizons_(copy.deepcopy(spiking))
    logits = model(images)
    t_out = list(horizon_layers(spiking).values())[-1].t_out
    for converted, tolerance in ((spiking, 1e-10), (folded, 1e-9)):
        out = converted(images)
        leads = (1 - out.double() / math.exp(t_out)) / spiking[0].spread * logits.abs().max()
        if dtype == torch.float64:
            assert torch.allclose(leads, logits.double(), atol=tolerance)
            assert (out.argmin(1) == logits.argmax(1)).all()
        else:
            assert (leads - logits).abs().max() < 0.01 * logits.std()
            assert (out.argmin(1) == logits.argmax(1)).float().mean() >= 0.98
    assert all(layer.fallbacks == 0 for layer in horizon_layers(spiking).values())


def test_leads_are_as_long_as_early_spikes_allow(seed: int) -> None:
    model, images = network(), torch.randn(60, 3, 16, 16, dtype=torch.float64)
    spiking = from_relu(model, images)
    spread = spiking[0].spread
    assert 0.001 < spread <= 0.02
    values, bounds = images, []
    for module in spiking:
        if hasattr(module, "early_bound"):
            bounds.append(module.early_bound(values))
        values = module(values)
    assert max(bounds) == pytest.approx(0.5, rel=0.05) or spread == 0.02


def test_wide_spikes_are_refused_where_they_change_the_answer(seed: int) -> None:
    model = network()
    images = torch.randn(50, 3, 16, 16, dtype=torch.float64)
    with pytest.raises(ValueError, match="some neuron spikes before all its inputs have"):
        from_relu(model, images, spread=0.5)


def test_converted_networks_train(seed: int) -> None:
    spiking = from_relu(network(), torch.randn(32, 3, 16, 16, dtype=torch.float64)).train()
    images, target = torch.randn(32, 3, 16, 16, dtype=torch.float64), torch.arange(32) % 7
    optimizer = torch.optim.Adam(spiking.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(spiking(images).log() * -2000, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


def test_networks_of_the_package_convert(seed: int) -> None:
    model = relu_counterpart(vgg_stack(4, width=0.25), batch_norm=True)
    images = torch.rand(64, 3, 32, 32)
    for _ in range(10):
        model(images)
    model.eval()
    spiking = from_relu(model, images)
    assert (spiking(images).argmin(1) == model(images).argmax(1)).float().mean() > 0.95


def test_trained_network_converts_with_its_decisions(tmp_path: Path) -> None:
    """Batch-normalized, trained by the package's own loop, in float32, all 360 test images."""
    config = TrainConfig(
        dataset="digits",
        model="vgg4",
        neuron="relu-norm",
        width=0.5,
        weight_sum_cost=0.0,
        l2_cost=0.0,
        epochs=2,
        batch_size=50,
        lr=0.01,
        threads=1,
    )
    trained = train(config, tmp_path)
    adapter = trained.model
    assert isinstance(adapter, DecodeSpikes)
    train_images, test_images = (
        (load("digits", train=part).images_as_tensor() / 255 - adapter.mean) / adapter.deviation
        for part in (True, False)
    )
    spiking = from_relu(adapter.network, train_images[:200])
    folded = fold_horizons_(copy.deepcopy(spiking))
    decisions = adapter.network.eval()(test_images).argmax(1)
    assert (decisions == load("digits", train=False).labels_as_tensor()).float().mean() > 0.8
    for network in (spiking, folded):
        assert (network(test_images).argmin(1) == decisions).float().mean() >= 0.997


def test_only_linear_layers(seed: int) -> None:
    model = nn.Sequential(nn.Linear(9, 20), nn.ReLU(), nn.Linear(20, 4)).double()
    x = torch.randn(30, 9, dtype=torch.float64)
    assert (from_relu(model, x)(x).argmin(1) == model(x).argmax(1)).all()


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 3)], r"1 \(GELU\) has no counterpart"),
        ([nn.Conv2d(3, 4, 3), nn.ReLU()], "ends with a ReLU or a pool behind 0"),
        ([nn.Flatten()], "no Conv2d and no Linear"),
        ([nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")], 'pads with "reflect"'),
        (
            [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)],
            "1 .BatchNorm2d. has no running statistics",
        ),
        (
            [nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 1)],
            r"1 \(SiLU\) has no counterpart in first spikes; allowed are Conv2d, Linear",
        ),
    ],
)
def test_modules_without_a_counterpart_are_named(modules: list[nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_relu(nn.Sequential(*modules), torch.rand(2, 3, 8, 8))


@pytest.mark.parametrize("images", ["pixels", "above 0", "below 0", "constant"])
def test_padding_is_zero_wherever_the_images_lie(images: str, seed: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5))
    model.double()
    x = torch.rand(20, 3, 6, 6, dtype=torch.float64)
    x = {"pixels": x, "above 0": x + 1, "below 0": x - 3, "constant": torch.ones_like(x)}[images]
    spiking = from_relu(model, x)
    agrees(spiking, model, x)
    agrees(fold_horizons_(spiking), model, x)


def agrees(spiking: nn.Module, model: nn.Module, x: torch.Tensor) -> None:
    """The leads of the outputs are the logits, in one unit."""
    out, logits = spiking(x), model(x).flatten(1)
    assert out.shape == model(x).shape
    differences = out.flatten(1) - out.flatten(1).mean()
    assert torch.allclose(
        -differences / differences.abs().max(),
        (logits - logits.mean()) / (logits - logits.mean()).abs().max(),
        atol=1e-9,
    )


@pytest.mark.parametrize(
    "modules",
    [
        [nn.Flatten(), nn.Linear(192, 5)],
        [nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 5)],
        [nn.Conv2d(3, 6, 3), nn.Flatten(), nn.ReLU(), nn.Linear(216, 5)],
        [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 6), nn.Flatten()],
        [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 2)],
    ],
)
def test_outputs_have_the_shape_of_the_logits(modules: list[nn.Module], seed: int) -> None:
    model = nn.Sequential(*modules).double()
    x = torch.randn(20, 3, 8, 8, dtype=torch.float64)
    agrees(from_relu(model, x), model, x)


def test_models_keep_the_mode_of_every_module(seed: int) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).train()
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    from_relu(model, torch.randn(9, 4))
    assert [module.training for module in model] == [True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("options", [{"spread": 1e-6}, {"weight_sum": 1.0001}])
def test_leads_too_short_for_rounding_are_refused(options: dict[str, float], seed: int) -> None:
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(9, 4)
    with pytest.raises(ValueError, match=r"rounding in torch\.float32 is too coarse"):
        from_relu(model, x, **options)
    from_relu(model.double(), x.double(), **options)


def test_types_are_named() -> None:
    model, x = nn.Sequential(nn.Linear(4, 2)), torch.rand(3, 4)
    with pytest.raises(TypeError, match=r"0.weight is torch.float32 and images are torch.float64"):
        from_relu(model, x.double())
    with pytest.raises(
        TypeError, match=r"computed in float32 or float64; images is torch.bfloat16"
    ):
        from_relu(model.bfloat16(), x.bfloat16())
    with pytest.raises(TypeError, match="images must be a tensor, got ndarray"):
        from_relu(model, x.numpy())


class Skip(nn.Sequential):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input + super().forward(input)


class Halves(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) / 2


def test_modules_with_a_forward_of_their_own_are_followed(seed: int) -> None:
    x = torch.randn(9, 4, dtype=torch.float64)
    for model in (
        nn.Sequential(nn.Linear(4, 4), Skip(nn.ReLU(), nn.Linear(4, 4))),
        Skip(nn.Linear(4, 4)),
        nn.Sequential(Halves(4, 3)),
    ):
        agrees(from_relu(model.double(), x), model, x)


def test_networks_with_different_outputs_are_detected(seed: int) -> None:
    x = torch.randn(9, 4)
    model = nn.Linear(4, 3)
    handle = model.register_forward_hook(lambda module, inputs, output: output.square())
    whole = nn.Sequential(model)
    with pytest.raises(ValueError, match="a module does not compute what its class says"):
        from_relu(whole, x)
    handle.remove()
    from_relu(whole, x)


@pytest.mark.parametrize(
    ("modules", "shape", "message"),
    [
        (
            [nn.Linear(4, 2)],
            (3, 5, 4),
            r"0 \(Linear\) must get \(N, features\), .* got 3 dimensions",
        ),
        ([nn.Conv2d(3, 4, 3)], (3, 8, 8), r"0 \(Conv2d\) must get images \(N, C, H, W\); it got 3"),
        (
            [nn.Conv2d(3, 4, 3), nn.Flatten(2)],
            (2, 3, 8, 8),
            r"1 \(Flatten\) flattens dimensions 2 to -1",
        ),
        (
            [nn.Conv2d(3, 4, 3), nn.Flatten(), nn.BatchNorm1d(144), nn.ReLU(), nn.Linear(144, 2)],
            (2, 3, 8, 8),
            "2 .BatchNorm1d. must follow a convolution or fully connected layer directly",
        ),
    ],
)
def test_shapes_without_a_counterpart_are_named(
    modules: list[nn.Module], shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        from_relu(nn.Sequential(*modules), torch.rand(shape))


def test_outputs_must_be_finite() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    nn.init.constant_(model[0].weight, math.nan)
    with pytest.raises(ValueError, match="outputs of the ReLU network on the images are not fin"):
        from_relu(model, torch.rand(3, 2))


def test_images_must_be_finite() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    for images in (torch.full((1, 2), math.nan), torch.rand(0, 2), torch.ones(1, 2).long()):
        with pytest.raises(ValueError, match="images must be finite floating point numbers"):
            from_relu(model, images)


def test_encoding_is_linear() -> None:
    encoding = LeadEncoding(-1.0, 3.0, 0.01)
    z = encoding(torch.tensor([-2.0, -1.0, 1.0, 3.0], dtype=torch.float64))
    last = math.exp(encoding.t_out)
    assert torch.allclose(z / last, torch.tensor([1, 1, 0.995, 0.99], dtype=torch.float64))
    assert z.min().item() == pytest.approx(1)
    with pytest.raises(ValueError, match="low must be below high"):
        LeadEncoding(1.0, 1.0, 0.1)
    with pytest.raises(ValueError, match="spread must be above 0"):
        LeadEncoding(0.0, 1.0, 0.0)


def test_sums_may_name_their_second_argument(seed: int) -> None:
    class Sum(nn.Module):
        def __init__(self, named: bool) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 5), nn.Linear(6, 5)
            self.last, self.named = nn.Linear(5, 3), named

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            one, other = self.first(x).relu(), self.second(x).relu()
            if self.named:
                return self.last(torch.mul(torch.add(one, other=other), other=2.0))
            return self.last(torch.mul(torch.add(one, other), 2.0))

    named, x = Sum(named=True), torch.rand(40, 6)
    plain = Sum(named=False)
    plain.load_state_dict(named.state_dict())
    found = from_relu(named, x)(x)
    assert torch.equal(found, from_relu(plain, x)(x))
    assert (found.argmin(1) == named(x).argmax(1)).all()
