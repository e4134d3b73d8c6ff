"""Integer networks with horizons: leads, their widening, errors."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ttfs_fast
from support.machine import use_instruction_set
from ttfs_fast.encoding import Encoding, Polarity, encode
from ttfs_fast.horizon import (
    HorizonConv2d,
    HorizonLinear,
    ReferenceSpikes,
    fold_horizons_,
    horizon_layers,
    unfold_horizons_,
)
from ttfs_fast.models.networks import FirstSpike
from ttfs_fast.nn import SpikingConv2d, SpikingLinear, SpikingMaxPool2d
from ttfs_fast.quantization import (
    IntegerNetwork,
    calibrate_time_scales,
    convert,
    dequantize_,
    freeze_codes_,
    prepare_qat_,
)
from ttfs_fast.quantization.fake import quantizer_of, weight_codes

ALPHA = 0.01
ENCODING = Encoding(ALPHA)
SIZE = (2, 14, 14)


def pixels(count: int = 6) -> np.ndarray:
    """Smooth images, so that pooled and unpooled maps hold early and late spikes."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, SIZE[0], 7, 7))
    return coarse.repeat(2, axis=2).repeat(2, axis=3).astype(np.uint8)


def folded(weight_sum: float = 2.0, polarity: Polarity = "bright-first") -> nn.Sequential:
    """Padding, a pool within a layer and one behind it, a stride, a global pool; not trained."""
    torch.manual_seed(1)
    options: dict[str, Any] = {"weight_sum": weight_sum, "spread": 0.001}
    channels = 2 * SIZE[0] if polarity == "both" else SIZE[0]
    first = HorizonConv2d(channels, 12, 3, padding=1, pool=2, t_in=ALPHA, **options)
    second = HorizonConv2d(12, 20, (2, 3), 2, (1, 0), t_in=first.t_out, **options)
    third = HorizonConv2d(20, 70, 2, t_in=second.t_out, **options)
    last = HorizonLinear(70, 5, t_in=third.t_out, normalization="none", **options)
    model = nn.Sequential(
        first,
        nn.Dropout(0.0),
        second,
        SpikingMaxPool2d(2, 1),
        third,
        FirstSpike(),
        nn.Flatten(),
        last,
    )
    for layer in (first, second, third, last):
        nn.init.normal_(layer.shift, std=0.3)
    model(Encoding(ALPHA, polarity)(torch.from_numpy(pixels())))
    return fold_horizons_(model.eval())


def leads_of(model: nn.Sequential, values: Tensor) -> list[Tensor]:
    """Leads of the outputs of every layer that an integer network has, float64."""
    leads = []
    for module in model:
        parts = list(module) if isinstance(module, nn.Sequential) else [module]
        for part in parts:
            if isinstance(part, ReferenceSpikes):
                horizon = float(part.reference)
            values = part(values)
            if isinstance(part, SpikingConv2d | SpikingLinear):
                sums = part.weight.detach().double().flatten(1).sum(1) + part.bias.detach().double()
                m = float(sums.mean())
                horizon *= m / (m - 1)
            if not isinstance(part, ReferenceSpikes | nn.Dropout | nn.Flatten):
                leads.append(1 - values.detach().double() / horizon)
    return leads


@pytest.mark.parametrize(
    ("weight_sum", "polarity"),
    [(2.0, "bright-first"), (2.5, "bright-first"), (4.0, "bright-first"), (2.0, "both")],
)
def test_integer_leads_are_the_float_leads_widened(weight_sum: float, polarity: Polarity) -> None:
    model, images = folded(weight_sum, polarity), pixels()
    encoding = Encoding(ALPHA, polarity)
    widening = [10.0, 20.0, 15.0, 10.0, 5.0]
    net = convert(model, 8, input_size=SIZE, images=images, widening=widening, encoding=encoding)
    values = encoding(torch.from_numpy(images))
    factor = widening[0]
    assert (
        np.abs(
            1 - net.encode(images) / 49152 - factor * (1 - values.numpy() / math.exp(ALPHA))
        ).max()
        < 1e-4
    )
    factors = iter(widening[1:])
    layers = zip(net.layer_infos(), net.layers(images), leads_of(model, values), strict=True)
    for info, codes, leads in layers:
        if info.kind == "neurons":
            factor = next(factors)
            assert info.reference_code == 49152
        spikes = leads.numpy().reshape(codes.shape)
        in_time = np.isfinite(spikes)
        found = (1 - codes / 49152.0) / factor
        both = in_time & (codes < net.silent)
        assert both.mean() > 0.1
        error = found[both] - spikes[both]
        assert error.std() < 0.06 * spikes[both].std()
        assert abs(error.mean()) < 0.02 * spikes[both].std()
        # Who is late is decided alike but near the horizon.
        other = in_time != (codes < net.silent)
        assert other.mean() < 0.03
        assert not other[in_time][spikes[in_time] > 0.2 * spikes[both].std()].any()
    assert np.array_equal(net.classify(images), leads.argmax(1).numpy())


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("time_bits", [16, 8])
def test_engine_reference_and_file_agree(bits: int, time_bits: int) -> None:
    model, images = folded(), pixels(3)
    net = convert(model, bits, time_bits, input_size=SIZE, encoding=ENCODING, images=images)
    again = IntegerNetwork.from_bytes(net.to_bytes())
    assert again.to_bytes() == net.to_bytes()
    expected, codes = [], net.encode(images)
    for i in range(len(net.layer_infos())):
        codes = net.reference(i, codes)
        expected.append(codes)
        assert (codes < net.silent).mean() > 0.1
    for name in ttfs_fast.instruction_sets():
        with use_instruction_set(name):
            for threads in (1, 2, 3):
                for out, want in zip(again.layers(images, threads=threads), expected, strict=True):
                    assert np.array_equal(out, want), (name, threads)


