"""Layers as nodes of a graph: each its weights, then its neurons."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ttfs_fast.geometry import conv_axis, pair, pool_axis
from ttfs_fast.horizon import HorizonConv2d, HorizonLinear, ReferenceSpikes
from ttfs_fast.nn import Delay, SpikingConv2d, SpikingLinear, SpikingMaxPool2d, refuse_stale

CARRIED = (SpikingConv2d, SpikingLinear, SpikingMaxPool2d, Delay, nn.Flatten)
NO_LEAK = 1e8
"""The membrane's time constant, in tau."""
MOST_OF_KERNEL = 1 << 12
"""Rows, or columns, of a pool's window; a file that names more is not believed."""

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def node_name(name: str) -> str:
    """The node of a module: its name, with "%2F" for a slash, which would divide it in a file.

    Likewise for a zero and for halves of characters, which HDF5 does not hold.
    """
    return re.sub("[/\0\ud800-\udfff]", lambda found: f"%{ord(found.group()):02X}", name)


def describe(name: str, layer: nn.Module) -> dict[str, Any]:
    """What a layer is, without its weights, in values that JSON knows.

    Raises
    ------
    TypeError
        If no graph can carry such a module.
    ValueError
        If it is of a form that no graph can carry.
    """
    for known in CARRIED:
        if isinstance(layer, known) and type(layer).forward is not known.forward:
            raise TypeError(
                f"{name}: a {type(layer).__name__} has a forward of its own, which no NIR graph "
                f"carries; give a plain {known.__name__}"
            )
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
            "t_max": _horizon(name, layer.t_max),
        }
    if isinstance(layer, SpikingLinear):
        return {
            "name": name,
            "kind": "linear",
            "features": [layer.in_features, layer.out_features],
            "bias": layer.bias is not None,
            "t_max": _horizon(name, layer.t_max),
        }
    if isinstance(layer, SpikingMaxPool2d):
        return {
            "name": name,
            "kind": "pool",
            "kernel": list(pair(layer.kernel_size)),
            "stride": list(pair(layer.stride)),
            "padding": list(pair(layer.padding)),
            "dilation": list(pair(layer.dilation)),
            "ceil_mode": layer.ceil_mode,
        }
    if isinstance(layer, Delay):
        delays = layer.delays()
        if not bool(delays.isfinite().all()):
            raise ValueError(f"{name} has delays that are not finite")
        dtype = str(delays.dtype).removeprefix("torch.")
        return {"name": name, "kind": "delay", "delays": delays.tolist(), "dtype": dtype}
    if isinstance(layer, nn.Flatten):
        if (layer.start_dim, layer.end_dim) != (1, -1):
            raise ValueError(f"{name}: only Flatten() of all that follows the batch is carried")
        return {"name": name, "kind": "flatten"}
    horizon = (ReferenceSpikes, HorizonConv2d, HorizonLinear)
    if any(isinstance(module, horizon) for module in layer.modules()):
        raise TypeError(
            f"{name} belongs to a layer with a horizon, whose reference spikes a NIR graph does "
            "not carry"
        )
    raise TypeError(
        f"{name} is a {type(layer).__name__}, which a NIR graph cannot carry; it carries a "
        f"Sequential of {', '.join(kind.__name__ for kind in CARRIED)}"
    )


def build(facts: Mapping[str, Any]) -> nn.Module:
    """The layer that `describe` described, on the meta device: its weights are yet to be set."""
    like: dict[str, Any] = {"device": "meta", "bias": facts.get("bias"), "t_max": math.inf}
    if facts.get("t_max") is not None:
        like["t_max"] = float(facts["t_max"])
    if facts["kind"] == "conv":
        sizes = [facts[key] for key in ("kernel", "stride", "padding", "dilation")]
        return SpikingConv2d(*facts["channels"], *sizes, **like)
    if facts["kind"] == "linear":
        return SpikingLinear(*facts["features"], **like)
    if facts["kind"] == "pool":
        sizes = [facts[key] for key in ("kernel", "stride", "padding", "dilation", "ceil_mode")]
        return SpikingMaxPool2d(*sizes)
    if facts["kind"] == "delay":
        delay = Delay(len(facts["delays"]), dtype=_DTYPES[facts["dtype"]])
        delay.delay = nn.Parameter(torch.tensor(facts["delays"], dtype=delay.delay.dtype))
        return delay
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


