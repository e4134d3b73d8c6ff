"""The stub of the compiled core against its docstrings, which pybind11 writes from the signatures.

``make lint`` runs stubtest, which compares the names; pybind11's functions show it no parameters.
"""

import ast
import re
from pathlib import Path

import pytest

import ttfs_fast
from ttfs_fast import _core

STUB = ast.parse((Path(ttfs_fast.__file__).parent / "_core.pyi").read_text())


def functions() -> dict[str, ast.FunctionDef]:
    """Functions and methods of the stub, properties apart, by their names with dots."""
    found = {}
    for node in STUB.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    decorators = {d.id for d in method.decorator_list if isinstance(d, ast.Name)}
                    if "property" not in decorators:
                        found[f"{node.name}.{method.name}"] = method
    return found


@pytest.mark.parametrize("name", functions())
def test_parameters_of_the_stub_are_those_of_the_function(name: str) -> None:
    target: object = _core
    for part in name.split("."):
        target = getattr(target, part)
    documented = str(target.__doc__)
    last = name.rpartition(".")[2]
    found = re.findall(rf"^(?:\d+\. )?{last}\((.*)\) -> ", documented, re.MULTILINE)
    assert found, documented
    stub = functions()[name].args
    wanted = [argument.arg for argument in stub.args + stub.kwonlyargs]
    for signature in found:
        names = re.findall(
            r"(?:^|, )(\w+): ", re.sub(r"\[[^\[\]]*(\[[^\]]*\])*[^\[\]]*\]", "", signature)
        )
        assert [n for n in names if n != "self"] == [n for n in wanted if n != "self"], signature
