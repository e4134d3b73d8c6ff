import json
import math
from pathlib import Path
from typing import Any

import pytest

from ttfs_fast.paper import store as module
from ttfs_fast.paper.store import ResultStore, WorkUnit, digest


def unit(key: str, value: Any, calls: list[str]) -> WorkUnit:
    def compute() -> Any:
        calls.append(key)
        return value

    return WorkUnit(key, compute)


def test_stored_results_are_not_computed_again(tmp_path: Path) -> None:
    calls: list[str] = []
    units = [unit("b", {"x": [0.1, 1 / 3], "n": None}, calls), unit("a", 7, calls)]
    store = ResultStore(tmp_path, "part", {"seed": 1})
    assert store.missing(units) == units
    for one in units:
        store.keep(one)
    store.flush()
    again = ResultStore(tmp_path, "part", {"seed": 1})
    assert again.missing(units) == []
    assert again.missing([*units, unit("c", 1, calls)])[0].key == "c"
    assert (
        again.values(units) == store.values(units) == {"b": {"x": [0.1, 1 / 3], "n": None}, "a": 7}
    )
    assert calls == ["b", "a"]
    assert [path.name for path in tmp_path.iterdir()] == [f"part-{digest({'seed': 1})[:8]}.json"]


def test_other_settings_have_their_own_file(tmp_path: Path) -> None:
    calls: list[str] = []
    for seed in (1, 2):
        store = ResultStore(tmp_path, "part", {"seed": seed})
        assert store.missing([unit("a", seed, calls)])
        store.keep(unit("a", seed, calls))
        store.flush()
    for seed in (1, 2):
        assert ResultStore(tmp_path, "part", {"seed": seed}).units == {"a": seed}


def test_the_file_does_not_depend_on_the_order(tmp_path: Path) -> None:
    contents = []
    for name, order in (("one", "ab"), ("other", "ba")):
        store = ResultStore(tmp_path / name, "part", {})
        for key in order:
            store.keep(unit(key, key.upper(), []))
        store.flush()
        contents.append(store.path.read_bytes())
    assert contents[0] == contents[1]


def test_results_are_written_during_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    store = ResultStore(tmp_path, "part", {})
    store.keep(unit("a", 1, []))
    assert not store.path.exists()
    now[0] = 1.5
    store.keep(unit("b", 2, []))
    assert json.loads(store.path.read_text())["units"] == {"a": 1, "b": 2}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"settings": {}, "units": 3}', b"\xff", b"{}"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = ResultStore(tmp_path, "part", {}).path
    path.write_bytes(content)
    with pytest.raises(ValueError, match="does not hold results of ttfs-fast reproduce"):
        ResultStore(tmp_path, "part", {})
    assert path.read_bytes() == content


def test_results_that_are_not_json_are_refused(tmp_path: Path) -> None:
    store = ResultStore(tmp_path, "part", {})
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.keep(unit("a", math.nan, []))
    assert store.units == {}
