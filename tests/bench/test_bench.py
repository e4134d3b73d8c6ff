"""The benchmark itself, on tiny shapes: what it measures. Times are not checked."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import ttfs_fast
from ttfs_fast._tables import NOTHING
from ttfs_fast.bench import (
    GROUPS,
    LAYERS,
    GroupResult,
    Layer,
    Settings,
    load,
    measured_on,
    memory,
    networks,
    pictures,
    run,
    timing,
    write,
)
from ttfs_fast.bench.layers import NearThreshold
from ttfs_fast.encoding import encode
from ttfs_fast.nn import SpikingConv2d, SpikingLinear

QUICK = Settings.quick(threads=2)
RESULTS = Path(__file__).parents[2] / "bench/results"
SHORT = dataclasses.replace(QUICK, memory_batch=1)


@pytest.fixture(autouse=True)
def _threads_as_before():  # type: ignore[no-untyped-def]
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# --- timing --------------------------------------------------------------------------------------


def test_calls_alternate_and_the_first_round_is_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, order = [0.0], []
    # Round by round: what the call costs. Medians of the last three: 3 and 20.
    costs = {"a": iter((100.0, 1.0, 3.0, 5.0)), "b": iter((100.0, 90.0, 10.0, 20.0))}

    def call(name: str) -> None:
        order.append(name)
        clock[0] += next(costs[name])

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    found = timing.alternate(
        [lambda: call("a"), lambda: call("b")],
        3,
        seconds=0.0,
        before=lambda index: order.append(index),  # type: ignore[arg-type]
    )
    assert found == [3.0, 20.0]
    assert order == [0, "a", 1, "b"] * 4


def test_short_calls_are_repeated_until_the_time_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], [0]

    def call() -> None:
        clock[0] += 0.01
        calls[0] += 1

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    assert timing.alternate([call], 3, seconds=0.105) == [pytest.approx(0.01)]
    assert calls[0] == 1 + 11
    calls[0] = 0
    timing.alternate([call], 3, seconds=1e9)
    assert calls[0] == 1 + 300


def test_the_instruction_set_in_use_is_written_down(instruction_set: str) -> None:
    assert measured_on(QUICK)["instruction_set"] == instruction_set


# --- layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [Layer(2, 8, 16, 12, 3, 1, 1), Layer(1, 3, 16, 23, 5, 2, 2), Layer(16, 64, 96), LAYERS[-1]],
    ids=lambda layer: layer.name,
)
def test_inputs_and_outputs_fire_with_the_documented_fractions(layer: Layer) -> None:
    z, x, weight = layer.tensors()
    assert z.isfinite().float().mean().item() == pytest.approx(0.62, abs=0.06)
    out = layer.spiking(z, weight)
    assert out.isfinite().float().mean().item() == pytest.approx(2 / 3, abs=0.06)
    assert layer.dense(x, weight).shape == out.shape
    plain = layer.plain(z, weight)
    same = plain.isfinite() == out.isfinite()
    assert same.float().mean() > 0.999
    both = plain.isfinite() & out.isfinite()
    close = torch.isclose(plain, out, rtol=1e-4)[both]
    assert close.float().mean() > 0.99


def test_layers_near_the_threshold_fire_late() -> None:
    layer = NearThreshold(2, 32, 32, 12, 3, 1, 1)
    z, x, weight = layer.tensors()
    assert z.isfinite().float().mean().item() == pytest.approx(0.62, abs=0.06)
    out = layer.spiking(z, weight)
    assert layer.dense(x, weight).shape == out.shape
    assert 0.4 < out.isfinite().float().mean().item() < 0.8
    assert out[out.isfinite()].max() > 10 * z[z.isfinite()].max()


def test_names_contain_the_shape() -> None:
    assert [layer.name for layer in LAYERS[3:8]] == [
        "conv 3x3 512->512 @4 b32",
        "linear 4096->4096 b128",
        "linear 1024->4096 b128",
        "conv 3x3 3->64 @32 b16",
        "conv 7x7/2 3->64 @224 b1",
    ]


# --- networks ------------------------------------------------------------------------------------


def test_vgg16_has_the_weights_of_table_1_and_its_dense_counterpart_the_same_shapes() -> None:
    with torch.device("meta"):
        spiking, dense = networks.vgg16("spiking"), networks.vgg16("dense")
    weights = [p for name, p in spiking.named_parameters() if name.endswith("weight")]
    assert sum(w.numel() for w in weights) == 54_299_328
    assert [p.shape for p in dense.parameters()] == [p.shape for p in spiking.parameters()]
    pools = {nn.MaxPool2d: 0, ttfs_fast.nn.SpikingMaxPool2d: 0}
    for layer in (*spiking, *dense):
        if type(layer) in pools:
            pools[type(layer)] += 1
    assert list(pools.values()) == [5, 5]


def test_neurons_keep_firing_layer_after_layer() -> None:
    torch.manual_seed(3)
    model = networks.vgg16("spiking", width=1 / 8)
    z = encode(networks.images(2))
    networks.keep_firing_(model, z)
    fractions = networks.firing_fractions(model, z)
    assert len(fractions) == 17
    assert fractions[:-1] == pytest.approx([2 / 3] * 16, abs=0.1)
    assert 0 < fractions[-1] <= 1  # ten neurons
    assert not model[0]._forward_hooks


@pytest.mark.parametrize("kind", ["spiking", "dense"])
def test_a_training_step_computes_gradients_and_leaves_the_weights(kind: networks.Kind) -> None:
    torch.manual_seed(0)
    model = networks.mnist(kind)
    before = [p.clone() for p in model.parameters()]
    pixels, target = networks.digits(4)
    assert pixels.shape == (4, 1, 28, 28)
    assert 0.5 < pixels.max() <= 1
    assert target.dtype == torch.int64
    step = networks.training_step(kind, model, pixels, target)
    losses = [step().data, step().data]
    assert losses[0] == losses[1]
    assert math.isfinite(losses[0])
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_the_dense_mnist_network_has_the_same_shapes() -> None:
    spiking, dense = (list(networks.mnist(kind).parameters()) for kind in ("spiking", "dense"))
    assert [p.shape for p in dense] == [p.shape for p in spiking]
    trained = networks.mnist("spiking", trained=True)
    assert isinstance(trained[0], SpikingConv2d)
    assert isinstance(trained[-1], SpikingLinear)
    z = encode(networks.digits(4)[0])
    assert networks.firing_fractions(trained, z) != networks.firing_fractions(
        networks.mnist("spiking"), z
    )


# --- memory --------------------------------------------------------------------------------------


def test_peak_memory_counts_freed_memory() -> None:
    # In one of its own: in this one, the memory of earlier tests counts.
    program = """