Clock = tuple[str, float]
"""A spike that the graph is given beside the model's input: ("bias", 0) or ("horizon", t_max)."""

BIAS: Clock = ("bias", 0.0)


def clocks_of(facts: Mapping[str, Any]) -> set[Clock]:
    """The clocks that a layer's neurons need."""
    needed = {BIAS} if facts.get("bias") else set()
    if facts.get("t_max") is not None:
        needed.add(("horizon", facts["t_max"]))
    return needed


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
    clocks : list of Clock
        What spikes in further channels (or features) of the input, one each.
    """

    def __init__(
        self, nir: Any, shape: tuple[int, ...], tau: float, dt: float, clocks: list[Clock]
    ) -> None:
        self._nir, self._tau, self._dt = nir, tau, dt
        self.shape = shape
        self._clocks = clocks
        self._copies = math.prod(shape[1:])  # entries of each clock: a map's pixels
        self.nodes: dict[str, Any] = {}
        self._add("input", nir.Input(self._wide()))

    def _wide(self) -> NDArray[Any]:
        """Shape of the last layer's output in the graph, clocks included."""
        if len(self.shape) == 1:
            return np.array([self.shape[0] + len(self._clocks) * self._copies])
        return np.array([self.shape[0] + len(self._clocks), *self.shape[1:]])

    @property
    def at_once(self) -> float:
        """A weight with which one input fires a neuron within a step."""
        return 2 * self._tau / self._dt

    def _add(self, name: str, node: Any) -> None:
        if name in self.nodes:
            raise ValueError(f"two nodes of the graph would be called {name!r}: rename the module")
        self.nodes[name] = node

    def graph(self, metadata: dict[str, str]) -> Any:
        self._add("output", self._nir.Output(self._wide()))
        edges = list(itertools.pairwise(self.nodes))
        return self._nir.NIRGraph(nodes=self.nodes, edges=edges, metadata=metadata)

    def add(self, facts: Mapping[str, Any], layer: nn.Module, clocks: list[Clock]) -> None:
        """Adds a layer, with one more neuron for each clock that later layers need."""
        name, kind = facts["name"], facts["kind"]
        node = node_name(name)
        if kind == "flatten":
            self._add(node, self._nir.Flatten(self._wide(), start_dim=0, end_dim=-1))
            self.shape = (math.prod(self.shape),)
            return
        if kind == "delay":
            self._add(node, self._nir.Delay(self._seconds(name, facts["delays"])))
            return
        if kind == "pool":
            if max(facts["kernel"]) > MOST_OF_KERNEL:
                raise ValueError(
                    f"{name} has a kernel of {facts['kernel']}; at most {MOST_OF_KERNEL}"
                )
            each = np.eye(self.shape[0], dtype=np.float32)[:, :, None, None]
            weight = self.at_once * each * np.ones(facts["kernel"], np.float32)
            bias = np.zeros(len(weight), np.float32)
        else:
            weight, bias = parameters(name, layer)
        if self.shape != (expected := (weight.shape[1], *self.shape[1:])) or (
            len(self.shape) != (1 if kind == "linear" else 3)
        ):
            raise ValueError(f"{name} takes {_named(kind, expected)}, and gets {self.shape}")
        more = {clock: self._column(weight, bias, clock, clocks, facts) for clock in self._clocks}
        outputs, inputs = weight.shape[:2]
        size = (outputs + len(clocks), int(self._wide()[0]))
        if kind == "linear":
            wide = np.zeros(size, weight.dtype)
            wide[:outputs, :inputs] = weight
            for index, column in enumerate(more.values()):
                wide[:, inputs + index * self._copies] = column
            self._add(node, self._nir.Linear(wide))
            self.shape = (outputs,)
        else:
            window = Window.of(facts, (self.shape[1], self.shape[2]))
            wide = np.zeros((*size, window.size, window.size), weight.dtype)
            wide[:outputs, :inputs] = window.widen(weight)
            for index, column in enumerate(more.values()):
                # The tap that lies inside the map for every output.
                wide[:, inputs + index, window.padding[0], window.padding[1]] = column
            self._add(
                node,
                self._nir.Conv2d(
                    (self.shape[1], self.shape[2]),
                    wide,
                    tuple(facts["stride"]),
                    window.padding,
                    dilation=(1, 1),
                    groups=1,
                    bias=np.zeros(len(wide), weight.dtype),
                ),
            )
            self.shape = (outputs, *window.outputs)
        self._clocks, self._copies = clocks, math.prod(self.shape[1:])
        self._add(f"{node}_neurons", self._neurons(wide))

    def _seconds(self, name: str, delays: Sequence[float]) -> NDArray[Any]:
        """Delays of a layer's outputs in seconds; the clocks behind them have none."""
        channels = self.shape[0]
        if len(delays) != channels:
            raise ValueError(
                f"{name} delays {len(delays)} channels or features, and gets {channels}"
            )
        seconds = np.zeros(tuple(self._wide()))
        own = np.asarray(delays, np.float64) * self._tau
        seconds[:channels] = own.reshape(-1, *[1] * (len(self.shape) - 1))
        return seconds

    def _column(
        self,
        weight: NDArray[Any],
        bias: NDArray[Any],
        clock: Clock,
        handed_on: list[Clock],
        facts: Mapping[str, Any],
    ) -> NDArray[Any]:
        """Weights from a clock to a layer's neurons, then to those that hand clocks on."""
        column = np.zeros(len(weight) + len(handed_on), weight.dtype)
        if clock in clocks_of(facts):
            # Twice the excitation keeps a neuron below the threshold from then on: what it has
            # gathered grows by no more than all excitation, and so does what is still to come.
            positive = np.clip(weight, 0, None).reshape(len(weight), -1).sum(1, dtype=np.float64)
            inhibition = -2 * (positive + np.clip(bias, 0, None)) - 1
            column[: len(weight)] = bias if clock == BIAS else inhibition
        if clock in handed_on:
            column[len(weight) + handed_on.index(clock)] = self.at_once
        return column

    def _neurons(self, wide: NDArray[Any]) -> Any:
        """Neurons that integrate and fire once, for the weights that lead to them."""
        rate = self._tau / self._dt
        excitation = np.clip(wide, 0, None).reshape(len(wide), -1).sum(1, dtype=np.float64)
        shape = tuple(self._wide())

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
    refuse_stale(layer, name)
    weight = layer.weight.detach().cpu().numpy()
    bias = np.zeros(len(weight), weight.dtype)
    if layer.bias is not None:
        bias = layer.bias.detach().cpu().numpy()
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ValueError(f"{name} has weights that are not finite")
    return weight, bias


