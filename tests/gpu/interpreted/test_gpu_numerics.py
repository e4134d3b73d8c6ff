"""Every rule of the neuron, on the Triton kernels: the table that holds for the CPU's."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ttfs_fast

path = Path(__file__).parents[2] / "operators/test_numerics_table.py"
spec = importlib.util.spec_from_file_location("numerics_table", path)
assert spec is not None
assert spec.loader is not None
table = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = table
spec.loader.exec_module(table)

globals().update({name: test for name, test in vars(table).items() if name.startswith("test_")})


@pytest.fixture
def instruction_set() -> str:
    """The one at hand: the CPU's plays no part."""
    return ttfs_fast.instruction_set()


@pytest.fixture(autouse=True)
def kernels_ran(request: pytest.FixtureRequest, launched: list[str]) -> Iterator[None]:
    yield
    layer = getattr(request.node, "callspec", None) and request.node.callspec.params.get("layer")
    if layer is not table.reference.spiking_linear and "refused" not in request.node.name:
        assert launched, "no Triton kernel was launched"
