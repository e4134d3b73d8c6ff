"""Layers as nodes of a graph: each its weights, then its neurons."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ttfs_fast.geometry import conv_axis, pool_axis
from ttfs_fast.nn import SpikingConv2d, SpikingLinear, SpikingMaxPool2d

CARRIED = (SpikingConv2d, SpikingLinear, SpikingMaxPool2d, nn.Flatten)
NO_LEAK = 1e8
"""The membrane's time constant, in tau."""


def describe(name: str, layer: nn.Module) -> dict[str, Any]:
    """What a layer is, without its weights, in values that JSON knows.

    Raises
    ------
    TypeError
        If no graph can carry such a module.
    ValueError
        If it is of a form that no graph can carry.
    """
    if isinstance(layer, SpikingConv2d):
        if layer.groups != 1:
            raise ValueError(f"{name}: a NIR graph carries no groups; groups is {layer.groups}")
        return {
            "name": name,
            "kind": "conv",
            "channels": [layer.in_channels, layer.out_channels],
            "kernel": list(layer.kernel_size),
            "stride": list(layer.stride),
            "padding": layer.padding if isinstance(layer.padding, str) else list(layer.padding),
            "dilation": list(layer.dilation),
            "bias": layer.bias is not None,
        }
    if isinstance(layer, SpikingLinear):
        return {
            "name": name,
            "kind": "linear",
            "features": [layer.in_features, layer.out_features],
            "bias": layer.bias is not None,
        }
    if isinstance(layer, SpikingMaxPool2d):
        return {
            "name": name,
            "kind": "pool",
            "kernel": _both(layer.kernel_size),
            "stride": _both(layer.stride),
            "padding": _both(layer.padding),
            "dilation": _both(layer.dilation),
            "ceil_mode": layer.ceil_mode,
        }
    if isinstance(layer, nn.Flatten):
        if (layer.start_dim, layer.end_dim) != (1, -1):
            raise ValueError(f"{name}: only Flatten() of all that follows the batch is carried")
        return {"name": name, "kind": "flatten"}
    raise TypeError(
        f"{name} is a {type(layer).__name__}, which a NIR graph cannot carry; it carries a "
        f"Sequential of {', '.join(kind.__name__ for kind in CARRIED)}"
    )


def build(facts: Mapping[str, Any], t_max: float) -> nn.Module:
    """The layer that `describe` described, on the meta device: its weights are yet to be set."""
    like: dict[str, Any] = {"t_max": t_max, "device": "meta", "bias": facts.get("bias")}
    if facts["kind"] == "conv":
        sizes = [facts[key] for key in ("kernel", "stride", "padding", "dilation")]
        return SpikingConv2d(*facts["channels"], *sizes, **like)
    if facts["kind"] == "linear":
        return SpikingLinear(*facts["features"], **like)
    if facts["kind"] == "pool":
        sizes = [facts[key] for key in ("kernel", "stride", "padding", "dilation", "ceil_mode")]
        return SpikingMaxPool2d(*sizes)
    if facts["kind"] == "flatten":
        return nn.Flatten()
    raise ValueError(f"a layer of the kind {facts['kind']!r} is not known")


