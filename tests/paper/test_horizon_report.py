"""Networks whose layers have horizons, in the report: what is counted, and what is left out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from support.reproduction import results
from ttfs_fast import quantization
from ttfs_fast.data import load
from ttfs_fast.encoding import encode
from ttfs_fast.horizon import HorizonLinear, ReferenceSpikes, fold_horizons_
from ttfs_fast.layers import ForcedSpikeCounter, SpikeRecorder, watch_layers
from ttfs_fast.paper import Plan, find_networks, reproduce
from ttfs_fast.training import TrainConfig, load_model, train

KEY = "digits-horizons"
PLAN = Plan(
    draws=2,
    sweep_images=40,
    deep_images=40,
    operation_images=4,
    weight_snr=(30.0, 60.0),
    disturbances={"dropped": (0.01, 0.5), "t_max": (1.0, 6.0)},
    phase_noise=(-95.0,),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow network with horizons, trained a little on the digits."""
    folder = tmp_path_factory.mktemp("runs") / "horizons"
    config = TrainConfig(
        dataset="digits",
        model="vgg4",
        neuron="horizon",
        weight_sum=2.0,
        horizon_spread=0.001,
        width=0.25,
        alpha=0.01,
        logit_scale=1000.0,
        optimizer="muon",
        lr=0.05,
        weight_sum_cost=0.0,
        l2_cost=0.0,
        epochs=2,
        batch_size=50,
        train_images=400,
        test_images=100,
        threads=1,
    )
    train(config, folder)
    return folder


@pytest.fixture(scope="module")
def out(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    found = find_networks(quick=True, out=folder, seed=0, runs=(run,))
    reproduce(PLAN, found, folder, only=("table2", "table4", "figure2"))
    return folder


def test_forced_spikes_are_counted_apart(run: Path, out: Path) -> None:
    own = results(out)["table2"][KEY]["evaluation"]
    assert own["accuracy"] > 0.5
    operations = results(out)["table2"][KEY]["operations"]
    assert 0 < operations["reference_causal_per_image"] < operations["per_image"]["causal"]
    assert "of reference spikes, causal" in (out / "report.md").read_text()
    assert 0.1 < own["spikes_per_neuron"] < 0.9
    # By hand: what every ReferenceSpikes receives as silent.
    model, config = load_model(run / "model.safetensors")
    digits = load("digits", train=False)
    inputs: list[torch.Tensor] = []
    handles = [
        module.register_forward_hook(lambda module, given, out: inputs.append(given[0]))
        for module in model.modules()
        if isinstance(module, ReferenceSpikes)
    ]
    with torch.no_grad():
        model(encode(digits.images_as_tensor(), alpha=config.alpha))
    for handle in handles:
        handle.remove()
    forced = sum(int(values.isinf().sum()) for values in inputs)
    assert forced > 0
    assert own["forced_spikes_per_image"] == pytest.approx(forced / len(digits))
    text = (out / "report.md").read_text()
    assert "forced at horizons, an image" in text
    assert "These forced spikes are no spikes of the fraction" in text


def test_forced_spikes_of_one_layer_by_hand() -> None:
    """Two layers, four neurons between them: the late ones are forced, the reference is not."""
    torch.manual_seed(0)
    first = HorizonLinear(3, 4, t_in=0.01, normalization="none")
    last = HorizonLinear(4, 2, t_in=first.t_out, normalization="none")
    model = fold_horizons_(nn.Sequential(first, last).eval())
    z = torch.rand(50, 3).mul(0.01).exp()
    forced, recorder = ForcedSpikeCounter(), SpikeRecorder()
    with torch.no_grad(), forced.watching(model), watch_layers(model, recorder):
        model(z)
    hidden = next(iter(recorder.values.values()))
    late = int(hidden.isinf().sum())
    assert 0 < late < hidden.numel()
    assert forced.spikes == late
    model(z)
    assert forced.spikes == late  # no longer watched


def test_integers_come_from_the_conversion(run: Path, out: Path) -> None:
    own = results(out)["table4"][KEY]
    assert own["retrained"] is None
    found = find_networks(quick=True, out=out, seed=0, runs=(run,))
    (network,) = found.evaluated
    some = network.some(40)
    assert own["float"]["images"] == 40
    for bits in (8, 4, 2):
        row = own["plain"][str(bits)]
        assert row["float_accuracy"] is None
        assert row["weight_snr"] is None
    calibration = load("digits", train=True).images[:500]
    converted = quantization.convert(network.model, 4, images=calibration)
    correct = quantization.evaluate(converted, some).correct
    assert own["plain"]["4"]["integer_correct"] == correct
    assert own["plain"]["8"]["integer_accuracy"] >= own["float"]["accuracy"] - 0.1
    assert own["plain"]["8"]["same_answer"] > 0.8
    assert (
        "neither retraining nor a float network with rounded weights"
        in (out / "report.md").read_text()
    )


def test_report_omits_rounding_of_horizon_networks_by_name(out: Path) -> None:
    own = results(out)["figure2"][KEY]
    assert own["rounded"] == {}
    assert own["circuits"] == []
    loud, quiet = own["weight_snr"]["rows"]
    assert loud["mean"] <= quiet["mean"] + 0.05
    short, long = own["t_max"]["rows"]
    assert long["mean"] == own["t_max"]["undisturbed"]
    assert short["silent"] == 1.0  # the last layer is not done by then
    text = (out / "report.md").read_text()
    assert "Rounding to few bits without retraining (Q) is left out" in text
    assert "beside rounding to 8, 4 and 2 bits" not in text


def test_identity_contains_all_that_decides_the_results(out: Path) -> None:
    identity = json.loads((out / "results.json").read_text())["networks"][KEY]
    assert identity["encoding"]["alpha"] == 0.01
    assert np.isfinite([float(value) for value in identity["horizons"][:-1]]).all()
