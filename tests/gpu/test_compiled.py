"""Every kernel compiles for GPUs of compute capability 8.0 and 9.0, in the shapes of the bench.

Triton brings what it takes (ptxas); a GPU is not needed.
"""

import platform
from pathlib import Path

import pytest
import torch

from ttfs_fast.bench.layers import LAYERS

pytest.importorskip("triton", reason='Triton is not installed: pip install ".[gpu]" (Linux)')
import compiled

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64", "aarch64"),
    reason="Triton brings no ptxas for this processor",
)

KERNELS = {
    "collect", "filter_events", "sweep", "prepare", "weight_gradient", "input_gradient", "pool",
    "pool_gradient",
}  # fmt: skip


@pytest.mark.parametrize("capability", [80, 90])
def test_no_kernel_spills_in_the_shapes_of_the_bench(
    capability: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    launches = compiled.recorded(monkeypatch)
    assert {launch.kernel for launch in launches} == KERNELS
    for launch in launches:
        found = compiled.compiled(launch, capability)
        assert found.stack == 0, (launch, found)
        assert found.local == 0, (launch, found)
        assert found.shared <= 48 * 2**10, (launch, found)
        # One block of threads must fit a multiprocessor.
        assert found.registers * launch.warps * 32 <= 2**16, (launch, found)


def test_double_precision_compiles_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    launches = compiled.recorded(monkeypatch, (LAYERS[0],), torch.float64)
    assert {launch.kernel for launch in launches} == KERNELS
    for launch in launches:
        assert compiled.compiled(launch, 90).stack == 0