@dataclass(frozen=True)
class Window:
    """A window as NIR can say it: square, without holes, the same padding on either side.

    Attributes
    ----------
    size : int
        Its rows and columns. What the layer does not have of them gets weight 0.
    padding : tuple of int
        Rows and columns of silence on either side.
    front : tuple of int
        Rows and columns of weight 0 before the layer's own.
    outputs : tuple of int
        Rows and columns of the output.
    step : tuple of int
        The layer's dilation: where its own taps stand.
    """

    size: int
    padding: tuple[int, int]
    front: tuple[int, int]
    outputs: tuple[int, int]
    step: tuple[int, int]

    @classmethod
    def of(cls, facts: Mapping[str, Any], size: tuple[int, int]) -> "Window":
        """The window of a described convolution or pool on a map of the given size."""
        least, most, padding, front, outputs = [], [], [], [], []
        for axis in range(2):
            n, k, s, d = size[axis], *(facts[x][axis] for x in ("kernel", "stride", "dilation"))
            span = d * (k - 1) + 1
            if facts["kind"] == "pool":
                before = facts["padding"][axis]
                out = pool_axis(n, span, s, before, facts["ceil_mode"])
            else:
                given = facts["padding"]
                out, before = conv_axis(
                    n, k, s, given if isinstance(given, str) else given[axis], d
                )
            if out < 1:
                raise ValueError(f"{facts['name']}: a map of {size} is too small for its window")
            # Padding that is longer at the end becomes longer at both ends, with taps of weight 0.
            taps = max(0, span + (out - 1) * s - n - 2 * before)
            longest = n + 2 * (before + taps) - (out - 1) * s
            least.append(max(taps + span, longest - s + 1))
            most.append(longest)
            padding.append(before + taps)
            front.append(taps)
            outputs.append(out)
            if (out - 1) * s >= n:
                raise ValueError(
                    f"{facts['name']}: the padding is so wide that some outputs see nothing of the "
                    "map; a NIR graph cannot carry that"
                )
        if max(least) > min(most) or max(padding) >= max(least):
            raise ValueError(
                f"{facts['name']}: no square window with equal padding on both sides stands for a "
                f"kernel of {facts['kernel']} with padding {facts['padding']} on a map of {size}, "
                "and NIR knows no other"
            )
        return cls(
            max(least),
            (padding[0], padding[1]),
            (front[0], front[1]),
            (outputs[0], outputs[1]),
            (facts["dilation"][0], facts["dilation"][1]),
        )

    def widen(self, weight: NDArray[Any]) -> NDArray[Any]:
        """Weights (outputs, inputs, rows, columns) with zeros around and between them."""
        wide = np.zeros((*weight.shape[:2], self.size, self.size), weight.dtype)
        wide[self._own(weight.shape[2:])] = weight
        return wide

    def narrow(self, wide: NDArray[Any], kernel: tuple[int, int]) -> NDArray[Any]:
        """The layer's own among the weights that `widen` gave."""
        own: NDArray[Any] = wide[self._own(kernel)]
        return own

    def _own(self, kernel: tuple[int, ...]) -> tuple[Any, ...]:
        taps = [
            slice(f, f + d * (k - 1) + 1, d)
            for f, k, d in zip(self.front, kernel, self.step, strict=True)
        ]
        return (..., *taps)


