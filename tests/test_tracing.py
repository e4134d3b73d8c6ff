"""torch.fx, torch.jit.trace and what is built on them: TensorBoard's graphs, ONNX."""

import copy
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import ttfs_fast
from support.machine import run_python
from ttfs_fast.encoding import Encoding, encode, standardize, values_to_times
from ttfs_fast.loss import first_spike_cross_entropy
from ttfs_fast.models import DecodeSpikes, relu_counterpart, spiking_googlenet, vgg_stack
from ttfs_fast.nn import SpikingConv2d, SpikingLinear, SpikingMaxPool2d
from ttfs_fast.optim.centering import center_weights_
from ttfs_fast.quantization import freeze_codes_, prepare_qat_

SIZE = (2, 12, 10)


def network() -> nn.Sequential:
    """Every kind of layer, with every kind of argument."""
    return nn.Sequential(
        SpikingConv2d(2, 6, (3, 2), stride=(2, 1), padding="same", groups=2),
        SpikingMaxPool2d(2, padding=1, ceil_mode=True),
        SpikingConv2d(6, 4, 2, padding=1, dilation=2, bias=False, t_max=2.0),
        SpikingMaxPool2d([2, 1], 1),
        nn.Flatten(),
        SpikingLinear(72, 5, t_max=3.0),
    )


def centered() -> nn.Module:
    return center_weights_(network(), SIZE)


def quantized() -> nn.Module:
    return prepare_qat_(network(), 4)


def frozen() -> nn.Module:
    return freeze_codes_(quantized())


def inception() -> nn.Module:
    return spiking_googlenet(width=0.05, in_channels=2, image_size=64, classes=5)


def deep() -> nn.Module:
    return vgg_stack(4, in_channels=2, width=0.1)


def relu() -> nn.Module:
    return DecodeSpikes(relu_counterpart(vgg_stack(4, in_channels=2, width=0.1)), Encoding(1.0))


NETWORKS = (network, centered, quantized, frozen, deep, inception)


def images(count: int, make: Callable[[], nn.Module], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = {deep: (2, 32, 32), relu: (2, 32, 32), inception: (2, 64, 64)}.get(make, SIZE)
    return torch.rand(count, *size, generator=generator).mul_(2).exp_()


def gradients(run: nn.Module, z: Tensor) -> list[Tensor]:
    output = run(z)
    assert output.isfinite().float().mean() > 0.3
    output[output.isfinite()].log().sum().backward()
    found = [p.grad for p in run.parameters() if p.grad is not None]
    run.zero_grad()
    return found


@pytest.mark.parametrize("make", [*NETWORKS, relu])
def test_fx_records_every_layer(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(1)
    model = make()
    recorded = fx.symbolic_trace(model)
    z = images(3, make, 2)  # the recording knows no shape: any batch will do
    assert torch.equal(recorded(z), model(z))
    assert torch.equal(copy.deepcopy(recorded)(z[:1]), model(z[:1]))
    ours, theirs = gradients(model, z), gradients(recorded, z)
    assert len(ours) == len(theirs) > 0
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_fx_records_functions_wherever_they_were_imported_from() -> None:
    def run(pixels: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        z = encode(standardize(pixels), 2.0)
        z = ttfs_fast.spiking_max_pool2d(ttfs_fast.spiking_conv2d(z, weight, padding=1), 8)
        out = ttfs_fast.spiking_linear(z.flatten(1), torch.full((5, 3), 0.6))
        return first_spike_cross_entropy(values_to_times(out).exp(), labels)

    recorded = fx.symbolic_trace(run)
    called = {node.target.__name__ for node in recorded.graph.nodes if node.op == "call_function"}  # type: ignore[union-attr]
    wanted = {"encode", "standardize", "spiking_conv2d", "spiking_max_pool2d", "spiking_linear"}
    assert wanted | {"values_to_times", "first_spike_cross_entropy"} <= called
    pixels, labels = torch.rand(4, 2, 8, 8), torch.arange(4)
    weight = torch.rand(3, 2, 3, 3)
    assert torch.equal(recorded(pixels, weight, labels), run(pixels, weight, labels))


class Named(Tensor):
    """A tensor of a class of its own."""


def test_operators_keep_the_class_of_a_tensor() -> None:
    z = torch.rand(2, 3).exp().as_subclass(Named)
    weight = torch.full((4, 3), 0.8)
    out = ttfs_fast.spiking_linear(z, weight)
    assert type(out) is Named
    assert torch.equal(out.as_subclass(Tensor), ttfs_fast.spiking_linear(z.data, weight))


@pytest.mark.parametrize("make", NETWORKS)
def test_a_trace_is_the_network(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(1)
    model = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(model, images(2, make, 2))
    content = io.BytesIO()
    torch.jit.save(traced, content)
    content.seek(0)
    loaded = torch.jit.load(content)
    other = images(3, make, 3)
    for run in (traced, loaded):
        assert torch.equal(run(other), model(other))
        ours, theirs = gradients(model, other), gradients(run, other)
        assert len(ours) == len(theirs) > 0
        for a, b in zip(ours, theirs, strict=True):
            # The compiler of TorchScript may order a sum around the operators in its own way.
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_trace_takes_images_of_other_sizes() -> None:
    model = nn.Sequential(SpikingConv2d(1, 2, 3, stride=2, padding="same"), SpikingMaxPool2d(2))
    traced = torch.jit.trace(model, torch.rand(1, 1, 8, 8).exp())
    z = torch.rand(2, 1, 13, 6).exp()
    assert torch.equal(traced(z), model(z))


def test_traces_reject_invalid_inputs() -> None:
    traced = torch.jit.trace(SpikingLinear(3, 2), torch.rand(2, 3).exp())
    with pytest.raises((ValueError, RuntimeError), match="not positive"):
        traced(-torch.ones(2, 3))


def test_encoding_is_traced_without_reading_values() -> None:
    def run(pixels: Tensor) -> Tensor:
        return values_to_times(encode(standardize(pixels), polarity="both"))

    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(run, torch.rand(2, 1, 4, 4))
    pixels = torch.rand(3, 1, 4, 4)
    assert torch.equal(traced(pixels), run(pixels))


def test_a_saved_trace_runs_in_a_process_that_knows_the_operators(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = centered()
    z = images(2, network, 2)
    torch.jit.trace(model, z).save(tmp_path / "network.pt")
    torch.save({"z": z, "output": model(z).detach()}, tmp_path / "values.pt")
    code = (
        "import torch, ttfs_fast.ops\n"
        f"network = torch.jit.load({str(tmp_path / 'network.pt')!r})\n"
        f"values = torch.load({str(tmp_path / 'values.pt')!r})\n"
        "assert torch.equal(network(values['z']), values['output'])\n"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


def test_tensorboard_draws_the_graph(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra ttfs_fast[tensorboard]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.compat.proto.graph_pb2 import GraphDef
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_graph(network(), images(1, network, 2))
    graph: GraphDef = EventAccumulator(str(tmp_path)).Reload().Graph()
    operators = [node.op for node in graph.node]
    assert operators.count("ttfs_fast::traced_conv2d") == 2
    assert operators.count("ttfs_fast::traced_max_pool2d") == 2
    assert operators.count("ttfs_fast::traced_linear") == 1


def test_onnx_error_names_alternatives() -> None:
    with pytest.raises(NotImplementedError, match=r"ONNX has no operators .*nir.*docs/torch.md"):
        torch.onnx.export(network(), (images(1, network, 2),), io.BytesIO(), dynamo=False)
