"""Where a training step's time goes: inside the spiking operators, or around them.

Trains SpikingVGG16 (or another network) on random images by the same step as
`ttfs-fast train`: encoding with crop and flip, forward, loss, backward, gradient limit, Adam. The
profiler of torch counts the operators; the rest is everything else.

    python bench/training_step.py                     # SpikingVGG16, batch 32, one thread
    python bench/training_step.py --model vgg8 --batch 64 --dense
    python bench/training_step.py --model spiking_googlenet --size 224 --batch 4 --dense
    python bench/training_step.py --config cifar10-airbench --dense

--config takes network, optimizer and batch from a recipe. --dense times a step of the ReLU network
of the same shape in turn, in float32 and channels_last, and prints the ratio. Where layers have
horizons, the ReLU network has batch normalization, and spiking steps are timed in both precisions.
"""

import argparse
import dataclasses
import statistics
import time

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

import ttfs_fast
from ttfs_fast.data import ImageSet
from ttfs_fast.optim.averaging import average_weights
from ttfs_fast.training import TrainConfig, read_recipe
from ttfs_fast.training.datasets import make_batches
from ttfs_fast.training.trainer import make_optimizer, make_step, new_network


class Steps:
    """An epoch of training on one batch of images: batches and step as `train` makes them."""

    def __init__(self, config: TrainConfig, images: ImageSet) -> None:
        self.model = new_network(config, images)
        self._batches = make_batches(config, images, torch.Generator().manual_seed(config.seed))
        self._step = make_step(
            config,
            self.model,
            make_optimizer(config, self.model),
            averaged=average_weights(self.model, config.ema_decay),
        )

    def run_one(self) -> None:
        for chunk in self._batches.epoch(0):
            for batch in chunk.batches:
                self._step(batch)


def _config(options: argparse.Namespace) -> TrainConfig:
    return TrainConfig(
        dataset="cifar10",
        model=options.model,
        width=options.width,
        weight_sum=4.0,
        weight_norm=3.0,
        relative_lr=True,
        weight_sum_cost=0.0,
        l2_cost=0.0,
        alpha=1.5,
        polarity="both",
        logit_scale=16.0,
        crop=4,
        hflip=True,
        batch_size=options.batch or 32,
        lr=0.02,
        threads=options.threads,
    )


def _recipe(options: argparse.Namespace) -> TrainConfig:
    config = TrainConfig(**read_recipe(options.config))
    batch = options.batch or config.batch_size
    return dataclasses.replace(config, batch_size=batch, threads=options.threads)


def _dense(config: TrainConfig) -> TrainConfig:
    """The ReLU network of the same shape: with batch normalization where layers have horizons."""
    if config.neuron == "horizon":
        return dataclasses.replace(
            config,
            neuron="relu-norm",
            horizon_spread=TrainConfig.horizon_spread,
            whitening=False,
            dirac=False,
            average_pool=False,
            precision="float32",
            weight_sum=0.0,
            logit_scale=1.0,
        )
    return TrainConfig(
        dataset=config.dataset,
        model=config.model,
        width=config.width,
        neuron="relu",
        crop=config.crop,
        hflip=config.hflip,
        batch_size=config.batch_size,
        threads=config.threads,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="spiking_vgg16")
    parser.add_argument("--config", help="a recipe, in place of the options for the network")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dense", action="store_true", help="also the ReLU network")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = _recipe(options) if options.config else _config(options)
    options.batch, options.model, options.width = config.batch_size, config.model, config.width
    shape = (options.batch, 3, options.size, options.size)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    images = ImageSet(pixels, np.arange(options.batch) % 10, "random", tuple("0123456789"))
    spiking = Steps(config, images)
    steps = {"spiking": spiking}
    if options.dense:
        if config.precision != "float32":
            single = dataclasses.replace(config, precision="float32")
            steps["float32"] = Steps(single, images)
        steps["ReLU"] = Steps(_dense(config), images)
    for step in steps.values():
        step.run_one()  # warm up
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.repeats):
        for name, step in steps.items():
            begin = time.perf_counter()
            step.run_one()
            times[name].append(time.perf_counter() - begin)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        begin = time.perf_counter()
        spiking.run_one()
        whole = time.perf_counter() - begin
    # Of a forward call the profiler notes the function that keeps what backward needs.
    inside = 1e-6 * sum(
        event.self_cpu_time_total
        for event in profiler.key_averages()
        if event.key.startswith(("ttfs_fast::", "GeneratedBackwardFor_ttfs_fast"))
    )
    print(
        f"{options.model}, width {options.width:g}, {options.size} x {options.size}, "
        f"batch {options.batch}, "
        f"threads {options.threads}, {ttfs_fast.instruction_set()}"
    )
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:8} {median:.3f} s a step, {options.batch / median:.1f} images/s")
    dense = times.pop("ReLU", None)
    for name, values in times.items():
        if dense is not None:
            ratio = statistics.median(a / b for a, b in zip(values, dense, strict=True))
            print(f"{name} / ReLU: {ratio:.2f}")
    print(f"outside the spiking operators: {1 - inside / whole:.1%} of a step of {whole:.3f} s")


if __name__ == "__main__":
    main()
