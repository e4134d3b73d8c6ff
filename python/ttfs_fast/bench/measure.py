"""What is measured: one function a group, which yields the rows of its table."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import ttfs_fast
from ttfs_fast.bench import memory, networks, trained
from ttfs_fast.bench.layers import LAYERS, NEAR_THRESHOLD, Layer, NearThreshold, forward, train
from ttfs_fast.bench.tables import Row, number
from ttfs_fast.bench.timing import alternate
from ttfs_fast.encoding import encode
from ttfs_fast.models.pretrained import PretrainedName

Series = dict[str, tuple[Layer, ...]]

CPU = torch.device("cpu")
CONVOLUTIONS = LAYERS[:4]
STEPS = {"MNIST network": 100, "cifar_vgg": 128, "SpikingVGG16": 128}
SCALING: Series = {
    "batch": tuple(replace(LAYERS[1], batch=n) for n in (1, 2, 4, 8, 16, 32)),
    "input channels": tuple(replace(LAYERS[1], inputs=n) for n in (32, 64, 128, 256, 512)),
    "output channels": tuple(replace(LAYERS[1], outputs=n) for n in (32, 64, 128, 256, 512)),
    "pixels": tuple(replace(LAYERS[0], size=n, batch=1) for n in (16, 32, 48, 64, 96, 128)),
}


@dataclass(frozen=True)
class Settings:
    """How, and on what, the groups are measured.

    Attributes
    ----------
    threads : int
        Threads of everything; the group "threads" compares one with these.
    repeats : int
        Least number of counted runs of each call.
    seconds : float
        Short calls are repeated for that long.
    layers : tuple of Layer
        What the groups "layers", "threads" and "isa" time.
    near_threshold : tuple of Layer
        What the group "layers" times as well.
    plain : tuple of Layer
        What is also timed in the plain torch formulation.
    scaling : dict of str to tuple of Layer
        Layers that differ in one size.
    pretrained : tuple of str
        Networks of the group "trained".
    trained_batches, mnist_batches, vgg_batches : tuple of int
        Batch sizes of the networks.
    memory_batch : int
        Images of the training step whose memory is measured.
    width : float
        Factor on the layers of SpikingVGG16.
    device : torch.device
        Of the groups that run on a GPU.
    step_batches : dict of str to int
        Networks whose training steps these time, and the batch size of each.
    """

    threads: int = 2
    repeats: int = 11
    seconds: float = 0.5
    layers: tuple[Layer, ...] = LAYERS
    near_threshold: tuple[Layer, ...] = NEAR_THRESHOLD
    plain: tuple[Layer, ...] = tuple(replace(layer, batch=1) for layer in CONVOLUTIONS)
    scaling: Series = field(default_factory=lambda: SCALING)
    pretrained: tuple[PretrainedName, ...] = tuple(trained.NETWORKS)
    trained_batches: tuple[int, ...] = (1, 16, 128)
    mnist_batches: tuple[int, ...] = (10, 100)
    vgg_batches: tuple[int, ...] = (1, 16)
    memory_batch: int = 32
    width: float = 1.0
    device: torch.device = CPU
    step_batches: dict[str, int] = field(default_factory=lambda: dict(STEPS))

    @classmethod
    def quick(cls, threads: int) -> "Settings":
        """Tiny shapes and two runs of each: shows that everything works, and nothing more."""
        conv, linear = Layer(1, 4, 8, 6, 3, 1, 1), Layer(2, 16, 16)
        return cls(
            threads=threads,
            repeats=2,
            seconds=0.0,
            layers=(conv, linear),
            near_threshold=(NearThreshold(1, 4, 8, 6, 3, 1, 1),),
            plain=(conv,),
            scaling={
                "batch": (conv, replace(conv, batch=2)),
                "pixels": (conv, replace(conv, size=9)),
            },
            pretrained=("mnist_scnn",),
            trained_batches=(2,),
            mnist_batches=(2,),
            vgg_batches=(1,),
            memory_batch=2,
            width=1 / 16,
            step_batches=dict.fromkeys(STEPS, 2),
        )


def layers_rows(settings: Settings) -> Iterator[Row]:
    for layer in settings.layers + settings.near_threshold:
        z, x, weight = layer.tensors()
        out = layer.spiking(z, weight)
        grad = torch.randn_like(out)
        row: Row = {"layer": layer.name, "fired": _fired(out), "goal": layer.goal}
        for name, call in (("forward", forward), ("training", partial(train, grad=grad))):
            ours, dense = alternate(
                [partial(call, layer.spiking, z, weight), partial(call, layer.dense, x, weight)],
                settings.repeats,
                seconds=settings.seconds,
            )
            row |= {name: ours, f"dense_{name}": dense, f"{name}_ratio": ours / dense}
        yield row


def _fired(out: Tensor) -> float:
    return out.isfinite().float().mean().item()


def trained_rows(settings: Settings) -> Iterator[Row]:
    return trained.trained_rows(
        settings.pretrained, settings.trained_batches, settings.repeats, settings.seconds
    )


def mnist_rows(settings: Settings) -> Iterator[Row]:
    for batch in settings.mnist_batches:
        pixels, target = networks.digits(batch)
        for start, pretrained in (("untrained", False), ("trained", True)):
            torch.manual_seed(0)
            model, dense = networks.mnist("spiking", trained=pretrained), networks.mnist("dense")
            fractions = networks.firing_fractions(model, encode(pixels))
            ours, other = alternate(
                [
                    networks.training_step("spiking", model, pixels, target),
                    networks.training_step("dense", dense, pixels, target),
                ],
                settings.repeats,
                seconds=settings.seconds,
            )
            yield {
                "layer": f"MNIST network, {start}, b{batch}",
                "fired": fractions,
                "training": ours,
                "dense_training": other,
                "training_ratio": ours / other,
                "goal": 3.0,
            }


def vgg_rows(settings: Settings) -> Iterator[Row]:
    torch.manual_seed(0)
    model, dense = (networks.vgg16(kind, settings.width) for kind in ("spiking", "dense"))
    networks.keep_firing_(model, encode(networks.images(1)))
    for batch in settings.vgg_batches:
        pixels = networks.images(batch)
        z = encode(pixels)
        fractions = networks.firing_fractions(model, z)
        with torch.no_grad():
            ours, other = alternate(
                [partial(model, z), partial(dense, pixels)],
                settings.repeats,
                seconds=settings.seconds,
            )
        yield {
            "layer": f"SpikingVGG16 shapes, b{batch}",
            "fired": fractions,
            "forward": ours,
            "dense_forward": other,
            "forward_ratio": ours / other,
            "goal": 3.5,
        }


def scaling_rows(settings: Settings) -> Iterator[Row]:
    for series, layers in settings.scaling.items():
        measured: list[Row] = []
        for layer in layers:
            size = {
                "batch": layer.batch,
                "input channels": layer.inputs,
                "output channels": layer.outputs,
                "pixels": layer.size**2,
            }[series]
            z, x, weight = layer.tensors()
            grad = torch.randn_like(layer.spiking(z, weight))
            once, both, dense = alternate(
                [
                    partial(forward, layer.spiking, z, weight),
                    partial(train, layer.spiking, z, weight, grad),
                    partial(train, layer.dense, x, weight, grad),
                ],
                settings.repeats,
                seconds=settings.seconds,
            )
            measured.append(
                {
                    "series": series,
                    "layer": layer.name,
                    "size": size,
                    "forward": once,
                    "training": both,
                    "dense_training": dense,
                }
            )
        last = measured[-1]
        for row in measured:
            growth = number(row, "size") / number(last, "size")
            for name in ("forward", "training", "dense_training"):
                row[f"{name}_unit"] = number(row, name) / number(last, name) / growth
        yield from measured


def threads_rows(settings: Settings) -> Iterator[Row]:
    if settings.threads < 2:
        raise ValueError(
            f"the group threads compares one thread with more; it was given {settings.threads} "
            "thread: set Settings.threads to 2 or more, or leave the group out"
        )
    counts = (1, settings.threads)
    for layer in settings.layers:
        z, x, weight = layer.tensors()
        grad = torch.randn_like(layer.spiking(z, weight))
        row: Row = {"layer": layer.name, "goal": 1.8 if settings.threads == 2 else None}
        for name, call in (
            ("forward", partial(forward, layer.spiking, z, weight)),
            ("training", partial(train, layer.spiking, z, weight, grad)),
            ("dense_forward", partial(forward, layer.dense, x, weight)),
            ("dense_training", partial(train, layer.dense, x, weight, grad)),
        ):
            one, more = _alternate_states(torch.set_num_threads, counts, call, settings)
            row |= {f"{name}_one": one, name: more, f"{name}_speedup": one / more}
        torch.set_num_threads(settings.threads)
        yield row


def isa_rows(settings: Settings) -> Iterator[Row]:
    before = ttfs_fast.instruction_set()
    sets = ttfs_fast.instruction_sets()
    try:
        for layer in settings.layers:
            z, _, weight = layer.tensors()
            grad = torch.randn_like(layer.spiking(z, weight))
            row: Row = {"layer": layer.name, "goal": 2.0}
            for name, call in (
                ("forward", partial(forward, layer.spiking, z, weight)),
                ("training", partial(train, layer.spiking, z, weight, grad)),
            ):
                times = _alternate_states(ttfs_fast.set_instruction_set, sets, call, settings)
                row |= {f"{name}_{isa}": time for isa, time in zip(sets, times, strict=True)}
                for isa, time in zip(sets, times, strict=True):
                    row[f"{name}_{isa}_ratio"] = time / times[-1]
            yield row
    finally:
        ttfs_fast.set_instruction_set(before)


def _alternate_states(
    enter: Callable[[Any], object],
    states: Sequence[Any],
    call: Callable[[], object],
    settings: Settings,
) -> list[float]:
    """Times of one call in several states, taken in turn, each after a run that is not counted."""

    def prepare(index: int) -> None:
        enter(states[index])
        call()

    return alternate(
        [call] * len(states), settings.repeats, seconds=2 * settings.seconds, before=prepare
    )


def memory_rows(settings: Settings) -> Iterator[Row]:
    ours, dense = (
        memory.measure(kind, settings.memory_batch, settings.threads, settings.width)
        for kind in ("spiking", "dense")
    )
    yield {
        "layer": f"SpikingVGG16 shapes, b{settings.memory_batch}",
        "peak": ours["peak"],
        "dense_peak": dense["peak"],
        "peak_ratio": ours["peak"] / dense["peak"],
        "added": ours["peak"] - ours["before"],
        "dense_added": dense["peak"] - dense["before"],
        "added_ratio": (ours["peak"] - ours["before"]) / (dense["peak"] - dense["before"]),
        "goal": 1.3,
    }


def plain_rows(settings: Settings) -> Iterator[Row]:
    for layer in settings.plain:
        z, _, weight = layer.tensors()
        out = layer.spiking(z, weight)
        grad = torch.randn_like(out)
        ours, plain = alternate(
            [
                partial(train, layer.spiking, z, weight, grad),
                partial(train, layer.plain, z, weight, grad),
            ],
            min(3, settings.repeats),
            seconds=0.0,
        )
        yield {
            "layer": layer.name,
            "fired": _fired(out),
            "training": ours,
            "plain_training": plain,
            "speedup": plain / ours,
            "goal": 300.0,
        }
