"""Hundreds of thousands of random neurons; every difference must be explained by rounding.

    python tests/operators/at_scale.py --neurons 200000 [--seed S]

Each neuron has random inputs and weights of a random family; each instruction set computes it in
float32 and float64, and a float64 evaluation of the definition (`ttfs_fast.reference`) is what it
is compared with; where float64 differs, which rounds as much itself, one in rational numbers.
float32 is to agree within 1e-5 and float64 within 1e-12; whatever differs by more is one of

- *near tie*: the membrane condition F comes so close to 0 at some input spike that the rounding of
  its two sums decides whether the neuron fires there; the answers are those before and behind it;
- *small D*: the same causal set, and z = A / D differs by no more than what the rounding of the two
  sums makes of it, 4 eps (sum |w_i| z_i + z (1 + sum |w_i|)) / D;

or it is unexplained. Both must also be answers that `allowed` in test_against_reference.py finds
possible: it follows F from input to input with a bound on the rounding so far.
"""

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch
from test_against_reference import allowed
from torch import Tensor

import ttfs_fast
from ttfs_fast import reference, spiking_linear

INF = math.inf
ROWS, OUTPUTS = 10, 40
NEURONS = ROWS * OUTPUTS
"""Neurons of one draw: every row of inputs with every row of weights."""
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


FAMILIES = (
    "network",
    "balanced",
    "excitatory",
    "close in time",
    "coarse",
    "horizon",
    "tangent",
    "flat",
    "flat horizon",
)


@dataclass(frozen=True)
class Draw:
    """Inputs (rows, inputs) and weights (outputs, inputs) in float64, to be rounded first."""

    family: str
    inputs: Tensor
    weights: Tensor
    t_max: float


def draws(seed: int) -> Iterator[Draw]:
    """Neurons of every family in turn, with 1 to 3000 inputs, some of them silent."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    while True:
        for family in FAMILIES:
            count = int(3000 ** uniform(1).item())
            t = 3 * uniform(ROWS, count) - 0.5
            w = normal(OUTPUTS, count) * 3 / count**0.5 + 2.5 / count
            if family == "balanced":  # F goes up and down about the threshold
                w = normal(OUTPUTS, count) * 4 / count**0.5 + 1 / count
            elif family == "excitatory":
                w = uniform(OUTPUTS, count) * 3 / count
            elif family == "close in time":
                t = 1 + 1e-4 * uniform(ROWS, count)
            elif family == "coarse":  # equal inputs, and weights of four bits
                t = (4 * t).round() / 4
                w = (w * 8).round() / 8
            quiet = 0.3 * uniform(1)
            if family.endswith("horizon"):  # all inputs spike, half of them together and last
                t = t.clamp(max=1)
                quiet = torch.zeros(1)
            z = t.exp().masked_fill(uniform(ROWS, count) < quiet, INF)
            if family == "tangent":  # the first row just reaches the threshold, or just does not
                off = 10 ** (-5 - 11 * uniform(OUTPUTS, 1)) * normal(OUTPUTS, 1)
                w *= touching(z[0], w)[:, None] * (1 + off)
            elif family.startswith("flat"):  # and all of them with a sum of weights hardly above 1
                w = uniform(OUTPUTS, count)
                w *= (1 + 10 ** (-5 * uniform(OUTPUTS, 1))) / w.sum(1, keepdim=True)
            t_max = INF if uniform(1) < 0.7 else 3 * uniform(1).item()
            yield Draw(family, z, w, t_max)


def touching(z: Tensor, weights: Tensor) -> Tensor:
    """Factors on rows of weights with which F's highest value at an input spike is 0."""
    z, order = z[z.isfinite()].sort()
    w = weights[:, order]
    rise = w.cumsum(1)[:, :-1] * z[1:] - (w * z).cumsum(1)[:, :-1]  # F + z at the next spike
    highest = (rise / z[1:]).clamp(min=0).amax(1) if len(z) > 1 else torch.zeros(len(w))
    return torch.where(highest > 1e-3, 1 / highest.double(), 1)


@dataclass(frozen=True)
class Counts:
    """Results of a draw's neurons: counts by kind, and how many spike."""

    counts: Counter[str]
    spiking: int