@pytest.mark.parametrize(
    ("time_bits", "spread", "places"),
    # Pixels and convolutions; behind the pixels, wide leads meet early spikes.
    [(16, 0.01, (0, 1, 3, 5)), (8, 0.1, (0,))],
)
def test_leads_are_widened_to_what_codes_resolve(
    time_bits: int, spread: float, places: tuple[int, ...]
) -> None:
    model, images = folded(), pixels()
    net = convert(model, 8, time_bits, input_size=SIZE, encoding=ENCODING, images=images)
    layers = [net.encode(images), *net.layers(images)]
    horizon = net.layer_infos()[0].reference_code
    for codes in (layers[place] for place in places):
        leads = 1 - codes[codes < horizon] / horizon
        assert math.sqrt(np.square(leads).mean()) == pytest.approx(spread, rel=0.15)
    model[1].p = 0.5
    model.train()  # a dropout is left out all the same
    dropped = convert(model, 8, time_bits, input_size=SIZE, encoding=ENCODING, images=images)
    assert dropped.to_bytes() == net.to_bytes()
    assert model.training
    one = convert(model, input_size=SIZE, encoding=ENCODING, images=images, widening=10.0)
    several = convert(model, input_size=SIZE, encoding=ENCODING, images=images, widening=[10.0] * 5)
    assert one.to_bytes() == several.to_bytes()


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_rounded_weights_do_not_shift_the_answer(bits: int) -> None:
    """The mean lead of each class on the images is that of the float network."""
    model, images = folded(), pixels()
    net = convert(model, bits, input_size=SIZE, encoding=ENCODING, images=images, widening=10.0)
    leads = leads_of(model, ENCODING(torch.from_numpy(images)))[-1].numpy() * 10
    found = 1 - net(images) / 49152
    assert np.abs((found - leads).mean(axis=0)).max() < 0.005 * leads.std()


def test_neurons_after_their_own_horizon_are_silent() -> None:
    """A layer whose t_max comes before the output horizon: short leads are no spikes."""
    model, images = folded(), pixels()
    layer = model[0][1]
    codes = []
    for lead in (0.0, 0.0003):
        layer.t_max = math.log(float(model[2][0].reference) * (1 - lead))
        net = convert(model, input_size=SIZE, encoding=ENCODING, images=images, widening=10.0)
        codes.append(net.layers(images)[0])
    early = codes[0] <= round(49152 * 0.997)
    assert 0.1 < early.mean() < 0.9
    assert np.array_equal(codes[1], np.where(early, codes[0], net.silent))
    layer.t_max = 0.0
    with pytest.raises(ValueError, match="layer 0, t_max=0, comes before the first spike code"):
        convert(model, input_size=SIZE, encoding=ENCODING, images=images, widening=10.0)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("weight_sum", [2.0, 2.6])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_codes_of_training_are_the_codes_of_the_file(
    bits: int, weight_sum: float, frozen: bool
) -> None:
    model, images = unfold_horizons_(folded(weight_sum)), pixels()
    prepare_qat_(model, bits)
    if frozen:
        freeze_codes_(model)
        with torch.no_grad():
            for layer in horizon_layers(model).values():
                quantizer_of(layer).log_theta.add_(0.1)  # type: ignore[union-attr]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    net = convert(model, input_size=SIZE, images=images, encoding=ENCODING)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    neurons = [i for i, info in enumerate(net.layer_infos()) if info.kind == "neurons"]
    for place, layer in zip(neurons, horizon_layers(model).values(), strict=True):
        theta = quantizer_of(layer).theta.view(-1, *[1] * (layer.weight.dim() - 1))
        codes = weight_codes(layer.weight.detach() * theta, bits)
        assert codes.unique().numel() >= {8: 30, 4: 8, 2: 3}[bits]
        found = net.weight_codes(place).reshape(codes.shape)
        assert np.array_equal(found, codes.numpy())
    values = encode(torch.from_numpy(images), alpha=ALPHA)
    answers = (1 - model(values).detach() / math.exp(model[-1].t_out)).numpy()
    codes = net(images).astype(float)
    for one, other in zip(-codes, answers, strict=True):
        assert np.corrcoef(one, other)[0, 1] > 0.99


