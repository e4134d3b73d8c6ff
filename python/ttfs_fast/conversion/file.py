"""Converted networks as safetensors files, with the connections of their modules."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ttfs_fast._extras import require
from ttfs_fast._files import replace_file
from ttfs_fast._untrusted import parse_json, read_metadata, read_safetensors
from ttfs_fast.conversion.network import (
    INPUT,
    Concatenate,
    ConvertedNetwork,
    IntensitiesOfSpikes,
    LeadEncoding,
)
from ttfs_fast.horizon import HorizonConv2d, HorizonLinear
from ttfs_fast.layers import storable
from ttfs_fast.nn import Delay, SpikingMaxPool2d

KEY = "converted"
"""The entry of a file's metadata that holds the modules, as JSON."""

VERSION = 1

_FIELDS: dict[type[nn.Module], tuple[str, ...]] = {
    IntensitiesOfSpikes: ("mean", "deviation"),
    LeadEncoding: ("low", "high", "spread"),
    HorizonConv2d: (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "t_in",
        "weight_sum",
        "spread",
    ),
    HorizonLinear: ("in_features", "out_features", "t_in", "weight_sum", "spread"),
    SpikingMaxPool2d: ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    Delay: ("num_features",),
    nn.ConstantPad2d: ("padding", "value"),
    nn.Flatten: (),
    Concatenate: (),
}
"""How to make each module; its weights are tensors of the file."""

_KINDS = {kind.__name__: kind for kind in _FIELDS}


_UNWRITTEN: dict[str, Any] = {
    "normalization": "none",
    "positions": 1,
    "pool": (1, 1),
    "pool_stride": (1, 1),
    "mirror": None,
}
"""Fields of layers with a horizon that a file does not hold: a converted network has these."""


def save_converted(
    model: nn.Module, path: str | Path, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a converted network; an existing file is replaced in one step.

    Parameters
    ----------
    model : Sequential or ConvertedNetwork
        As `from_relu` gives it, with or without an `IntensitiesOfSpikes` before it; not folded.
    path : str or Path
        The file to write, ``NAME.safetensors``.
    metadata : mapping of str to str, optional
        More entries of the file's metadata.

    Raises
    ------
    TypeError
        If it holds another module; the message names it.
    """
    steps = []
    for name, module, inputs in _steps(model):
        fields = _FIELDS.get(type(module))
        if fields is None or any(getattr(module, k, v) != v for k, v in _UNWRITTEN.items()):
            raise TypeError(
                f"{name or type(model).__name__} ({type(module).__name__}) is no module of a "
                "converted network as from_relu gives it; save it before you fold or change it"
            )
        values = {key: _json(getattr(module, key)) for key in fields}
        steps.append({"name": name, "kind": type(module).__name__, "inputs": inputs} | values)
    state = storable(model)
    dtypes = {str(p.dtype).removeprefix("torch.") for p in model.parameters()}
    if len(dtypes) != 1:
        raise TypeError(f"the network must have one type of numbers; got {', '.join(dtypes)}")
    text = json.dumps({"version": VERSION, "dtype": dtypes.pop(), "steps": steps})
    entries = {"format": "pt", **(metadata or {}), KEY: text}
    path = Path(path)
    replace_file(path, require("safetensors.torch", "train").save(state, entries))
    return path


def is_converted(path: str | Path) -> bool:
    """Whether a safetensors file holds a converted network."""
    return KEY in read_metadata(path)


def load_converted(path: str | Path) -> nn.Sequential | ConvertedNetwork:
    """The network of a file that `save_converted` wrote, in evaluation; nothing is unpickled.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it does not hold such a network.
    """
    path = Path(path)
    text = read_metadata(path).get(KEY)
    if text is None:
        raise ValueError(f"{path} does not hold a converted network; ttfs-fast convert writes one")
    state = read_safetensors(path)
    try:
        found = parse_json(text)
        if found["version"] != VERSION:
            raise ValueError(f"its version is {found['version']}, this package reads {VERSION}")
        dtype = {"float32": torch.float32, "float64": torch.float64}[found["dtype"]]
        steps = []
        # Made on the meta device: a file may describe a network that is too large for any memory.
        with torch.device("meta"):
            for step in found["steps"]:
                options = {k: v for k, v in step.items() if k not in ("name", "kind", "inputs")}
                steps.append((step["name"], _made(step["kind"], options, dtype), step["inputs"]))
            network = _network(steps)
        network.load_state_dict(state, assign=True)
        wrong = [n for n, value in state.items() if value.dtype not in (dtype, torch.int64)]
        if wrong:
            raise ValueError(f"{wrong[0]} is {state[wrong[0]].dtype}")
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path} does not hold a converted network: {error}") from error
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    for module in network.modules():
        if isinstance(module, Delay):
            module.requires_grad_(False)
    return network.eval()


def _steps(model: nn.Module) -> list[tuple[str, nn.Module, list[str]]]:
    if isinstance(model, ConvertedNetwork):
        return [(name, getattr(model, name), list(model.inputs[name])) for name in model.inputs]
    if not isinstance(model, nn.Sequential):
        raise TypeError(
            f"a converted network is a Sequential or a ConvertedNetwork; got {type(model).__name__}"
        )
    return [(name, module, []) for name, module in model.named_children()]


def _network(
    steps: list[tuple[str, nn.Module, list[str]]],
) -> nn.Sequential | ConvertedNetwork:
    if not steps:
        raise ValueError("it has no modules")
    if any(inputs for _, _, inputs in steps):
        return ConvertedNetwork((name, module, tuple(inputs)) for name, module, inputs in steps)
    network = nn.Sequential()
    for name, module, _ in steps:
        network.add_module(name, module)
    return network


def _made(kind: Any, options: dict[str, Any], dtype: torch.dtype) -> nn.Module:
    found = _KINDS.get(kind)
    if found is None or set(options) != set(_FIELDS[found]):
        raise ValueError(f"it has a step of kind {kind!r} with {', '.join(options) or 'nothing'}")
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    if issubclass(found, HorizonConv2d | HorizonLinear):
        options |= {"normalization": "none", "dtype": dtype}
    if found is Delay:
        options["dtype"] = dtype
    if found is nn.ConstantPad2d and options["value"] is None:
        options["value"] = math.inf
    made: nn.Module = found(**options)
    return made


def _json(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.flatten().tolist()
    if isinstance(value, float) and math.isinf(value):
        return None
    return list(value) if isinstance(value, tuple) else value


def with_intensities(
    network: nn.Sequential | ConvertedNetwork, front: IntensitiesOfSpikes
) -> nn.Sequential | ConvertedNetwork:
    """The same network, fed with spike values of pixels, as the commands feed networks."""
    if isinstance(network, nn.Sequential):
        return nn.Sequential(front, *network).eval()
    name = "intensities"
    steps: list[tuple[str, nn.Module, tuple[str, ...]]] = [(name, front, (INPUT,))]
    for step, inputs in network.inputs.items():
        renamed = tuple(name if one == INPUT else one for one in inputs)
        steps.append((step, getattr(network, step), renamed))
    return ConvertedNetwork(steps).eval()
