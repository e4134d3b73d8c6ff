"""Common networks: the modules of torchvision and timm, in plain torch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttfs_fast.conversion import compare_decisions, from_relu
from ttfs_fast.horizon import fold_horizons_


class BasicBlock(nn.Module):
    """torchvision/models/resnet.py: one in-place ReLU at two places, a downsampling branch."""

    def __init__(self, inputs: int, planes: int, stride: int, norm: Callable[..., Any]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = norm(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = norm(planes)
        self.downsample = None
        if stride != 1 or inputs != planes:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, planes, 1, stride, bias=False), norm(planes)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        norm = partial(nn.BatchNorm2d, eps=1e-3)
        self.conv1 = nn.Conv2d(3, 6, 7, 2, 3, bias=False)
        self.bn1, self.relu = norm(6), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(6, 6, 1, norm))
        self.layer2 = nn.Sequential(BasicBlock(6, 8, 2, norm), BasicBlock(8, 8, 1, norm))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8, classes)

    def _forward_impl(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.avgpool(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(x, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self._forward_impl(x)


class ConvNormActivation(nn.Sequential):
    """torchvision/ops/misc.py."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU6(inplace=True),
        )
        self.out_channels = outputs


class InvertedResidual(nn.Module):
    """torchvision/models/mobilenetv2.py: a grouped convolution, with a stride or a sum."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        layers: list[nn.Module] = []
        if expand != 1:
            layers.append(ConvNormActivation(inputs, hidden, 1, 1, 1))
        layers += [
            ConvNormActivation(hidden, hidden, 3, stride, hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)
        self.use_res_connect = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        if self.use_res_connect:
            return x + self.conv(x)
        return self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            ConvNormActivation(3, 4, 3, 2, 1),
            InvertedResidual(4, 4, 1, 1),
            InvertedResidual(4, 6, 2, 3),
            InvertedResidual(6, 6, 1, 3),
            ConvNormActivation(6, 12, 1, 1, 1),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(12, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = F.adaptive_avg_pool2d(x, (1, 1))
        return self.classifier(torch.flatten(x, 1))


class BatchNormAct2d(nn.BatchNorm2d):
    """timm/layers/norm_act.py: no module of torch's own, and its forward names the function."""

    def __init__(self, features: int, act: nn.Module) -> None:
        super().__init__(features)
        self.drop, self.act = nn.Identity(), act

    def forward(self, x: Tensor) -> Tensor:
        momentum = 0.0 if self.momentum is None else self.momentum
        x = F.batch_norm(
            x,
            self.running_mean if not self.training or self.track_running_stats else None,
            self.running_var if not self.training or self.track_running_stats else None,
            self.weight,
            self.bias,
            self.training,
            momentum,
            self.eps,
        )
        return self.act(self.drop(x))


class SelectAdaptivePool2d(nn.Module):
    """timm/layers/adaptive_avgmax_pool.py."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.flatten(self.pool(x))


class TimmBlock(nn.Module):
    """timm/models/resnet.py: places for options that are off, and act2 behind the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1, self.drop_block = nn.BatchNorm2d(outputs), nn.Identity()
        self.act1, self.aa = nn.ReLU(inplace=True), nn.Identity()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2, self.se, self.drop_path = nn.BatchNorm2d(outputs), None, None
        self.act2 = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(
            nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.aa(self.act1(self.drop_block(self.bn1(self.conv1(x)))))
        x = self.bn2(self.conv2(x))
        if self.se is not None:
            x = self.se(x)
        if self.drop_path is not None:
            x = self.drop_path(x)
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        x += shortcut
        return self.act2(x)


class TimmNet(nn.Module):
    def __init__(self, classes: int = 5, drop_rate: float = 0.3) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.conv_stem = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        self.bn1 = BatchNormAct2d(4, nn.ReLU6(inplace=True))
        self.blocks = nn.Sequential(TimmBlock(4, 6, 2))
        self.conv_dw = nn.Conv2d(6, 6, 3, 2, 1, groups=6, bias=False)
        self.bn2 = BatchNormAct2d(6, nn.ReLU(inplace=True))
        self.global_pool = SelectAdaptivePool2d()
        self.fc = nn.Linear(6, classes)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv_dw(self.blocks(self.bn1(self.conv_stem(x)))))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.global_pool(x)
        if self.drop_rate:
            x = F.dropout(x, p=self.drop_rate, training=self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def trained(make: Callable[[], nn.Module]) -> nn.Module:
    """In evaluation, with random statistics, gains and shifts; no class dominates."""
    model = make().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.5, 0.3)
            nn.init.normal_(module.bias, std=0.5)
    with torch.no_grad():
        for _ in range(10):
            model(images(24))
        *_, last = (m for m in model.eval().modules() if isinstance(m, nn.Linear))
        last.bias -= model(images(100)).mean(0)
    return model


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 16, 16, dtype=torch.float64).clamp(-1.5, 1.5)


@pytest.mark.parametrize("make", [ResNet, MobileNetV2, TimmNet])
def test_networks_of_packages_decide_alike(make: Callable[[], nn.Module], seed: int) -> None:
    model = trained(make)
    spiking = from_relu(model, images(40))
    others = images(100)
    found = compare_decisions(model, spiking, others)
    assert found.equal == found.images == 100
    with torch.no_grad():
        assert len(model(others).argmax(1).unique()) > 2
    assert compare_decisions(model, fold_horizons_(spiking), others).equal == 100


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_reduce, self.conv_expand = (nn.Conv2d(channels, channels, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        gate = self.conv_expand(F.relu(self.conv_reduce(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


def excited() -> nn.Module:
    model = TimmNet()
    model.blocks[0].se = SqueezeExcite(6)
    return model


def with_silu() -> nn.Module:
    model = TimmNet()
    model.bn2.act = nn.SiLU(inplace=True)
    return model


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (excited, r"sigmoid.*blocks\.0\.se"),
        (with_silu, r"bn2\.act.*SiLU"),
        (lambda: nn.Sequential(ResNet(), nn.Softmax(1)), r"1 \(Softmax\)"),
    ],
)
def test_operations_without_counterpart_are_named(
    make: Callable[[], nn.Module], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        from_relu(make().eval(), images(4).float())
