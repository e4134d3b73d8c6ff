"""A spiking convolution beside torch's dense one, with torch.utils.benchmark.

Both compute a 3 x 3 convolution of stride 1, forward and forward + backward, with as many threads.
Run it on a machine that does nothing else.
"""

import argparse

import torch
from torch import Tensor
from torch.utils import benchmark

import ttfs_fast


def inputs(batch: int, channels: int, size: int) -> tuple[Tensor, Tensor]:
    """Spike values of which 62 % spike, and weights with which most neurons fire."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, channels, size, size)
    z = (2 * torch.rand(shape, generator=generator)).exp()
    z[torch.rand(shape, generator=generator) > 0.62] = torch.inf
    weight = torch.rand(channels, channels, 3, 3, generator=generator) * 8 / (9 * channels)
    return z, weight.requires_grad_()


def train(convolution: object, x: Tensor, weight: Tensor, grad: Tensor) -> None:
    """Forward and backward, for the weights and the input."""
    x = x.detach().requires_grad_()
    out: Tensor = convolution(x, weight, padding=1)  # type: ignore[operator]
    torch.autograd.grad(out, [x, weight], grad)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--size", type=int, default=32, help="height and width of the maps")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=2.0, help="how long to time each")
    arguments = parser.parse_args()

    z, weight = inputs(arguments.batch, arguments.channels, arguments.size)
    dense = torch.where(z.isinf(), 0, z)
    grad = torch.ones_like(dense)
    print(
        f"{tuple(z.shape)}, {arguments.channels} outputs, {ttfs_fast.instruction_set()} "
        f"instructions, threads: {arguments.threads}"
    )
    measurements = []
    for name, convolution, x in (
        ("spiking_conv2d", ttfs_fast.spiking_conv2d, z),
        ("conv2d", torch.nn.functional.conv2d, dense),
    ):
        for what, statement in (
            ("forward", "with torch.no_grad(): convolution(x, weight, padding=1)"),
            ("forward + backward", "train(convolution, x, weight, grad)"),
        ):
            timer = benchmark.Timer(
                statement,
                globals={
                    "convolution": convolution,
                    "grad": grad,
                    "torch": torch,
                    "train": train,
                    "weight": weight,
                    "x": x,
                },
                label="3 x 3 convolution",
                sub_label=name,
                description=what,
                num_threads=arguments.threads,
            )
            measurements.append(timer.blocked_autorange(min_run_time=arguments.seconds))
    benchmark.Compare(measurements).print()


if __name__ == "__main__":
    main()
