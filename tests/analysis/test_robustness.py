import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from ttfs_fast.analysis import evaluate, spike_timing
from ttfs_fast.analysis.robustness import (
    Perturbation,
    draw_generator,
    evaluate_perturbed,
    perturbed,
    signal_to_noise,
)
from ttfs_fast.data import load
from ttfs_fast.layers import SpikeRecorder, watch_layers
from ttfs_fast.models import mnist_scnn, vgg_stack
from ttfs_fast.nn import SpikingLinear
from ttfs_fast.optim.centering import center_weights_

LN2 = math.log(2)


def chain(neurons: int, layers: int) -> nn.Sequential:
    """Neuron i of every layer gets input i alone, with weight 2: it spikes ln 2 later."""
    model = nn.Sequential(*(SpikingLinear(neurons, neurons, bias=False) for _ in range(layers)))
    with torch.no_grad():
        for layer in model:
            layer.weight.copy_(2 * torch.eye(neurons))  # type: ignore[operator,union-attr]
    return model


def times(model: nn.Module, values: torch.Tensor, disturbance: Perturbation) -> torch.Tensor:
    with torch.no_grad(), perturbed(model, disturbance, draw_generator(3, 0)):
        found: torch.Tensor = model(values).log()
    return found


@pytest.fixture(scope="module")
def small() -> nn.Module:
    """Untrained, with effective biases, and every neuron fires."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = mnist_scnn()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "bias" in name:
                    parameter.uniform_(0.1, 0.5)
    return model


def test_zero_disturbance_changes_no_bit(small: nn.Module) -> None:
    digits = load("digits", train=False)
    plain = evaluate(small, digits).to_dict()
    disturbed = evaluate_perturbed(small, digits, Perturbation()).to_dict()
    for found in (plain, disturbed):
        del found["images_per_second"]
    assert plain["spikes_per_neuron"] > 0.9
    assert disturbed == plain


@pytest.mark.parametrize(
    "disturbance",
    [
        Perturbation(weight_snr=10.0),
        Perturbation(input_jitter=0.3),
        Perturbation(output_jitter=0.1),
        Perturbation(dropped=0.2),
        Perturbation(stuck_silent=0.3, stuck_early=0.2),
        Perturbation(t_max=2.0),
    ],
)
def test_perturbed_restores_the_network(small: nn.Module, disturbance: Perturbation) -> None:
    before = {name: value.clone() for name, value in small.state_dict().items()}
    values = (3 * torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))).exp()
    with torch.no_grad():
        plain = small(values)
        with perturbed(small, disturbance, draw_generator(1, 2)):
            first = small(values)
        with perturbed(small, disturbance, draw_generator(1, 2)):
            second = small(values)
        with (
            pytest.raises(KeyError),
            perturbed(small, disturbance, draw_generator(1, 3)),
        ):
            raise KeyError
        again = small(values)
    assert plain.isfinite().all()
    assert not torch.equal(first, plain)
    assert torch.equal(first, second)
    assert torch.equal(again, plain)
    for name, value in small.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_noise_on_the_weights_has_the_ratio_asked_for(small: nn.Module) -> None:
    """Per layer, biases included. Another draw gives other noise; another level scales it."""
    plain = {name: value.clone() for name, value in small.state_dict().items()}

    def noise(snr: float, draw: int) -> dict[str, torch.Tensor]:
        with perturbed(small, Perturbation(weight_snr=snr), draw_generator(0, draw)):
            noisy = {name: value.clone() for name, value in small.state_dict().items()}
        return {name: noisy[name] - plain[name] for name in plain}

    found = noise(20.0, 0)
    for layer in ("conv1", "conv2", "fc"):
        signal, error = (
            torch.cat([part[f"{layer}.weight"].flatten(), part[f"{layer}.bias"]])
            for part in (plain, found)
        )
        assert signal_to_noise(signal, signal + error) == pytest.approx(20.0, abs=0.6), layer
        deviations = error / signal.square().mean().sqrt() * 10
        assert float(deviations.std()) == pytest.approx(1.0, abs=0.06)
        assert abs(float(deviations.mean())) < 0.1
    weaker, other = noise(40.0, 0), noise(20.0, 1)
    torch.testing.assert_close(10 * weaker["fc.weight"], found["fc.weight"], rtol=1e-3, atol=1e-5)
    correlation = torch.corrcoef(
        torch.stack([other["fc.weight"].flatten(), found["fc.weight"].flatten()])
    )
    assert abs(float(correlation[0, 1])) < 0.05


def test_jitter_of_the_input_in_units_of_tau() -> None:
    found = times(chain(50, 1), torch.full((400, 50), math.e), Perturbation(input_jitter=0.2))
    assert float(found.mean()) == pytest.approx(1 + LN2, abs=0.01)
    assert float(found.std()) == pytest.approx(0.2, rel=0.03)


def test_jitter_of_the_output_is_a_fraction_of_its_time() -> None:
    """Also of the last layer; a silent neuron stays silent."""
    values = torch.full((400, 50), math.e**2)
    values[:, 7] = math.inf
    found = times(chain(50, 1), values, Perturbation(output_jitter=0.1))
    assert (found[:, 7] == math.inf).all()
    fired = found[:, :7]
    assert float(fired.mean()) == pytest.approx(2 + LN2, abs=0.02)
    assert float(fired.std()) == pytest.approx(0.1 * (2 + LN2), rel=0.05)
    share = (fired - 2 - LN2).abs().mean() / (2 + LN2)
    assert float(share) == pytest.approx(0.1 * math.sqrt(2 / math.pi), rel=0.05)


def test_spikes_jittered_beyond_their_horizon_are_dropped(seed: int) -> None:
    model = chain(400, 1)
    values = torch.full((50, 400), math.e)
    free = times(model, values, Perturbation(output_jitter=0.1))
    model[0].t_max = 1.05 * (1 + LN2)  # half a standard deviation behind the spikes
    found = times(model, values, Perturbation(output_jitter=0.1))
    assert float(found.isfinite().float().mean()) == pytest.approx(0.69, abs=0.02)
    assert torch.equal(found, free.masked_fill(free > model[0].t_max, math.inf))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_spikes_are_lost_on_the_way_into_each_layer(layers: int) -> None:
    found = times(chain(50, layers), torch.ones(400, 50), Perturbation(dropped=0.1))
    assert float(found.isfinite().float().mean()) == pytest.approx(0.9**layers, abs=0.01)
    arrived = found[found.isfinite()]
    torch.testing.assert_close(arrived, torch.full_like(arrived, layers * LN2))


def test_stuck_neurons_are_the_same_for_all_images_and_never_outputs() -> None:
    model, recorder = chain(2000, 2), SpikeRecorder()
    disturbance = Perturbation(stuck_silent=0.1, stuck_early=0.2)
    values = torch.full((3, 2000), math.e)
    # What the layer passes on, seen after the disturbance.
    with torch.no_grad(), perturbed(model, disturbance, draw_generator(0, 0)):
        with watch_layers(model, recorder):
            output = model(values)
        again = model(values[:1])
    hidden = recorder.values["0"].log()
    silent, early = hidden == math.inf, hidden == 0
    assert float(silent[0].float().mean()) == pytest.approx(0.1, abs=0.02)
    assert float(early[0].float().mean()) == pytest.approx(0.2, abs=0.03)
    for image in range(3):
        assert torch.equal(hidden[image], hidden[0])
    assert torch.equal(again[0], output[0])
    assert torch.equal(output.log()[0].isfinite(), ~silent[0])
    torch.testing.assert_close(output.log()[0][early[0]], torch.full((int(early[0].sum()),), LN2))


def test_a_horizon_silences_later_spikes_in_every_layer() -> None:
    values = torch.tensor([[1.0, math.e, math.e**2]])  # at 0, 1 and 2 tau
    found = times(chain(3, 2), values, Perturbation(t_max=2.4))
    assert found.isfinite().tolist() == [[True, True, False]]
    found = times(chain(3, 2), values, Perturbation(t_max=LN2 + 1e-3))
    assert found.isfinite().tolist() == [[False, False, False]]  # silent in the second layer


def test_seed_and_draw_determine_random_numbers(small: nn.Module) -> None:
    digits = load("digits", train=False)

    def confusion(seed: int, draw: int) -> list[list[int]]:
        disturbance = Perturbation(weight_snr=3.0)
        found = evaluate_perturbed(small, digits, disturbance, seed=seed, draw=draw)
        assert found.spikes_per_neuron > 0.5
        return found.confusion.tolist()

    assert confusion(0, 0) == confusion(0, 0)
    assert len({str(confusion(seed, draw)) for seed, draw in ((0, 0), (0, 1), (1, 0))}) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Perturbation(weight_snr=math.nan), "weight_snr must be a number"),
        (lambda: Perturbation(t_max=-math.inf), "t_max must be a number"),
        (lambda: Perturbation(input_jitter=-0.1), "input_jitter must be 0 or"),
        (lambda: Perturbation(output_jitter=math.inf), "output_jitter must be 0 or"),
        (lambda: Perturbation(dropped=1.1), "dropped must be from 0 to 1; got 1.1"),
        (lambda: Perturbation(stuck_silent=0.6, stuck_early=0.6), "must add up to at most 1"),
    ],
)
def test_perturbation_rejects_invalid_values(
    make: Callable[[], Perturbation], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_computed_weights_are_refused() -> None:
    model = center_weights_(vgg_stack(4))
    pruned = vgg_stack(4)
    prune.random_unstructured(pruned.fc1, "weight", 0.5)
    for network in (model, pruned):
        with (
            pytest.raises(ValueError, match="fold them first"),
            perturbed(network, Perturbation(weight_snr=20.0), draw_generator(0, 0)),
        ):
            pass
    with perturbed(model, Perturbation(dropped=0.5), draw_generator(0, 0)):
        pass  # spikes may be disturbed all the same


def test_signal_to_noise_by_hand() -> None:
    weight = torch.tensor([3.0, -4.0])
    assert signal_to_noise(weight, weight + torch.tensor([0.3, 0.4])) == pytest.approx(20.0)
    assert signal_to_noise(weight, weight) == math.inf
    assert signal_to_noise(torch.zeros(2), weight) == -math.inf
    assert np.isfinite(signal_to_noise(weight, 2 * weight))


def test_a_horizon_keeps_earlier_decisions(small: nn.Module) -> None:
    """A spike does not depend on later ones, so decisions before the horizon stay the same."""
    digits = load("digits", train=False)
    timing = spike_timing(small, digits)
    for t_max in np.quantile(timing.decision, (0.2, 0.5, 0.9)).tolist():
        found = evaluate_perturbed(small, digits, Perturbation(t_max=t_max))
        decided = timing.decision <= t_max
        assert found.silent_images == int((~decided).sum())
        assert found.correct == int((timing.correct & decided).sum())


@pytest.mark.parametrize("snr", [4000.0, -4000.0])
def test_ratios_that_no_float_expresses_are_refused(snr: float) -> None:
    with pytest.raises(ValueError, match="weight_snr must be a number of dB from -300 to 300"):
        Perturbation(weight_snr=snr)
