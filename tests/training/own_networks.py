"""Networks of a user, for the tests to find by name."""

import torch
from torch import Tensor, nn

from ttfs_fast.encoding import Encoding
from ttfs_fast.horizon import HorizonConv2d, HorizonLinear
from ttfs_fast.nn import Delay, SpikingConv2d, SpikingLinear, SpikingMaxPool2d

number = 3


def plain(in_channels: int, classes: int) -> nn.Module:
    return nn.Sequential(
        SpikingConv2d(in_channels, 6, 5, stride=3),
        SpikingMaxPool2d(2),
        nn.Sequential(nn.Flatten(), SpikingLinear(6 * 16, classes)),
    )


class Branches(nn.Module):
    """Two branches side by side, a delay, and a layer that runs twice."""

    def __init__(self, encoding: Encoding, width: int = 4) -> None:
        super().__init__()
        self.encoding = encoding
        channels = encoding.copies
        self.left = SpikingConv2d(channels, width, 4, stride=4)
        self.right = SpikingConv2d(channels, width, 4, stride=4)
        self.delay = Delay(width)
        self.twice = SpikingLinear(2 * width * 49, 2 * width * 49, bias=False)
        self.head = SpikingLinear(2 * width * 49, 10)

    def forward(self, z: Tensor) -> Tensor:
        z = torch.cat([self.left(z), self.delay(self.right(z))], dim=1).flatten(1)
        return self.head(torch.minimum(z, self.twice(z)))


def horizon(encoding: Encoding, image_size: tuple[int, int]) -> nn.Module:
    first = HorizonConv2d(encoding.copies, 6, 5, stride=2, t_in=encoding.alpha, pool=2)
    rows, columns = (((n - 5) // 2 + 1) // 2 for n in image_size)
    last = HorizonLinear(6 * rows * columns, 10, t_in=first.t_out, normalization="none")
    return nn.Sequential(first, nn.Flatten(), last)


def silent() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def too_much(depth: int) -> nn.Module:
    return nn.Sequential(*[nn.Flatten()] * depth)


def wrong() -> nn.Module:
    raise KeyError("no such thing")


def text() -> str:
    return "a network"


def drops_out() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Dropout(), SpikingLinear(784, 10))


def seven() -> nn.Module:
    return nn.Sequential(nn.Flatten(), SpikingLinear(784, 7))


def too_wide() -> nn.Module:
    return nn.Sequential(nn.Flatten(), SpikingLinear(785, 10))
