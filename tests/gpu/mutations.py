"""Changes the kernels, one line at a time, and shows that a test fails each time.

Run by hand, two minutes: ``TRITON_INTERPRET=1 python tests/gpu/mutations.py [WORDS OF ONE]``.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path

import pytest

from ttfs_fast.gpu import kernels, layers, pool

HERE = Path(__file__).parent / "interpreted"
CONV, TIES = "test_convolution_against_the_reference", "test_ties_with_exact_sums_leave_no_room"
RULES = "test_gpu_numerics.py"

MUTATIONS = [
    # (what, before, after, the test that must fail)
    (
        "a touch is no spike",
        "(waiting & (highest >= 0))",
        "(waiting & (highest > 0))",
        f"{RULES}::test_crossing_exactly_at_an_input_spike_is_a_spike",
    ),
    (
        "the last crossing counts",
        "waiting = waiting & (there < 0)",
        "waiting = waiting & (there < 9e9)",
        f"{RULES}::test_first_crossing_counts",
    ),
    (
        "the bias comes at z = 2",
        "value = tl.where(c == channels, 1.0, value)",
        "value = tl.where(c == channels, 2.0, value)",
        f"test_gpu_layers.py::{TIES}",
    ),
    (
        "padding spikes at 3",
        'mask=inside, other=float("inf"))\n    if HAS_BIAS',
        "mask=inside, other=3.0)\n    if HAS_BIAS",
        f"test_gpu_layers.py::{TIES}",
    ),
    (
        "a NaN is not seen",
        "tl.where(undefined > 0, -1, count)",
        "tl.where(undefined > 9, -1, count)",
        f"{RULES}::test_nan_input_of_a_convolution_stays_in_its_fields",
    ),
    (
        "an overflow is a spike",
        'odd | ((moment < float("inf")) == 0)',
        'odd | ((moment < float("inf")) == 9)',
        "test_gpu_layers.py::test_late_spikes_whose_moments_overflow",
    ),
    (
        "the horizon is later",
        "event = seen & (value < horizon)",
        "event = seen & (value < 2 * horizon)",
        f"{RULES}::test_horizon",
    ),
    (
        "no horizon after the last event",
        "if FINITE_HORIZON:\n        there",
        "if False:\n        there",
        f"{RULES}::test_horizon",
    ),
    (
        "no second sums in double",
        "odd = odd & written",
        "odd = odd & (lanes < 0) & written",
        "test_gpu_layers.py::test_flat_slopes_are_summed_again_in_double",
    ),
    (
        "a neighbor's events",
        "r = key // window_x % window_y - py * sub_y",
        "r = key // window_x % window_y",
        f"test_gpu_layers.py::{TIES}",
    ),
    (
        "the weight gradient of all inputs",
        "ahead = tl.where(ahead <= 0, 0.0, ahead)",
        "ahead = tl.where(ahead <= -9, 0.0, ahead)",
        f"test_gpu_layers.py::{CONV}",
    ),
    (
        "the input gradient of ties",
        "late[:, None] <= early, 0.0",
        "late[:, None] < early, 0.0",
        f"{RULES}::test_input_at_the_spike_changes_nothing",
    ),
    (
        "a share of the pixels is lost",
        "end = tl.minimum(first + pixels_each",
        "end = tl.minimum(first + pixels_each - 1",
        f"test_gpu_layers.py::{CONV}",
    ),
    (
        "the pool keeps the last of equals",
        "(value < best)",
        "(value <= best)",
        "test_gpu_pool.py::test_pooling_against_the_reference",
    ),
    (
        "the pool's gradient takes every tap",
        "won = seen & (first == r * KERNEL_X + s)",
        "won = seen & (first >= 0)",
        "test_gpu_pool.py::test_pooling_against_the_reference",
    ),
]


def mutated(before: str, after: str, folder: Path, number: int) -> object:
    source = Path(kernels.__file__).read_text()
    assert source.count(before) >= 1, before
    path = folder / f"mutant_{number}.py"
    path.write_text(source.replace(before, after))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def main() -> int:
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        chosen = [m for m in MUTATIONS if all(word in m[0] for word in sys.argv[1:])]
        for number, (what, before, after, test) in enumerate([("none", "", "", None), *chosen]):
            module = mutated(before, after, Path(folder), number) if test else kernels
            layers.kernels = pool.kernels = module
            tests = [test] if test else sorted({m[3] for m in chosen})
            code = pytest.main(
                ["-q", "-x", "--no-header", "--tb=no", "-p", "no:cacheprovider",
                 *(f"{HERE}/{name}" for name in tests)]
            )  # fmt: skip
            expected = code == 1 if test else code == 0
            survived += not expected
            print(f"{'as it should' if expected else 'WRONG'}: {what}", flush=True)
    return survived


if __name__ == "__main__":
    sys.exit(main())