def test_prepare_qat_rejects_unsupported_networks() -> None:
    with pytest.raises(ValueError, match=r"0.0 belongs to a folded layer .*unfold_horizons_"):
        prepare_qat_(folded())
    options = {"t_in": 0.1, "normalization": "none"}
    for layer in (
        HorizonLinear(4, 3, positions=2, **options),
        HorizonLinear(4, 3, mirror="pairs", **options),
        HorizonConv2d(4, 6, 3, mirror="pairs", **options),
    ):
        with pytest.raises(ValueError, match=r"ties weights \(mirror or pos.*unfold_horizons_"):
            prepare_qat_(layer)
    with pytest.raises(ValueError, match="HorizonLinear normalizes over batches: call"):
        prepare_qat_(HorizonLinear(3, 2, t_in=ALPHA))
    model, images = prepare_qat_(unfold_horizons_(folded())), pixels()
    options: dict[str, Any] = {"input_size": SIZE, "images": images, "encoding": ENCODING}
    with pytest.raises(ValueError, match="trained with weights of 8 bits; leave bits out, or"):
        convert(model, 4, **options)
    first = model[0]
    dequantize_(first)
    with pytest.raises(ValueError, match=r"^0 is not prepared for few bits, and other layers are"):
        convert(model, **options)


def test_conversion_rejects_invalid_horizons() -> None:
    def refused(model: nn.Module, message: str, **options: Any) -> None:
        with pytest.raises((TypeError, ValueError), match=message):
            convert(
                model, **{"input_size": SIZE, "encoding": ENCODING, "images": pixels(2)} | options
            )

    model = folded()
    refused(model, "is calibrated on images: give convert some hundred, and no", images=None)
    refused(model, "and no time_scales", time_scales=0.1)
    refused(model, "widening holds 2 numbers; give one, or 5", widening=[1.0, 2.0])
    refused(model, "widening must be a positive number; got 0", widening=0.0)
    refused(model, "has no spike code: give a smaller widening", widening=200.0)
    refused(nn.Sequential(SpikingConv2d(2, 1, 14)), "images and widening are for networks with")
    refused(nn.Sequential(HorizonConv2d(2, 1, 14, t_in=ALPHA)), "fold_horizons_ on the network")
    refused(nn.Sequential(ReferenceSpikes(ALPHA)), "directly before every layer of neurons")
    refused(nn.Sequential(*model[:4], SpikingConv2d(20, 5, 2)), "directly before every layer")

    for wrong in (pixels(0), pixels(2)[:, :1], pixels(2).astype(np.float32)):
        refused(model, "they must be uint8 pixels, .N, 2, 14, 14.", images=wrong)

    broken = folded()
    with torch.no_grad():
        broken[0][1].weight[3, 1, 0, 0] += 0.01
    refused(broken, "neurons of layer 0 sum to 2 to 2.01")
    broken = folded()
    broken[2][0].reference *= 1.001
    refused(broken, "output horizon of layer 0 is z = 2.02.*next layer spike at z = 2.02")
    broken = folded()
    broken[0][1].padding = (1, 1)
    refused(broken, "layer 0 has a horizon and groups=1, padding=.1, 1.")
    broken = folded()
    with torch.no_grad():
        broken[0][1].weight[3, 2, 0, 0] = math.nan
    refused(broken, "layer 0 has a weight that is NaN")

    with pytest.raises(ValueError, match="no time scales to choose; convert calibrates it"):
        calibrate_time_scales(model, pixels(2), encoding=ENCODING)


def test_global_pool_of_an_ordinary_network() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(SpikingConv2d(2, 8, 3), FirstSpike(), nn.Flatten(), SpikingLinear(8, 5))
    net = convert(model, input_size=SIZE, encoding=Encoding())
    first, pooled, _ = net.layers(pixels())
    assert pooled.shape == (6, 8, 1, 1)
    assert np.array_equal(pooled, first.min(axis=(2, 3), keepdims=True))
    assert (pooled < net.silent).any()
