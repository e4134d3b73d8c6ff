"""Networks of users: found by name or passed as objects, and checked before training."""

import copy
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils import parametrize

from ttfs_fast.analysis.horizons import set_horizons_
from ttfs_fast.horizon import HorizonConv2d, HorizonLinear, horizon_layers
from ttfs_fast.layers import evaluating, find_neurons, find_spiking_layers, has_reference_spikes
from ttfs_fast.optim.centering import fold_, is_centered
from ttfs_fast.training.config import GIVEN, TrainConfig, is_factory, is_given

Factory = Callable[..., Any]
OwnModel = nn.Module | Factory | str
"""A network, its factory, or the factory's name, package.module:factory."""


def name_of(model: OwnModel) -> str:
    """Name of a user's network in a configuration.

    An importable function or class gets the name package.module:name, by which it is found again.
    Other objects get a descriptive name only.

    Raises
    ------
    TypeError, ValueError
        If it is not a module, a callable or a name of one.
    """
    if isinstance(model, str):
        if not is_factory(model):
            raise ValueError(f"model must be named as package.module:factory; got {model!r}")
        return model
    if isinstance(model, nn.Module):
        return f"{GIVEN}{type(model).__module__}.{type(model).__qualname__}"
    if not callable(model):
        raise TypeError(
            "model must be a torch.nn.Module, a function that makes one, or its name as "
            f"package.module:factory; got {type(model).__name__}"
        )
    module, attribute = getattr(model, "__module__", None), getattr(model, "__qualname__", "")
    name = f"{module}:{attribute}"
    if module != "__main__" and is_factory(name):
        try:
            if find_factory(name) is model:
                return name
        except ValueError:
            pass
    return f"{GIVEN}{module}.{attribute or type(model).__name__}"


