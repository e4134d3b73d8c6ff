"""What is measured on a GPU: layers and training steps, by the GPU's own events."""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from ttfs_fast._extras import require
from ttfs_fast.bench import networks
from ttfs_fast.bench.layers import forward, train
from ttfs_fast.bench.measure import Settings
from ttfs_fast.bench.networks import Kind
from ttfs_fast.bench.tables import Row
from ttfs_fast.bench.timing import Call, Clock, alternate, seconds_by_clock, seconds_by_events
from ttfs_fast.encoding import encode
from ttfs_fast.models import cifar_vgg, relu_counterpart


def layers_rows(settings: Settings) -> Iterator[Row]:
    """Layers beside dense ones, with TF32 off and on, and beside the simple algorithm."""
    require("triton", "gpu")
    from ttfs_fast.bench import simple

    for layer in settings.layers:
        z, x, weight = (tensor.to(settings.device) for tensor in layer.tensors())
        out = layer.spiking(z, weight)
        grad = torch.randn_like(out)
        fired = out.isfinite().float().mean().item()
        row: Row = {"layer": layer.name, "fired": fired, "goal": layer.gpu_goal}
        for name, call in (("forward", forward), ("training", partial(train, grad=grad))):
            dense = partial(call, layer.dense, x, weight)
            ours, other, tf32, plain = _alternate(
                [
                    with_tf32(partial(call, layer.spiking, z, weight), False),
                    with_tf32(dense, False),
                    with_tf32(dense, True),
                    partial(call, partial(simple.spiking, layer), z, weight),
                ],
                settings,
            )
            row |= {
                name: ours,
                f"dense_{name}": other,
                f"tf32_{name}": tf32,
                f"simple_{name}": plain,
                f"{name}_ratio": ours / other,
                f"{name}_faster": plain / ours,
            }
        yield row


def steps_rows(settings: Settings) -> Iterator[Row]:
    """Whole training steps of three networks beside dense ones of the same shapes."""
    for name, batch in settings.step_batches.items():
        ours, dense, pixels, target = _networks(name, batch, settings)
        fractions = networks.firing_fractions(ours, encode(pixels))
        kinds: tuple[tuple[Kind, nn.Module], ...] = (("spiking", ours), ("dense", dense))
        steps = [networks.training_step(kind, model, pixels, target) for kind, model in kinds]
        spiking, other, tf32 = _alternate(
            [with_tf32(steps[0], False), with_tf32(steps[1], False), with_tf32(steps[1], True)],
            settings,
        )
        yield {
            "layer": f"{name}, b{batch}",
            "fired": fractions,
            "training": spiking,
            "dense_training": other,
            "tf32_training": tf32,
            "training_ratio": spiking / other,
        }


def _networks(
    name: str, batch: int, settings: Settings
) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    if name == "MNIST network":
        ours, dense = networks.mnist("spiking", trained=True), networks.mnist("dense")
        pixels, target = networks.digits(batch)
    else:
        pixels, target = networks.images(batch), torch.arange(batch) % 10
        if name == "cifar_vgg":
            vgg = cifar_vgg(width=settings.width)
            ours, dense = vgg, relu_counterpart(vgg)
        else:
            ours, dense = (networks.vgg16(kind, settings.width) for kind in ("spiking", "dense"))
    ours, dense = ours.to(settings.device), dense.to(settings.device)
    pixels, target = pixels.to(settings.device), target.to(settings.device)
    if name != "MNIST network":
        networks.keep_firing_(ours, encode(pixels[:1]))
    return ours, dense, pixels, target


def with_tf32(call: Call, allowed: bool) -> Call:
    """The call, with TF32 products of torch's dense operators allowed or not."""

    def run() -> object:
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        before = matmul.allow_tf32, cudnn.allow_tf32
        matmul.allow_tf32 = cudnn.allow_tf32 = allowed
        try:
            return call()
        finally:
            matmul.allow_tf32, cudnn.allow_tf32 = before

    return run


def _alternate(calls: list[Call], settings: Settings) -> list[float]:
    """Medians in seconds, after two rounds that are not counted: the first one compiles."""
    on_gpu = settings.device.type == "cuda"
    clock: Clock = seconds_by_events if on_gpu else seconds_by_clock
    with torch.cuda.device(settings.device) if on_gpu else nullcontext():
        for call in calls:
            call()
        return alternate(calls, settings.repeats, seconds=settings.seconds, clock=clock)
