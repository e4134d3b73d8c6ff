"""The order of imports that CONTRIBUTING.md draws, and ideas that have one place."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import ttfs_fast

PACKAGE = Path(ttfs_fast.__file__).parent
CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"

DEFERRED = {
    ("ops", "functional"): "torch.jit.trace records the functions that users call",
    ("ops", "optim"): "and weights of a fixed sum",
}
"""Imports against the order, inside functions, and why."""


@dataclass(frozen=True)
class Import:
    """One imported module or name of the package.

    Attributes
    ----------
    source, target : str
        Modules, without ``ttfs_fast.``; the package itself is "".
    name : str
        What is imported from the target; empty for the module itself.
    line : int
    """

    source: str
    target: str
    name: str
    line: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}{'.' * bool(self.name)}{self.name}"


def room(module: str) -> str:
    return module.partition(".")[0]


def rooms_in_order(text: str) -> list[set[str]]:
    """The rows of the diagram, from the bottom of the order up."""
    (diagram,) = re.findall(r"```text rooms\n(.*?)```", text, re.DOTALL)
    return [set(row.split()) for row in diagram.splitlines()]


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(source: str, tree: ast.Module, known: set[str]) -> Iterator[Import]:
    """All imports of the package, those inside functions and for type checkers too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "ttfs_fast":
                    target = alias.name.removeprefix("ttfs_fast").removeprefix(".")
                    yield Import(source, target, "", node.lineno)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield Import(source, "." * node.level + (node.module or ""), "", node.lineno)
            elif (node.module or "").partition(".")[0] == "ttfs_fast":
                base = (node.module or "").removeprefix("ttfs_fast").removeprefix(".")
                for alias in node.names:
                    inner = f"{base}.{alias.name}".removeprefix(".")
                    if inner in known:
                        yield Import(source, inner, "", node.lineno)
                    else:
                        yield Import(source, base, alias.name, node.lineno)


def all_imports() -> list[Import]:
    known = modules()
    return [
        one
        for name, path in known.items()
        for one in imports_of(name, ast.parse(path.read_text("utf-8")), set(known))
    ]


def against_the_order(imports: list[Import], rows: list[set[str]]) -> list[str]:
    level = {name: number for number, row in enumerate(rows) for name in row}
    wrong = []
    for one in imports:
        source, target = room(one.source), room(one.target)
        if source == target or (source, target) in DEFERRED:
            continue
        if source in ("", "__main__") or target == "":  # the package itself looks names up lazily
            continue
        if level[target] >= level[source]:
            wrong.append(str(one))
    return wrong


def private_names(imports: list[Import]) -> list[str]:
    """Names with an underscore that cross modules; a package's private modules are its own.

    ``_core`` is the compiled module, which is private to the whole package.
    """
    wrong = []
    for one in imports:
        name = one.name
        if name.startswith("_") and not name.startswith("__") and name != "_core":
            wrong.append(str(one))
        inner = one.target.split(".")[1:]
        if any(part.startswith("_") for part in inner) and room(one.source) != room(one.target):
            wrong.append(str(one))
    return wrong


def private_attributes(source: str, tree: ast.Module, known: set[str]) -> list[str]:
    """Uses such as ``module._name`` of another module of the package."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ttfs_fast"):
            base = (node.module or "").removeprefix("ttfs_fast").removeprefix(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix(".")
                if inner in known:
                    names[alias.asname or alias.name] = inner
    return [
        f"{source}:{node.lineno} uses {node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in names
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
    ]


LAYERS = {"SpikingConv2d", "SpikingLinear"}


def look_ups(source: str, tree: ast.Module) -> list[str]:
    """Loops over a model's modules that pick out its spiking layers."""

    def runs_over_modules(node: ast.expr) -> bool:
        return any(
            isinstance(part, ast.Attribute) and part.attr in ("modules", "named_modules")
            for part in ast.walk(node)
        )

    def picks_layers(node: ast.AST) -> bool:
        return any(
            isinstance(part, ast.Call)
            and isinstance(part.func, ast.Name)
            and part.func.id == "isinstance"
            and any(isinstance(n, ast.Name) and n.id in LAYERS for n in ast.walk(part.args[1]))
            for part in ast.walk(node)
        )

    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.For) and runs_over_modules(node.iter) and picks_layers(node):
            found.append(f"{source}:{node.lineno}")
        if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            loops = any(runs_over_modules(part.iter) for part in node.generators)
            if loops and picks_layers(node):
                found.append(f"{source}:{node.lineno}")
    return found


