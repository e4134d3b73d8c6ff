import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from support.reproduction import SMALL, Report
from ttfs_fast import quantization
from ttfs_fast.analysis import count_operations, evaluate, read_energy_models
from ttfs_fast.analysis.robustness import Perturbation, evaluate_perturbed
from ttfs_fast.circuit import jitter_sweep, quantization_sweep
from ttfs_fast.data import load
from ttfs_fast.models import mnist_scnn
from ttfs_fast.paper import numbers
from ttfs_fast.paper.figure2 import _statistics
from ttfs_fast.paper.figure2_view import largest_tolerated
from ttfs_fast.paper.sections import wilson
from ttfs_fast.paper.table1 import descriptions
from ttfs_fast.paper.table3 import OPERATING_POINT
from ttfs_fast.paper.table4 import dequantized_model
from ttfs_fast.quantization import convert, dequantize_, prepare_qat_

KEY = "digits-demo"


def test_table_1_counts_the_models_themselves(report: Report) -> None:
    found = report.results["table1"]["networks"]
    model = mnist_scnn()
    weights = sum(p.numel() for name, p in model.named_parameters() if "weight" in name)
    assert found["mnist"]["weights"] == weights == descriptions()["mnist"].weights == 21440
    assert found["cifar10"]["weights"] == 54_299_328
    assert [len(found[key]["layers"]) for key in ("mnist", "cifar10", "imagenet")] == [3, 17, 58]
    conv1 = found["mnist"]["layers"][0]
    # Each of the 28 x 28 inputs is seen by those of the 14 x 14 outputs that reach it.
    reach = torch.nn.functional.conv_transpose2d(
        torch.ones(1, 1, 14, 14), torch.ones(1, 1, 5, 5), stride=2
    )[0, 0, 1:29, 1:29]
    assert conv1["synapses"] == 32 * int(reach.sum())
    assert conv1["events_per_spike"] == pytest.approx(32 * float(reach.mean()))


def test_table_1_finds_contradictions(report: Report) -> None:
    energy = report.results["table1"]["energy"]
    # 0.336 mJ at sparsity 0.62 and 10 pJ.
    fits = energy["cifar10"]["weights_that_fit_its_energy"]
    assert fits == pytest.approx(0.336e-3 / 0.62 / 10e-12)
    assert abs(fits / 54_299_328 - 1) < 0.01 < abs(34e6 / fits - 1)
    page = (report.folder / "report.md").read_text()
    lines = [line for line in page.splitlines() if "contradicts itself" in line]
    assert len(lines) == 1
    assert lines[0].startswith("| SpikingVGG16: weights | 34 million")