import torch
from ttfs_fast.bench.memory import peak_bytes

before = peak_bytes()
block = torch.ones(2**26)  # 256 MiB
peak = before + 0.5 * block.nbytes
assert peak_bytes() >= peak
del block
assert peak_bytes() >= peak
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_memory_is_that_of_another_process() -> None:
    small = memory.measure("spiking", batch=1, threads=1, width=1 / 16)
    large = memory.measure("spiking", batch=1, threads=1, width=1 / 4)
    assert 0 < small["before"] < small["peak"] < large["peak"]
    # Weights, gradients and Adam's two averages.
    with torch.device("meta"):
        weights = sum(p.nbytes for p in networks.vgg16("spiking", 1 / 4).parameters())
    assert large["peak"] - large["before"] > 4 * weights


def test_a_failed_measurement_reports_its_error() -> None:
    with pytest.raises(OSError, match=r"memory of the dense network failed.*positive"):
        memory.measure("dense", batch=1, threads=0)


# --- groups and results --------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(GROUPS))
def test_every_group_fills_its_table(name: str) -> None:
    threads, isa = torch.get_num_threads(), ttfs_fast.instruction_set()
    seen: list[object] = []
    result = run(name, SHORT, seen.append)
    assert seen == result.rows
    assert result.rows
    assert ttfs_fast.instruction_set() == isa
    assert torch.get_num_threads() == SHORT.threads
    torch.set_num_threads(threads)
    table = GROUPS[name].table(result.rows)
    missing = {
        key for key in GROUPS[name].columns if all(row.get(key) is None for row in result.rows)
    }
    assert len(table.shown) == len(GROUPS[name].columns) - len(missing)
    absent = {"avx512", "avx2", "baseline"} - set(ttfs_fast.instruction_sets())
    assert all(any(f"_{isa}" in key for isa in absent) for key in missing), missing
    for cells in table.cells():
        for column, cell in zip(table.shown, cells, strict=True):
            # Layers with few inputs have no chunks to rescan.
            assert cell
            assert cell != NOTHING or column is GROUPS["trained"].columns["rescanned"]
    for row in result.rows:
        may_be_zero = {key: row.get(key) or 0.0 for key in ("recomputed", "rescanned")}
        assert all(0 <= n <= 1 for n in may_be_zero.values())  # type: ignore[operator]
        rest = [v for key, v in row.items() if key not in may_be_zero]
        numbers = [v for v in rest if isinstance(v, (int, float))]
        assert numbers
        assert all(n > 0 and math.isfinite(n) for n in numbers), row