def judge(draw: Draw, dtype: torch.dtype) -> Counts:
    """Compare the kernels, on the instruction set in use, with the definition."""
    inputs, weights = draw.inputs.to(dtype), draw.weights.to(dtype)
    got = spiking_linear(inputs, weights, t_max=draw.t_max)
    inputs, weights = inputs.double(), weights.double()
    exact, slope = reference.fire(inputs, weights, draw.t_max)
    found = got.double()
    both = found.isfinite() & exact.isfinite()
    agree = (found == exact) | (both & ((found - exact).abs() <= TOLERANCE[dtype] * exact))
    counts = Counter({"agree": int(agree.sum())})
    eps = torch.finfo(dtype).eps
    for r, j in (~agree).nonzero().tolist():
        one, neuron = inputs[r : r + 1], weights[j : j + 1]
        z, d = exact[r, j], slope[r, j]
        if dtype == torch.float64:  # which rounds as the kernels do
            z, d = fire_exactly(one, neuron, draw.t_max)
            if found[r, j] == z or abs(found[r, j] - z) <= TOLERANCE[dtype] * z:
                counts["agree"] += 1
                continue
        counts[kind(one, neuron, got[r, j], z, d, eps, draw.t_max)] += 1
    return Counts(counts, int(exact.isfinite().sum()))


def double(value: float | Fraction) -> Tensor:
    return torch.tensor(float(value), dtype=torch.float64)


def fire_exactly(inputs: Tensor, weights: Tensor, t_max: float) -> tuple[Tensor, Tensor]:
    """Spike value and D of one neuron, inputs and weights (1, count), in rational numbers."""
    events = [
        (Fraction(z), Fraction(w))
        for z, w in sorted(zip(inputs[0].tolist(), weights[0].tolist(), strict=True))
        if math.isfinite(z) and z < math.exp(t_max)
    ]
    slope, moment = Fraction(-1), Fraction(0)
    horizon = math.exp(t_max)
    ends = [z for z, _ in events[1:]] + [None if math.isinf(horizon) else Fraction(horizon)]
    for (z, w), end in zip(events, ends, strict=True):
        slope += w
        moment += w * z
        if slope > 0 and (end is None or slope * end >= moment):
            return double(moment / slope), double(slope)
    return double(INF), double(0)


def kind(
    inputs: Tensor, weights: Tensor, got: Tensor, exact: Tensor, slope: Tensor, eps: float, t: float
) -> str:
    """The reason for the difference of one neuron: inputs and weights (1, count)."""
    if got.isnan() or not allowed(inputs, weights, got[None, None], eps, t).all():
        return "unexplained"
    early, late = sorted((got.double().item(), exact.item()))
    between = (inputs >= early * (1 - 8 * eps)) & (inputs < late * (1 + 8 * eps))
    if math.isinf(late) or between.any():
        return "near tie"
    causal = inputs < late
    moment = (weights.abs() * inputs)[causal].sum().item()
    total = weights.abs()[causal].sum().item() + 1
    if (late - early) * abs(slope.item()) <= 4 * eps * (moment + late * total):
        return "small D"
    return "unexplained"


def run(neurons: int, seed: int) -> dict[tuple[str, torch.dtype], Counts]:
    """Every instruction set, in float32 and float64, on the same neurons."""
    before = ttfs_fast.instruction_set()
    results = {}
    try:
        for isa in ttfs_fast.instruction_sets():
            ttfs_fast.set_instruction_set(isa)
            for dtype in TOLERANCE:
                counts: Counter[str] = Counter()
                spiking = 0
                given = draws(seed)
                for _ in range(math.ceil(neurons / NEURONS)):
                    found = judge(next(given), dtype)
                    counts += found.counts
                    spiking += found.spiking
                results[isa, dtype] = Counts(counts, spiking)
    finally:
        ttfs_fast.set_instruction_set(before)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--neurons", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.perf_counter()
    bad = 0
    for (isa, dtype), found in run(given.neurons, given.seed).items():
        counts = found.counts
        bad += counts["unexplained"]
        print(
            f"{isa} {str(dtype).removeprefix('torch.')}: {counts.total():,} neurons, "
            f"{found.spiking:,} spike; within {TOLERANCE[dtype]:g}: {counts['agree']:,}, "
            f"near tie: {counts['near tie']}, small D: {counts['small D']}, "
            f"unexplained: {counts['unexplained']}",
            flush=True,
        )
    print(f"seed {given.seed}, {time.perf_counter() - begin:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
