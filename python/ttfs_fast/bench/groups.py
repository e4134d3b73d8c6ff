"""The groups that ``ttfs-fast bench`` measures, and the columns of their tables."""

from ttfs_fast.bench import measure
from ttfs_fast.bench.tables import Column, Group, mebibytes, milliseconds

LAYER, FIRED = Column("layer", "layer"), Column("fired", "fired, %", 0.01, ".0f")
GOAL = Column("goal", "goal", form="g")
_BOTH = (
    milliseconds("forward", "forward"),
    milliseconds("dense_forward", "dense"),
    Column("forward_ratio", "ratio"),
    milliseconds("training", "fwd + bwd"),
    milliseconds("dense_training", "dense"),
    Column("training_ratio", "ratio"),
)

GROUPS = {
    "layers": Group(
        "Layers against dense ones of the same shape",
        "Dense: torch.nn.functional.conv2d or linear. The goal is the largest ratio allowed.",
        (LAYER, FIRED, *_BOTH, GOAL),
        measure.layers_rows,
    ),
    "mnist": Group(
        "Training step of the MNIST network",
        "Forward, loss of equation (5), backward, gradient limit, Adam; dense: the same shapes "
        "with ReLU, cross-entropy and Adam. Fired: layer by layer.",
        (LAYER, FIRED, *_BOTH[3:], GOAL),
        measure.mnist_rows,
    ),
    "vgg": Group(
        "Inference through SpikingVGG16's layers",
        "Dense: the same shapes with ReLU. Fired: layer by layer. Random weights, whose mean is "
        "chosen for each layer, from first to last, so that two thirds of its neurons fire.",
        (LAYER, FIRED, *_BOTH[:3], GOAL),
        measure.vgg_rows,
    ),
    "scaling": Group(
        "Time against size",
        "Time a unit of size is relative to the largest size: 1 is linear growth, more is what a "
        "small size pays beyond it.",
        (
            Column("series", "grows"),
            LAYER,
            milliseconds("forward", "forward"),
            Column("forward_unit", "a unit"),
            milliseconds("training", "fwd + bwd"),
            Column("training_unit", "a unit"),
            milliseconds("dense_training", "dense"),
            Column("dense_training_unit", "a unit"),
        ),
        measure.scaling_rows,
    ),
    "threads": Group(
        "From one thread to all",
        "How many times faster; the goal is for the spiking layer on two threads.",
        (
            LAYER,
            milliseconds("forward_one", "forward, 1 thread"),
            milliseconds("forward", "all"),
            Column("forward_speedup", "faster"),
            Column("dense_forward_speedup", "dense"),
            milliseconds("training_one", "fwd + bwd, 1 thread"),
            milliseconds("training", "all"),
            Column("training_speedup", "faster"),
            Column("dense_training_speedup", "dense"),
            GOAL,
        ),
        measure.threads_rows,
    ),
    "isa": Group(
        "Instruction sets",
        "Times of the spiking layers, relative to the widest set that the processor has. The goal "
        "is for AVX2.",
        (
            LAYER,
            *(
                column
                for name, heading in (("forward", "forward"), ("training", "fwd + bwd"))
                for isa in ("avx512", "avx2", "baseline")
                for column in (
                    milliseconds(f"{name}_{isa}", f"{heading}, {isa}"),
                    Column(f"{name}_{isa}_ratio", "ratio"),
                )
                if (isa, column.heading) != ("avx512", "ratio")
            ),
            GOAL,
        ),
        measure.isa_rows,
    ),
    "memory": Group(
        "Peak resident memory of a training step",
        "Each network in a process of its own, the second of two steps. Added: without what the "
        "process holds before the network is built.",
        (
            LAYER,
            mebibytes("peak", "peak"),
            mebibytes("dense_peak", "dense"),
            Column("peak_ratio", "ratio"),
            mebibytes("added", "added"),
            mebibytes("dense_added", "dense"),
            Column("added_ratio", "ratio"),
            GOAL,
        ),
        measure.memory_rows,
    ),
    "plain": Group(
        "Against the plain torch formulation",
        "Forward and backward with sort, gather and cumsum. The goal is how many times faster it "
        "should be.",
        (
            LAYER,
            FIRED,
            milliseconds("training", "fwd + bwd"),
            milliseconds("plain_training", "plain torch"),
            Column("speedup", "times faster", form=".0f"),
            GOAL,
        ),
        measure.plain_rows,
    ),
}