def test_ratios_are_those_of_the_times() -> None:
    (row, *_) = run("layers", SHORT).rows
    assert row["forward_ratio"] == row["forward"] / row["dense_forward"]  # type: ignore[operator]
    assert row["training_ratio"] == row["training"] / row["dense_training"]  # type: ignore[operator]
    (row, *_) = run("threads", SHORT).rows
    assert row["forward_speedup"] == row["forward_one"] / row["forward"]  # type: ignore[operator]
    first, last = run("scaling", SHORT).rows[:2]
    assert last["forward_unit"] == 1
    assert first["forward_unit"] == pytest.approx(2 * first["forward"] / last["forward"])  # type: ignore[operator]


def test_bench_rejects_invalid_settings() -> None:
    with pytest.raises(
        ValueError, match="no group 'layer'; the groups are: trained, layers, mnist"
    ):
        run("layer", SHORT)
    with pytest.raises(ValueError, match="compares one thread with more; it was given 1"):
        run("threads", dataclasses.replace(SHORT, threads=1))


def result(name: str = "layers", ratio: float = 2.5) -> GroupResult:
    row = {
        "layer": "conv 3x3 4->8 @6 b1",
        "fired": 0.66,
        "forward": 1.25e-3,
        "dense_forward": 0.5e-3,
        "forward_ratio": ratio,
        "training": 4e-3,
        "dense_training": 2e-3,
        "training_ratio": 2.0,
        "goal": 3.5,
    }
    return GroupResult(name, measured_on(QUICK), [row])


def test_results_are_written_read_and_joined(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert load(folder) == {}
    written = write([result()], folder)
    assert [path.name for path in written] == ["results.json", "README.md", "results.png"]
    assert load(folder) == {"layers": result()}
    text = (folder / "README.md").read_text()
    assert "| conv 3x3 4->8 @6 b1 | 66 | 1.25 | 0.50 | 2.50 | 4.00 | 2.00 | 2.00 | 3.5 |" in text
    assert ttfs_fast.instruction_set() in text
    assert "](results.png)" in text
    assert (folder / "results.png").read_bytes().startswith(b"\x89PNG")
    write([result("mnist"), result(ratio=9.0)], folder)
    joined = load(folder)
    assert list(joined) == ["layers", "mnist"]
    assert joined["layers"].rows[0]["forward_ratio"] == 9.0
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "results.json", "results.png"]


def test_bench_without_matplotlib_draws_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    written = write([result()], tmp_path)
    assert [path.name for path in written] == ["results.json", "README.md"]
    assert "png" not in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("content", ["", "[]", '{"groups": 3}', '{"groups": [{"name": "layers"}]}'])
def test_bench_does_not_replace_other_files(tmp_path: Path, content: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="does not hold results"):
        write([result()], tmp_path)
    assert path.read_text() == content
    assert list(tmp_path.iterdir()) == [path]


def test_json_contains_all_results(tmp_path: Path) -> None:
    write([result()], tmp_path)
    (group,) = json.loads((tmp_path / "results.json").read_text())["groups"]
    assert group["rows"] == result().rows
    assert {"torch", "processor", "threads", "date", "repeats"} <= set(group["measured_on"])


@pytest.mark.parametrize(("name", "drawn"), [("avx2", 0), ("avx512", 1)])
def test_picture_does_not_compare_a_set_with_itself(name: str, drawn: int) -> None:
    rows = load(RESULTS / name)["isa"].rows
    assert len(pictures._panels({"isa": rows})) == drawn


def test_titles_and_notes_of_the_picture_lie_apart() -> None:
    figures = pytest.importorskip("matplotlib.figure", reason="needs the extra ttfs_fast[plot]")
    rows = load(RESULTS / "avx512")["scaling"].rows
    panels = pictures._panels({"scaling": rows})
    assert len(panels) == 4
    for panel in panels:
        axis = figures.Figure(figsize=(6.0, 4.2)).subplots()  # beside long names of layers
        panel(axis)
        texts = [axis._left_title, axis.title, axis._right_title, *axis.texts]
        places = [text.get_window_extent() for text in texts if text.get_text()]
        assert len(places) == 2
        assert not places[0].overlaps(places[1])
