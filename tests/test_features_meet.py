"""Pairs of features: right together, or refused by name."""

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from support.horizons import SMALL
from ttfs_fast import quantization, spiking_delay
from ttfs_fast.analysis import evaluate
from ttfs_fast.analysis.horizons import find_horizons
from ttfs_fast.analysis.plotting import spike_raster
from ttfs_fast.analysis.robustness import Perturbation, evaluate_perturbed
from ttfs_fast.conversion import IntensitiesOfSpikes, from_relu, with_intensities
from ttfs_fast.data import ImageSet, load
from ttfs_fast.encoding import Encoding, encode
from ttfs_fast.horizon import (
    HorizonConv2d,
    HorizonLinear,
    ReferenceSpikes,
    fold_horizons_,
    synchronize_statistics_,
    unfold_horizons_,
)
from ttfs_fast.layers import SpikeCounter, spiking_layers, watch_layers
from ttfs_fast.models import mnist_scnn
from ttfs_fast.nn import Delay, SpikingLinear
from ttfs_fast.optim.averaging import average_weights
from ttfs_fast.quantization import prepare_qat_
from ttfs_fast.quantization.fake import dequantize_
from ttfs_fast.training import TrainConfig, train


def digits(images: int = 60) -> ImageSet:
    return load("digits", train=False).some(images)


def early(*shape: int, seed: int = 0, until: float = 0.01) -> Tensor:
    """Spike values of times from 0 to the first layer's horizon."""
    generator = torch.Generator().manual_seed(seed)
    return (until * torch.rand(shape, generator=generator)).exp()


