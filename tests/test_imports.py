"""What modules of the package may take from each other."""

import ast
from collections.abc import Iterator
from pathlib import Path

import ttfs_fast

PACKAGE = Path(ttfs_fast.__file__).parent
MODULES = {
    ".".join(("ttfs_fast", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in PACKAGE.rglob("*.py")
} | {"ttfs_fast._core", "ttfs_fast._native._core"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(source: str) -> Iterator[str]:
    """The private names of other modules that a module takes, by import or as an attribute."""
    tree = ast.parse(source)
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ttfs_fast"):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in MODULES or f"{full}.__init__" in MODULES:
                    modules[alias.asname or alias.name] = full
                elif is_private(alias.name):
                    yield full
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            if module is not None and not module.endswith("_core") and is_private(node.attr):
                yield f"{module}.{node.attr}"


def test_no_module_takes_a_private_name_of_another() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in PACKAGE.rglob("*.py")
        for name in private_names(path.read_text("utf-8"))
    }
    assert found == set()


def test_private_names_are_found_however_they_are_taken() -> None:
    source = (
        "from ttfs_fast.loss import _pair, l2_cost\n"
        "from ttfs_fast import reference as r, _files\n"
        "r._pad(1); r.pad(2); _files.LOCK; self._own\n"
    )
    assert set(private_names(source)) == {"ttfs_fast.loss._pair", "ttfs_fast.reference._pad"}