def fill(layer: nn.Module, facts: Mapping[str, Any], node: Any, clocks: list[Clock]) -> None:
    """Sets the weights of a layer that `build` made to those of its node."""
    if not isinstance(layer, SpikingConv2d | SpikingLinear):
        return
    wide = node.weight
    index = clocks.index(BIAS) if layer.bias is not None else 0
    if isinstance(layer, SpikingLinear):
        inputs, outputs = facts["features"]
        copies = (wide.shape[1] - inputs) // max(len(clocks), 1)
        weight, bias = wide[:outputs, :inputs], wide[:outputs, inputs + index * copies :]
    else:
        inputs, outputs = facts["channels"]
        window = Window.of(facts, tuple(node.input_shape))
        weight = window.narrow(wide[:outputs, :inputs], layer.kernel_size)
        bias = wide[:outputs, inputs + index :, window.padding[0], window.padding[1]]
    if weight.shape != tuple(layer.weight.shape):
        raise ValueError(f"{facts['name']} has weights of the shape {wide.shape}")
    layer.weight = nn.Parameter(torch.from_numpy(weight.copy()))
    if layer.bias is not None:
        layer.bias = nn.Parameter(torch.from_numpy(bias[:, 0].copy()))


def _horizon(name: str, t_max: float) -> float | None:
    if t_max == math.inf:
        return None
    if t_max < 0:
        raise ValueError(f"{name} has the horizon {t_max}; a graph's time begins at t = 0")
    return float(t_max)


def _named(kind: str, shape: tuple[int, ...]) -> str:
    if kind == "linear":
        return f"({shape[0]},) for each input"
    return f"maps of {shape[0]} channels"