def find_factory(name: str) -> Factory:
    """The function or class that package.module:factory names.

    The current folder is searched only if Python, or the command line's ``--model``, has put it on
    ``sys.path``.

    Raises
    ------
    ValueError
        If it cannot be imported, or is not callable; the message states the cause.
    """
    module_name, _, attribute = name.partition(":")
    if module_name.partition(".")[0] in sys.stdlib_module_names:
        raise ValueError(
            f"the network {name} is in a module of Python's own, which holds none: give it as "
            "package.module:factory"
        )
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises
        raise ValueError(
            f"the network {name}: {module_name} cannot be imported ({type(error).__name__}: "
            f"{error}). Install it, put its folder into PYTHONPATH, or, where it lies in the "
            f"current folder, name it on the command line with --model {name}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"the network {name}: {module_name} has no {attribute}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(
            f"the network {name}: {attribute} is a {type(found).__name__}; it must be a function "
            "or class that makes a torch.nn.Module"
        )
    factory: Factory = found
    return factory


def own_network(
    config: TrainConfig,
    channels: int,
    image_size: tuple[int, int],
    classes: int,
    given: OwnModel | None = None,
) -> nn.Module:
    """The user's network of a configuration, checked, in its state before training.

    Parameters
    ----------
    config : TrainConfig
        Names it, its encoding and its horizons.
    channels, image_size, classes
        Channels of spikes, rows and columns of an image, and classes. A factory gets those of
        ``in_channels``, ``image_size``, ``classes`` and ``encoding`` that its signature names.
    given : Module, callable or str, optional
        The network, if it cannot be found by its name. A module is copied.

    Raises
    ------
    TypeError, ValueError
        If it cannot be made or trained; the message names the module.
    """
    if given is not None and (other := name_of(given)) != config.model:
        raise ValueError(f"the network is {config.model}; got {other}: give the one it was")
    if isinstance(given, nn.Module):
        model = copy.deepcopy(given)
    else:
        if given is None and is_given(config.model):
            raise ValueError(
                f"the network, {config.model.removeprefix(GIVEN)}, was given to train() as an "
                "object, and no name finds it again: give it as model=, or train one that is named "
                "as package.module:factory"
            )
        factory = given if callable(given) else find_factory(config.model)
        offered = {
            "in_channels": channels,
            "image_size": image_size,
            "classes": classes,
            "encoding": config.encoding,
        }
        model = _made(factory, config.model, offered)
    own = getattr(model, "encoding", None)
    if own is not None and own != config.encoding:
        raise ValueError(
            f"{config.model} has the encoding {own}, the settings say {config.encoding}: give the "
            "settings alpha, polarity and standardize that it needs, or set no encoding"
        )
    model.encoding = config.encoding  # type: ignore[assignment]
    _check_layers(model, config)
    if config.horizons:
        set_horizons_(model, config.horizons)
    elif config.t_max < float("inf"):
        for layer in find_spiking_layers(model).values():
            layer.t_max = config.t_max
    check_output(model, config.model, (channels, *image_size), classes)
    return model


def description_of(model: nn.Module) -> str:
    """The modules of a network as text, which must not change between training and use.

    Weights of a fixed sum count as plain weights.
    """
    if is_centered(model):
        model = fold_(copy.deepcopy(model))
    return repr(model)


def check_description(found: str, recorded: str | None, what: str) -> None:
    """Raise ValueError if a network is no longer made as it was recorded; see `description_of`."""
    if recorded is None or found == recorded:
        return
    before, now = recorded.splitlines(), found.splitlines()
    place = next((i for i, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), None)
    was, is_now = (
        (before[place].strip(), now[place].strip())
        if place is not None
        else (f"{len(before)} lines long", f"{len(now)} lines long")
    )
    raise ValueError(
        f"{what} is of a network that was made otherwise: it was {was}, and is now {is_now}. "
        "Give the network that it was trained as"
    )


def _made(factory: Factory, name: str, offered: dict[str, Any]) -> nn.Module:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # something built in
        parameters = ()  # type: ignore[assignment]
    arguments = {p.name: offered[p.name] for p in parameters if p.name in offered}
    missing = [
        p.name
        for p in parameters
        if p.name not in offered
        and p.default is p.empty
        and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    if missing:
        raise ValueError(
            f"the network {name} needs {', '.join(missing)}; a factory is given "
            f"{', '.join(offered)}, those of them that it takes: give other parameters defaults"
        )
    try:
        model = factory(**arguments)
    except Exception as error:  # whatever the user's code raises
        raise ValueError(
            f"the network {name} cannot be made: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"the network {name}: it gives a {type(model).__name__}; it must give a torch.nn.Module"
        )
    return model


def _check_layers(model: nn.Module, config: TrainConfig) -> None:
    """Raise an error for modules that cannot be trained, or not reproducibly."""
    name = config.model
    if isinstance(model, HorizonConv2d | HorizonLinear):
        raise ValueError(f"{name} is a single layer with a horizon; put it into an nn.Sequential")
    layers = find_neurons(model)
    if not layers:
        raise ValueError(
            f"{name} has no spiking layer: build it of ttfs_fast.nn.SpikingLinear, SpikingConv2d, "
            "or of ttfs_fast.horizon's HorizonLinear and HorizonConv2d"
        )
    if has_reference_spikes(model):
        raise ValueError(
            f"{name} has layers with a horizon that are folded (ReferenceSpikes): train it unfolded"
        )
    with_horizon = [n for n, m in layers.items() if isinstance(m, HorizonConv2d | HorizonLinear)]
    wanted = config.neuron == "horizon"
    others = [n for n in layers if (n in with_horizon) is not wanted]
    if others:
        raise ValueError(
            f"{name}: with neuron={config.neuron} "
            f"{'every' if wanted else 'no'} layer has a horizon, unlike {others[0]}: "
            + ("give neuron=horizon" if len(with_horizon) == len(layers) else "do not mix them")
        )
    if wanted:
        earliest = min(horizon_layers(model).values(), key=lambda layer: layer.t_in)
        if earliest.t_in < config.alpha * (1 - 1e-6):
            raise ValueError(
                f"{name}: pixels spike until alpha={config.alpha:g}, but its first layer has "
                f"t_in={earliest.t_in:g}, when it takes all later inputs as spikes: give "
                f"alpha={earliest.t_in:g}, or the layer t_in={config.alpha:g}"
            )
    for place, module in model.named_modules():
        if parametrize.is_parametrized(module):
            raise ValueError(
                f"{name}: {place} has parametrized weights; give the network plain, and for "
                "weights of a fixed sum the setting weight_sum"
            )
        if isinstance(module, _DropoutNd | _BatchNorm):
            raise ValueError(
                f"{name}: {place} is a {type(module).__name__}, which has no meaning for "
                "spike values: leave it out"
            )
    dtype = torch.get_default_dtype()
    for place, parameter in model.named_parameters():
        if parameter.dtype != dtype:
            raise ValueError(f"{name}: {place} is {parameter.dtype}; training computes in {dtype}")


def check_output(model: nn.Module, name: str, shape: tuple[int, int, int], classes: int) -> None:
    """Run one image through; raise ValueError unless it gives a spike value per class."""
    first = next(model.parameters(), torch.empty(0))
    image = torch.ones(1, *shape, dtype=first.dtype, device=first.device)
    try:
        with evaluating(model), torch.random.fork_rng(devices=[]):
            output = model(image)
    except Exception as error:  # whatever the user's code raises
        raise ValueError(
            f"{name} does not take spike values of shape (N, {', '.join(map(str, shape))}) "
            f"as these images need: {type(error).__name__}: {error}"
        ) from error
    found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if found != (1, classes):
        raise ValueError(
            f"{name} gives {found} for an image; it must give one spike value per class, "
            f"(1, {classes})"
        )