def in_pairs(*, first_registered: bool = True) -> nn.Module:
    """A convolution and a classifier with horizons, registered in either order."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            conv = HorizonConv2d(1, 4, 3, t_in=0.01)
            fc = HorizonLinear(4 * 36, 10, t_in=conv.t_out, normalization="none")
            if first_registered:
                self.conv, self.fc = conv, fc
            else:
                self.fc, self.conv = fc, conv

        def forward(self, z: Tensor) -> Tensor:
            result: Tensor = self.fc(self.conv(z).flatten(1))
            return result

    model = Network()
    model(early(50, 1, 8, 8))
    return model.eval()


def test_compiled_networks_are_not_watched() -> None:
    """torch.compile leaves out hooks that are set later: nothing would be counted or disturbed."""
    torch._dynamo.reset()
    compiled = torch.compile(mnist_scnn(pretrained=True).eval(), backend="eager")
    z = encode(digits().images_as_tensor())
    with torch.no_grad():
        compiled(z)
    images = dataclasses.replace(digits(), name="any")
    for use in (
        lambda: evaluate(compiled, images, encoding=Encoding()),
        lambda: evaluate_perturbed(compiled, images, Perturbation(output_jitter=1.0)),
        lambda: find_horizons(compiled, z, 0.3),
    ):
        with pytest.raises(ValueError, match=r"torch\.compile made does not tell .* _orig_mod"):
            use()


@pytest.mark.parametrize("first_registered", [True, False])
def test_the_last_layer_is_the_one_with_the_latest_horizon(first_registered: bool) -> None:
    """Its late spikes count, whatever the order in which layers were registered."""
    model, z = in_pairs(first_registered=first_registered), early(40, 1, 8, 8, seed=1)
    counts = []
    for network in (model, fold_horizons_(copy.deepcopy(model))):
        counter = SpikeCounter()
        with torch.no_grad(), watch_layers(network, counter):
            network(z)
        found = counter.spikes_per_neuron_by_layer
        counts.append({name.removesuffix(".1"): share for name, share in found.items()})
    assert counts[0] == pytest.approx(counts[1], abs=0.01)
    assert 0.2 < counts[0]["conv"] < 0.8
    assert counts[0]["fc"] == 1


def test_own_horizons_must_see_every_pixel(tmp_path: Path) -> None:
    """With the default alpha of 3, nearly all pixels would count as spiking at the horizon."""
    config = dataclasses.replace(
        SMALL, epochs=1, train_images=100, test_images=50, weight_sum=0.0, width=1.0
    )
    config = dataclasses.replace(config, horizon_spread=TrainConfig.horizon_spread)

    def network(in_channels: int = 1) -> nn.Module:
        first = HorizonLinear(784, 20, t_in=0.01)
        last = HorizonLinear(20, 10, t_in=first.t_out, normalization="none")
        return nn.Sequential(nn.Flatten(), first, last)

    with pytest.raises(ValueError, match=r"spike until alpha=3, .* t_in=0\.01, .* alpha=0\.01"):
        train(dataclasses.replace(config, alpha=3.0), tmp_path / "run", model=network())
    assert not (tmp_path / "run" / "config.json").exists()
    result = train(config, tmp_path / "run", model=network())
    assert result.records[-1].loss > 0
    # Without a weight sum, which belongs to the networks of the package.
    with pytest.raises(ValueError, match="needs a weight_sum"):
        train(config, tmp_path / "package")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99, 1.0])
def test_learned_delays_between_horizons_fold(share: float) -> None:
    """An output that is late, but delayed by less than planned, still counts in the next layer."""
    torch.manual_seed(0)
    first, delay = HorizonLinear(20, 30, t_in=0.01), Delay(30, 0.1)
    last = HorizonLinear(30, 5, t_in=first.t_out + 0.1, normalization="none")
    model = nn.Sequential(first, delay, last)
    model(early(200, 20))
    model.eval()
    with torch.no_grad():
        delay.delay.copy_(0.1 - share * 0.1 * torch.rand(30))
    folded = fold_horizons_(copy.deepcopy(model))
    z = early(200, 20, seed=1)
    assert torch.allclose(folded(z), model(z), rtol=2e-5)
    assert (folded(z).argmin(1) == model(z).argmin(1)).float().mean() > 0.99


def test_pruned_layers_are_not_read_before_their_forward_pass() -> None:
    """A pruned weight is renewed by a forward pass: what is read before is the random start."""
    model = nn.Sequential(nn.Flatten(), SpikingLinear(64, 3))
    prune.l1_unstructured(model[1], "weight", 0.25)
    with pytest.raises(ValueError, match="its weight is computed in the forward pass"):
        quantization.convert(
            model, bits=8, time_scales=[100.0, 100.0], encoding=Encoding(), input_size=(1, 8, 8)
        )
    layer = HorizonLinear(4, 3, t_in=0.01)
    prune.l1_unstructured(layer, "weight", 0.25)
    with pytest.raises(ValueError, match=r"prune\.remove"):
        fold_horizons_(nn.Sequential(layer))
    prune.remove(layer, "weight")
    assert len(fold_horizons_(nn.Sequential(layer))[0]) == 2


def test_layers_with_horizons_are_traced_folded_only() -> None:
    model, z = in_pairs(), early(5, 1, 8, 8)
    with pytest.raises(NotImplementedError, match=r"trace the folded network .*fold_horizons_"):
        torch.jit.trace(model, z)
    folded = fold_horizons_(model)
    traced = torch.jit.trace(folded, z)
    others = (0.01 - torch.rand(50, 1, 8, 8)).exp()  # some long before t = 0
    assert torch.equal(traced(others), folded(others))


def test_networks_of_numbers_take_no_encoding() -> None:
    """A converted network encodes real numbers itself; spike values would count as numbers."""
    torch.manual_seed(0)
    relu = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 10)).eval()
    x = digits().images_as_tensor().float() / 255
    network = from_relu(relu, x)
    for use in (
        lambda: evaluate(network, digits(), encoding=Encoding(1.0)),
        lambda: evaluate(network, digits()),
    ):
        with pytest.raises(ValueError, match=r"takes real numbers, .*with_intensities"):
            use()
    fed = with_intensities(network, IntensitiesOfSpikes(0.0, 1.0))
    found = evaluate(fed, digits(), encoding=Encoding(1.0))
    assert found.answers.tolist() == relu(x).argmax(1).tolist()


def test_the_raster_shows_the_decision_of_the_network() -> None:
    """What comes after the last layer of neurons decides, too."""
    pytest.importorskip("matplotlib", reason="needs the extra ttfs_fast[plot]")
    torch.manual_seed(0)
    late = Delay(10)
    model = nn.Sequential(nn.Flatten(), SpikingLinear(784, 10), late).eval()
    nn.init.uniform_(model[1].weight, 0.0, 0.05)
    image = digits(1).images[0]
    z = encode(torch.from_numpy(image)[None])
    first = int(model(z).argmin(1))
    with torch.no_grad():
        late.delay[first] = 3.0
    decided = int(model(z).argmin(1))
    assert decided != first
    figure = spike_raster(model, image, encoding=Encoding())
    assert figure._suptitle.get_text().endswith(f"class {decided}")


def test_delays_under_autocast_are_float32() -> None:
    z, delay = torch.tensor([[1.0, 2.0, torch.inf]]), torch.tensor([0.5, 1.0, 2.0])
    with torch.autocast("cpu", torch.bfloat16):
        found = spiking_delay(z.bfloat16(), delay.bfloat16())
    assert found.dtype == torch.float32
    assert torch.equal(found, spiking_delay(z, delay))


def test_dequantizing_a_copy_leaves_the_original() -> None:
    model = prepare_qat_(nn.Sequential(nn.Flatten(), SpikingLinear(64, 3)), 4)
    averaged = average_weights(model, 0.9)
    assert averaged is not None
    z = early(2, 1, 8, 8, until=1.0)
    before = model(z)
    dequantize_(copy.deepcopy(model))
    dequantize_(averaged.module)
    assert torch.equal(model(z), before)


def test_a_layer_runs_twice_with_statistics_of_all_processes() -> None:
    if torch.distributed.is_initialized():
        pytest.fail("another test left its process group")
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        gradients = []
        for synchronized in (False, True):
            torch.manual_seed(0)
            layer = HorizonLinear(6, 4, t_in=0.01)
            if synchronized:
                synchronize_statistics_(layer)
            (layer(early(9, 6)).sum() + layer(early(9, 6, seed=1)).sum()).backward()
            assert layer.weight.grad is not None
            gradients.append(layer.weight.grad)
        assert torch.allclose(*gradients, atol=1e-6)
        assert gradients[0].any()
    finally:
        torch.distributed.destroy_process_group()


def test_retraining_with_mirrored_answers_needs_a_teacher() -> None:
    training = TrainConfig(teacher_hflip=True)
    with pytest.raises(ValueError, match="teacher_hflip says what a teacher sees"):
        quantization.QuantizeConfig(training=training)
    assert quantization.QuantizeConfig(training=training, float_teacher=True).float_teacher


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((8, 1, 14, 14), np.uint8)}, "does not take spike values of shape"),
        ({"classes": tuple("abcdefghijk")}, r"it must give one spike value per class, \(1, 11\)"),
    ],
)
def test_retraining_is_refused_before_the_folder_is_touched(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    images = ImageSet(
        np.zeros((8, 1, 28, 28), np.uint8), np.arange(8) % 10, "mine", tuple("0123456789")
    )
    images = dataclasses.replace(images, **change)
    with pytest.raises(ValueError, match=message):
        quantization.quantize(
            mnist_scnn(pretrained=True),
            quantization.QuantizeConfig(bits=8, epochs=1),
            tmp_path,
            data=(images, images),
        )
    assert not list(tmp_path.glob("quantize.json"))


def test_modules_with_a_forward_of_their_own_are_not_skipped() -> None:
    class Late(nn.Identity):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * input

    model = nn.Sequential(nn.Flatten(), SpikingLinear(64, 3), Late())
    with pytest.raises(TypeError, match="a Late, has a forward method of its own"):
        quantization.convert(model, bits=8, time_scales=[100.0, 100.0])


def test_folding_keeps_what_is_not_trained() -> None:
    model = in_pairs()
    model.conv.weight.requires_grad_(False)
    folded = fold_horizons_(model)
    frozen = [not layer.weight.requires_grad for layer in spiking_layers(folded).values()]
    assert frozen == [True, False]
    again = unfold_horizons_(folded)
    assert not again.conv.weight.requires_grad
    # A reference in front of something else is nothing that folding made.
    other = nn.Sequential(nn.Sequential(ReferenceSpikes(0.1), nn.Flatten()))
    with pytest.raises(ValueError, match="has no layer that fold_horizons_ made"):
        unfold_horizons_(other)


def test_views_are_images() -> None:
    """Pictures with their channels last, seen the other way round."""
    pictures = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3)).astype(np.uint8)
    images = ImageSet(pictures.transpose(0, 3, 1, 2), np.arange(6)[::-1] % 2, "mine", ("a", "b"))
    assert images.images.flags.c_contiguous
    assert images.labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert torch.equal(images[2][0], torch.from_numpy(pictures[2]).permute(2, 0, 1))


def sorted_digits() -> ImageSet:
    images = load("digits")
    order = np.argsort(images.labels, kind="stable")
    return dataclasses.replace(images, images=images.images[order], labels=images.labels[order])


def test_some_images_are_of_all_classes() -> None:
    images = sorted_digits()
    assert set(images.some(100).labels.tolist()) == set(range(10))
    assert len(images.some(100)) == 100
    assert images.some(10**6) is images


def test_images_held_out_leave_every_class(tmp_path: Path) -> None:
    config = TrainConfig(dataset="digits", epochs=1, val_images=200)
    with pytest.raises(ValueError, match="all of class 9: shuffle the images first"):
        train(config, tmp_path / "run", data=sorted_digits())
