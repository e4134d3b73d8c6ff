"""Networks of users as integer networks: followed, or refused by the name of a module."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ttfs_fast.encoding import Encoding
from ttfs_fast.nn import Delay, SpikingConv2d, SpikingLinear
from ttfs_fast.quantization import QuantizeConfig, convert, quantize
from ttfs_fast.training import TrainConfig


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = SpikingLinear(4, 4)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.minimum(z, self.fc(z))


class Backwards(nn.Sequential):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        for module in reversed(self):
            z = module(z)
        return z


class Doubled(SpikingLinear):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(z)


class Plain(nn.Sequential):
    """A user's class that only gathers layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Sequential(SpikingConv2d(1, 3, 2)), nn.Identity())
        self.flatten = nn.Flatten()
        self.head = nn.Sequential(SpikingLinear(12, 5), nn.Dropout(), SpikingLinear(5, 2))


def test_networks_of_users_are_followed_by_their_nesting(seed: int) -> None:
    model = Plain()
    layers = [model.features[0][0], model.flatten, model.head[0], model.head[2]]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3)
    options = {"input_size": (1, 3, 3), "encoding": Encoding()}
    net = convert(model, **options)
    assert net.to_bytes() == convert(nn.Sequential(*layers), **options).to_bytes()
    pixels = np.random.default_rng(0).integers(0, 256, (50, 1, 3, 3), dtype=np.uint8)
    model.eval()
    with torch.no_grad():
        times = model(Encoding()(torch.from_numpy(pixels))).log()
    codes = net(pixels)
    spikes = codes < net.silent
    assert spikes.mean() > 0.9
    scaled = np.log(codes * net.time_scales[-1])
    assert np.abs(scaled - times.numpy())[spikes].max() < 0.05


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (Residual(), "the network itself, a Residual, is not one of these"),
        (nn.Sequential(nn.Flatten(), nn.Sequential(Residual())), "1.0, a Residual, is not one of"),
        (
            Backwards(nn.Flatten(), SpikingLinear(4, 2)),
            "network itself, a Backwards, has a forward",
        ),
        (nn.Sequential(nn.Flatten(), Backwards(SpikingLinear(4, 2))), "1, a Backwards, has a for"),
        (nn.Sequential(nn.Flatten(), Doubled(4, 2)), "1, a Doubled, has a forward method of its"),
        (nn.Sequential(nn.Flatten(), nn.ReLU()), "1, a ReLU, is not one of these"),
        (nn.ModuleList([SpikingLinear(4, 2)]), "the network itself, a ModuleList, is not one of"),
        (nn.Sequential(nn.Flatten(), Delay(4)), r"no Delay: .*\(1\)"),
    ],
)
def test_unsupported_forward_methods_are_named(model: nn.Module, named: str) -> None:
    with pytest.raises(TypeError, match=named):
        convert(model, input_size=(1, 2, 2), encoding=Encoding())


@pytest.mark.parametrize("model", [Residual(), nn.Sequential(nn.Flatten(), Delay(784))])
def test_unsupported_networks_are_refused_before_they_are_retrained(
    model: nn.Module, tmp_path: Path
) -> None:
    config = QuantizeConfig(training=TrainConfig(dataset="digits"), bits=8, epochs=100)
    with pytest.raises(TypeError, match="an integer network"):
        quantize(model, config, tmp_path / "few")
    assert not (tmp_path / "few").exists()
