"""The groups that ``ttfs-fast bench`` measures, and the columns of their tables."""

from ttfs_fast._tables import Column
from ttfs_fast.bench import gpu, measure
from ttfs_fast.bench.tables import Group, mebibytes, milliseconds, numbers

LAYER = {"layer": Column("layer", numeric=False, wrap=False)}
CAUSAL = {"causal": numbers("causal, %", 0.01, ".0f")}
FIRED = {"fired": numbers("fired, %", 0.01, ".0f")}
REPEATED = {
    "recomputed": numbers("recomputed, %", 0.01, ".2f"),
    "rescanned": numbers("rescanned, %", 0.01, ".1f"),
}
GOAL = {"goal": numbers("goal", form="g")}
RATIO = numbers("ratio")
_FORWARD = {
    "forward": milliseconds("forward"),
    "dense_forward": milliseconds("dense"),
    "forward_ratio": RATIO,
}
_TRAINING = {
    "training": milliseconds("fwd + bwd"),
    "dense_training": milliseconds("dense"),
    "training_ratio": RATIO,
}


def _on_gpu(name: str, title: str) -> dict[str, Column]:
    return {
        name: milliseconds(title),
        f"dense_{name}": milliseconds("dense"),
        f"tf32_{name}": milliseconds("dense, TF32"),
        f"simple_{name}": milliseconds("simple"),
        f"{name}_ratio": RATIO,
        f"{name}_faster": numbers("faster than simple"),
    }


GROUPS = {
    "trained": Group(
        "Trained networks on real images",
        "The pretrained networks, layer by layer and as a whole, with the spikes of test images. "
        "Causal: spikes before their neuron's own. Recomputed: outputs that are computed again "
        "more accurately. Rescanned: chunks of events in which an output may spike, processed "
        "again event by event; layers with few inputs have no chunks. Dense: the same shapes, with "
        "ReLU for whole networks; a training step is defined as for the MNIST network below. "
        "cifar_airbench, whose layers have horizons, is folded to plain layers; unfolded, it "
        "computes dense products. Its training step is that of the layers with horizons, the dense "
        "one has batch normalization. Networks for CIFAR-10 need its images (TTFS_FAST_DATA).",
        LAYER | CAUSAL | FIRED | REPEATED | _FORWARD | _TRAINING | GOAL,
        measure.trained_rows,
    ),
    "layers": Group(
        "Layers against dense ones of the same shape",
        "Dense: torch.nn.functional.conv2d or linear. The goal is the largest ratio allowed.",
        LAYER | FIRED | _FORWARD | _TRAINING | GOAL,
        measure.layers_rows,
    ),
    "mnist": Group(
        "Training step of the MNIST network",
        "Forward, loss of equation (5), backward, gradient limit, Adam; dense: the same shapes "
        "with ReLU, cross-entropy and Adam. Fired: layer by layer.",
        LAYER | FIRED | _TRAINING | GOAL,
        measure.mnist_rows,
    ),
    "vgg": Group(
        "Inference through SpikingVGG16's layers",
        "Dense: the same shapes with ReLU. Fired: layer by layer. Random weights, whose mean is "
        "chosen for each layer, from first to last, so that two thirds of its neurons fire.",
        LAYER | FIRED | _FORWARD | GOAL,
        measure.vgg_rows,
    ),
    "scaling": Group(
        "Time against size",
        "Time per unit of size, relative to the largest size: 1 is linear growth; above 1, a small "
        "size costs more per unit.",
        {"series": Column("grows", numeric=False, wrap=False)}
        | LAYER
        | {
            "forward": milliseconds("forward"),
            "forward_unit": numbers("per unit"),
            "training": milliseconds("fwd + bwd"),
            "training_unit": numbers("per unit"),
            "dense_training": milliseconds("dense"),
            "dense_training_unit": numbers("per unit"),
        },
        measure.scaling_rows,
    ),
    "threads": Group(
        "From one thread to all",
        "How many times faster; the goal is for the spiking layer on two threads.",
        LAYER
        | {
            "forward_one": milliseconds("forward, 1 thread"),
            "forward": milliseconds("all"),
            "forward_speedup": numbers("faster"),
            "dense_forward_speedup": numbers("dense"),
            "training_one": milliseconds("fwd + bwd, 1 thread"),
            "training": milliseconds("all"),
            "training_speedup": numbers("faster"),
            "dense_training_speedup": numbers("dense"),
        }
        | GOAL,
        measure.threads_rows,
    ),
    "isa": Group(
        "Instruction sets",
        "Times of the spiking layers, relative to the widest set that the processor has. The goal "
        "is for AVX2.",
        LAYER
        | {
            key: column
            for name, title in (("forward", "forward"), ("training", "fwd + bwd"))
            for isa in ("avx512", "avx2", "baseline")
            for key, column in (
                (f"{name}_{isa}", milliseconds(f"{title}, {isa}")),
                (f"{name}_{isa}_ratio", RATIO),
            )
            if key not in ("forward_avx512_ratio", "training_avx512_ratio")
        }
        | GOAL,
        measure.isa_rows,
    ),
    "memory": Group(
        "Peak resident memory of a training step",
        "Each network in a separate process, the second of two steps. Added: minus the memory of "
        "the process before the network is built.",
        LAYER
        | {
            "peak": mebibytes("peak"),
            "dense_peak": mebibytes("dense"),
            "peak_ratio": RATIO,
            "added": mebibytes("added"),
            "dense_added": mebibytes("dense"),
            "added_ratio": RATIO,
        }
        | GOAL,
        measure.memory_rows,
    ),
    "plain": Group(
        "Against the plain torch formulation",
        "Forward and backward with sort, gather and cumsum. The goal is how many times faster it "
        "should be.",
        LAYER
        | FIRED
        | {
            "training": milliseconds("fwd + bwd"),
            "plain_training": milliseconds("plain torch"),
            "speedup": numbers("times faster", form=".0f"),
        }
        | GOAL,
        measure.plain_rows,
    ),
}
"""What is measured on the CPU."""

GPU_GROUPS = {
    "gpu": Group(
        "Layers on a GPU against dense ones of the same shape",
        "Dense: torch.nn.functional.conv2d or linear in float32, with TF32 off and on; the ratio "
        "is to TF32 off. Simple: every receptive field sorted by itself, then one pass an output. "
        "The goal is for forward; forward and backward should cost 4 dense ones, and each half of "
        "the simple algorithm's time.",
        LAYER | FIRED | _on_gpu("forward", "forward") | _on_gpu("training", "fwd + bwd") | GOAL,
        gpu.layers_rows,
    ),
    "gpu-steps": Group(
        "Training steps on a GPU",
        "Forward, loss of equation (5), backward, gradient limit, Adam; dense: the same shapes "
        "with ReLU, cross-entropy and Adam. Fired: layer by layer.",
        LAYER
        | FIRED
        | {
            "training": milliseconds("step"),
            "dense_training": milliseconds("dense"),
            "tf32_training": milliseconds("dense, TF32"),
            "training_ratio": RATIO,
        },
        gpu.steps_rows,
    ),
}
"""What is measured on a GPU, and nowhere else."""