def test_table_2_counts_operations_of_images_spread_over_all(report: Report) -> None:
    network = report.found.evaluated[0]
    own = report.results["table2"][KEY]["operations"]
    digits = load("digits", train=False)
    places = [0, len(digits) // 4, len(digits) // 2, 3 * len(digits) // 4]
    images = torch.from_numpy(digits.images[places])
    counts = count_operations(network.model, network.encoding(images))
    assert own["images"] == 4
    assert own["per_image"]["causal"] == counts.total("causal") > 10_000
    assert own["per_image"]["delivered"] == counts.total("delivered")
    models = read_energy_models()
    assert own["energy_joule"] == {model.name: counts.energy(model) for model in models}
    page = (report.folder / "report.md").read_text()
    assert "**Operations of an image**" in page
    assert f"{counts.total('causal'):,.0f}" in page
    assert all(model.source in page for model in models)


def test_table_2_is_the_evaluation(report: Report) -> None:
    network = report.found.evaluated[0]
    own = report.results["table2"][KEY]
    digits = load("digits", train=False)
    expected = evaluate(network.model, digits).to_dict()
    for name in (
        "correct",
        "confusion",
        "spikes_per_neuron",
        "first_spike_time",
        "spikes_per_image",
    ):
        assert own["evaluation"][name] == expected[name], name
    assert "images_per_second" not in own["evaluation"]
    timing = own["timing"]
    assert timing["decision"]["mean"] == pytest.approx(expected["first_spike_time"])
    assert list(timing["histograms"]) == ["input", "conv1", "conv2", "fc"]
    assert timing["decided_right"][-1] == pytest.approx(expected["accuracy"], abs=0.02)
    assert 0 < timing["fraction_by_decision"] < 1


def test_table_3_is_the_sweep(report: Report) -> None:
    found = report.results["table3"]
    expected = jitter_sweep(
        OPERATING_POINT, list(numbers.TABLE_3_JITTER), trials=SMALL.circuit_trials
    )
    assert [row["jitter"] for row in found["jitter"]] == [point.jitter for point in expected]
    bits = [int(bits) for bits in numbers.TABLE_3_BITS]
    expected = quantization_sweep(OPERATING_POINT, bits, trials=SMALL.circuit_trials)
    assert [row["jitter"] for row in found["bits"]] == [point.jitter for point in expected]
    assert [row["paper"] for row in found["jitter"]] == [0.024, 0.189, 0.397, 0.789, 0.997]
    assert [row["paper"] for row in found["bits"]] == [0.957, 0.268, 0.008, 0.004, 0.004]
    assert 9e-12 < found["energy"]["joule_per_spike"] < 10e-12


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_table_4_tests_the_same_weights_both_ways(report: Report, bits: int) -> None:
    network = report.found.evaluated[0]
    own = report.results["table4"][KEY]["plain"][str(bits)]
    digits = load("digits", train=False)
    converted = convert(network.model, bits)
    assert own["integer_correct"] == quantization.evaluate(converted, digits).correct
    assert own["bytes"] == len(converted.to_bytes())
    # The float counterpart: what quantization-aware training simulates (here in float64, as convert
    # fits its thresholds), but for the rounded biases.
    counterpart = dequantized_model(converted, network.model)
    assert own["float_correct"] == evaluate(counterpart, digits).correct
    simulated = mnist_scnn(dtype=torch.float64)
    simulated.load_state_dict(network.model.state_dict())
    dequantize_(prepare_qat_(simulated, bits), keep_quantized=True)
    for name in ("conv1", "conv2", "fc"):
        expected = simulated.get_submodule(name).weight.float()
        found = counterpart.get_submodule(name).weight
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert own["same_answer"] > 0.98
    assert {8: 30, 4: 12, 2: 4}[bits] < own["weight_snr"] < {8: 50, 4: 24, 2: 12}[bits]


def test_table_4_retrains(report: Report) -> None:
    own = report.results["table4"][KEY]
    assert own["settings"]["training"]["train_images"] == SMALL.retrain_images
    (folder,) = (report.folder / "retraining").iterdir()
    converted = quantization.load(folder / "model-4bit.ttfs")
    found = quantization.evaluate(converted, load("digits", train=False))
    assert own["retrained"]["4"]["integer_correct"] == found.correct
    assert found.spikes_per_neuron > 0.3
    assert any(own["retrained"][b] != own["plain"][b] for b in ("8", "4", "2"))


def test_figure_2_is_the_disturbed_network(report: Report) -> None:
    network = report.found.evaluated[0]
    own = report.results["figure2"][KEY]
    assert own["weight_snr"]["images"] == 360
    assert own["dropped"]["images"] == SMALL.sweep_images
    expected = [
        evaluate_perturbed(
            network.model,
            network.test_set,
            Perturbation(weight_snr=5.0),
            seed=0,
            draw=draw,
        ).correct
        for draw in range(2)
    ]
    strong, weak = own["weight_snr"]["rows"]
    assert strong["correct"] == expected
    assert strong["mean"] == pytest.approx(np.mean(expected) / 360)
    assert strong["mean"] < weak["mean"]
    assert [row["draws"] for row in own["t_max"]["rows"]] == [1, 1]
    lost = own["dropped"]["rows"]
    assert lost[1]["mean"] < lost[0]["mean"]
    assert own["circuits"][0]["images"] == 2
    assert all(0 < jitter < 1 for jitter in own["circuits"][0]["jitter"].values())


def test_statistics_of_draws() -> None:
    draws = [{"correct": c, "silent": s} for c, s in ((90, 0), (70, 4), (80, 2))]
    found = _statistics(3.0, draws, 100)
    accuracies = np.array([0.9, 0.7, 0.8])
    assert found["mean"] == pytest.approx(0.8)
    assert found["deviation"] == pytest.approx(accuracies.std(ddof=1))
    assert found["low"] == pytest.approx(np.quantile(accuracies, 0.05))
    assert found["high"] == pytest.approx(np.quantile(accuracies, 0.95))
    assert (found["least"], found["most"], found["silent"]) == (0.7, 0.9, 0.02)
    assert _statistics(3.0, draws[:1], 100)["deviation"] is None


@pytest.mark.parametrize(
    ("losses", "rising", "expected"),
    [
        ([0.001, 0.004, 0.02], True, 2.0),
        ([0.001, 0.02, 0.001], True, 1.0),  # not past a level that costs more
        ([0.02, 0.02, 0.02], True, None),
        ([0.02, 0.004, 0.001], False, 2.0),
        ([0.0, 0.0, 0.0], False, 1.0),
    ],
)
def test_largest_tolerated_level(losses: list[float], rising: bool, expected: float | None) -> None:
    rows = [{"level": float(i + 1), "mean": 0.9 - loss} for i, loss in enumerate(losses)]
    assert largest_tolerated(rows, 0.9, rising=rising) == expected


@pytest.mark.parametrize(("correct", "images"), [(9909, 10000), (343, 360), (0, 10), (10, 10)])
def test_wilson_interval(correct: int, images: int) -> None:
    expected = binomtest(correct, images).proportion_ci(method="wilson")
    low, high = wilson(correct, images)
    assert low == pytest.approx(expected.low, abs=1e-6)
    assert high == pytest.approx(expected.high, abs=1e-6)


def test_repeated_figures_of_the_paper_agree() -> None:
    for key, claim in numbers.TABLE_2.items():
        assert numbers.TABLE_4[key][32] == claim.accuracy
        number, unit = claim.energy_text.split()
        assert float(number) * {"nJ": 1e-9, "mJ": 1e-3}[unit] == pytest.approx(claim.energy)
    assert math.isclose(numbers.TABLE_4["imagenet"][32] - numbers.TABLE_4["imagenet"][2], 0.088)