def test_every_package_is_in_the_diagram_once() -> None:
    rows = rooms_in_order(CONTRIBUTING.read_text("utf-8"))
    drawn = [name for row in rows for name in row]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) - {"_core"} == {room(name) for name in modules()} - {"", "__main__"}


def test_imports_follow_the_order_of_the_rooms() -> None:
    """Each room imports from the rows before its own; so there is no circle either."""
    rows = rooms_in_order(CONTRIBUTING.read_text("utf-8"))
    assert against_the_order(all_imports(), rows) == []


def test_exceptions_to_the_order_are_in_use_and_inside_functions() -> None:
    known = modules()
    used = {(room(one.source), room(one.target)) for one in all_imports()}
    assert set(DEFERRED) <= used
    for source, target in DEFERRED:
        tree = ast.parse(known[source].read_text("utf-8"))
        tree.body = [
            node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom | ast.If)
        ]
        assert target not in {room(one.target) for one in imports_of(source, tree, set(known))}


def test_no_relative_imports() -> None:
    assert [str(one) for one in all_imports() if one.target.startswith(".")] == []


def test_no_private_name_crosses_modules() -> None:
    assert private_names(all_imports()) == []
    known = modules()
    found = [
        use
        for name, path in known.items()
        for use in private_attributes(name, ast.parse(path.read_text("utf-8")), set(known))
    ]
    assert found == []


def test_spiking_layers_are_looked_up_in_one_place() -> None:
    """``layers.find_spiking_layers`` and what stands on it."""
    found = [
        place
        for name, path in modules().items()
        if name != "layers"
        for place in look_ups(name, ast.parse(path.read_text("utf-8")))
    ]
    assert found == []
    source = ast.parse(modules()["layers"].read_text("utf-8"))
    names = [node.name for node in ast.walk(source) if isinstance(node, ast.FunctionDef)]
    assert "find_spiking_layers" in names


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("encoding", "from ttfs_fast.models import mnist_scnn"),
        ("analysis.evaluate", "def f():\n    from ttfs_fast import training"),
        ("training.log", "import ttfs_fast.cli.train"),
        ("nn", "if TYPE_CHECKING:\n    from ttfs_fast.loss import SpikingLoss"),
        ("circuit.plots", "from ttfs_fast.quantization.fake import BITS"),
    ],
)
def test_an_import_against_the_order_is_found(source: str, code: str) -> None:
    rows = rooms_in_order(CONTRIBUTING.read_text("utf-8"))
    found = list(imports_of(source, ast.parse(code), set(modules())))
    assert len(against_the_order(found, rows)) == 1


def test_private_names_are_found() -> None:
    known = set(modules())
    for code in ("from ttfs_fast.loss import _x", "from ttfs_fast.nir._layers import build"):
        assert len(private_names(list(imports_of("cli.train", ast.parse(code), known)))) == 1
    own = ast.parse("from ttfs_fast.nir._layers import build")
    assert private_names(list(imports_of("nir", own, known))) == []
    uses = ast.parse("from ttfs_fast import loss\nloss._x\nloss.__name__\nself._y")
    assert private_attributes("cli.train", uses, known) == ["cli.train:2 uses loss._x"]


@pytest.mark.parametrize(
    "code",
    [
        "for m in model.modules():\n    if isinstance(m, SpikingConv2d):\n        pass",
        "{n: m for n, m in model.named_modules() if isinstance(m, SpikingLinear | SpikingConv2d)}",
        "[m for m in list(model.modules()) if isinstance(m, (SpikingConv2d, SpikingLinear))]",
    ],
)
def test_a_second_look_up_is_found(code: str) -> None:
    assert len(look_ups("x", ast.parse(code))) == 1
    assert look_ups("x", ast.parse(code.replace("Spiking", "Horizon"))) == []


def test_submodules_resolve_lazily() -> None:
    """Each public submodule is an attribute of the package without an import of its own."""
    import subprocess
    import sys

    public = sorted({room(name) for name in modules() if not room(name).startswith("_")} - {""})
    code = (
        "import sys, ttfs_fast\n"
        f"names = {public!r}\n"
        "assert not any('ttfs_fast.' + name in sys.modules for name in names)\n"
        "assert set(names) <= set(dir(ttfs_fast)), set(names) - set(dir(ttfs_fast))\n"
        "for name in names:\n"
        "    module = getattr(ttfs_fast, name)\n"
        "    assert module.__name__ == 'ttfs_fast.' + name, module\n"
        "try:\n"
        "    ttfs_fast.nothing\n"
        "except AttributeError as error:\n"
        "    assert 'nothing' in str(error)\n"
        "else:\n"
        "    raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