class Builder:
    """Adds layers to the nodes of a graph.

    Parameters
    ----------
    nir : module
        The package nir.
    shape : tuple of int
        Of one input of the model.
    tau, dt : float
        Synaptic time constant and step, in seconds.
    relay : bool
        Whether the input has one more channel (or feature), the spike of the bias.
    """

    def __init__(
        self, nir: Any, shape: tuple[int, ...], tau: float, dt: float, *, relay: bool
    ) -> None:
        self._nir, self._tau, self._dt = nir, tau, dt
        self.shape = shape
        self.relays = relay * math.prod(shape[1:])  # entries at the end that carry the bias's spike
        self.nodes: dict[str, Any] = {}
        self._add("input", nir.Input(self.wide))

    @property
    def wide(self) -> NDArray[Any]:
        """Shape of the layer's output in the graph, with what carries the bias's spike."""
        if len(self.shape) == 1:
            return np.array([self.shape[0] + self.relays])
        return np.array([self.shape[0] + bool(self.relays), *self.shape[1:]])

    @property
    def at_once(self) -> float:
        """A weight with which one input fires a neuron within a step."""
        return 2 * self._tau / self._dt

    def _add(self, name: str, node: Any) -> None:
        if name in self.nodes:
            raise ValueError(f"two nodes of the graph would be called {name!r}: rename the module")
        self.nodes[name] = node

    def graph(self, metadata: dict[str, str]) -> Any:
        self._add("output", self._nir.Output(self.wide))
        names = list(self.nodes)
        edges = list(itertools.pairwise(names))
        return self._nir.NIRGraph(nodes=self.nodes, edges=edges, metadata=metadata)

    def add(self, facts: Mapping[str, Any], layer: nn.Module, *, relay: bool) -> None:
        """Adds a layer; with `relay`, one more neuron in it hands the bias's spike on."""
        name = facts["name"]
        if facts["kind"] == "flatten":
            self._add(name, self._nir.Flatten(self.wide, start_dim=0, end_dim=-1))
            self.shape = (math.prod(self.shape),)
            return
        weight, bias = parameters(name, layer)
        if facts["kind"] == "linear":
            self._check(name, (facts["features"][0],))
            wide = np.zeros((len(weight) + relay, int(self.wide[0])), weight.dtype)
            wide[: len(weight), : weight.shape[1]] = weight
            if self.relays:
                wide[: len(weight), weight.shape[1]] = bias
            if relay:
                wide[-1, weight.shape[1]] = self.at_once
            self._add(name, self._nir.Linear(wide))
            self.shape = (len(weight),)
        else:
            if facts["kind"] == "pool":
                channels = self.shape[0]
                kernel = np.ones(facts["kernel"], np.float32)
                weight = np.einsum("ij,kl->ijkl", np.eye(channels, dtype=np.float32), kernel)
                weight, bias = self.at_once * weight, np.zeros(channels, np.float32)
            self._check(name, (weight.shape[1], *self.shape[1:]))
            window = Window.of(facts, (self.shape[1], self.shape[2]))
            wide = np.zeros(
                (len(weight) + relay, int(self.wide[0]), *[window.size] * 2), weight.dtype
            )
            wide[: len(weight), : weight.shape[1]] = window.widen(weight)
            # The tap that lies inside the map for every output.
            tap = wide[:, -1, window.padding[0], window.padding[1]]
            if self.relays:
                tap[: len(weight)] = bias
            if relay:
                tap[-1] = self.at_once
            none = np.zeros(len(wide), weight.dtype)
            sizes = (self.shape[1], self.shape[2]), wide, tuple(facts["stride"]), window.padding
            self._add(name, self._nir.Conv2d(*sizes, dilation=(1, 1), groups=1, bias=none))
            self.shape = (len(weight), *window.outputs)
        self.relays = relay * math.prod(self.shape[1:])
        self._add(f"{name}_neurons", self._neurons(wide))

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        if self.shape != shape:
            raise ValueError(f"{name} takes {shape} for each input, and gets {self.shape}")

    def _neurons(self, wide: NDArray[Any]) -> Any:
        """Neurons that integrate and fire once, for the weights that lead to them."""
        rate = self._tau / self._dt
        excitation = np.clip(wide, 0, None).reshape(len(wide), -1).sum(1, dtype=np.float64)
        shape = tuple(self.wide)

        def filled(value: Any) -> NDArray[Any]:
            array = np.asarray(value, np.float32)
            return np.broadcast_to(array.reshape(-1, *[1] * (len(shape) - 1)), shape).copy()

        return self._nir.CubaLIF(
            tau_syn=filled(self._tau),
            tau_mem=filled(NO_LEAK * self._tau),
            r=filled(NO_LEAK * rate),
            v_leak=filled(0),
            v_threshold=filled(rate),
            v_reset=filled(-(excitation + 1) * rate),  # no later input brings it back
            w_in=filled(rate),
        )


def parameters(name: str, layer: nn.Module) -> tuple[NDArray[Any], NDArray[Any]]:
    """A layer's weight and bias, zeros if it has none; nothing of a pool."""
    if not isinstance(layer, SpikingConv2d | SpikingLinear):
        return np.zeros(0), np.zeros(0)
    weight = layer.weight.detach().cpu().numpy()
    bias = np.zeros(len(weight), weight.dtype)
    if layer.bias is not None:
        bias = layer.bias.detach().cpu().numpy()
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ValueError(f"{name} has weights that are not finite")
    return weight, bias


def fill(layer: nn.Module, facts: Mapping[str, Any], node: Any) -> None:
    """Sets the weights of a layer that `build` made to those of its node."""
    if not isinstance(layer, SpikingConv2d | SpikingLinear):
        return
    wide = node.weight
    if isinstance(layer, SpikingLinear):
        inputs, outputs = facts["features"]
        weight, bias = wide[:outputs, :inputs], wide[:outputs, inputs : inputs + 1]
    else:
        inputs, outputs = facts["channels"]
        window = Window.of(facts, tuple(node.input_shape))
        weight = window.narrow(wide[:outputs, :inputs], layer.kernel_size)
        bias = wide[:outputs, inputs:, window.padding[0], window.padding[1]]
    if weight.shape != tuple(layer.weight.shape):
        raise ValueError(f"{facts['name']} has weights of the shape {wide.shape}")
    layer.weight = nn.Parameter(torch.from_numpy(weight.copy()))
    if layer.bias is not None:
        layer.bias = nn.Parameter(torch.from_numpy(bias[:, 0].copy()))


def _both(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else [int(size) for size in value]
