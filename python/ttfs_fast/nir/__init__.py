"""Export to and import from the Neuromorphic Intermediate Representation (NIR).

NIR is a format that simulators and chips read: a graph of weights (Conv2d, Linear) and of spiking
neurons. It has no neuron that spikes once and no pool of first spikes. Both can be represented by
the neuron CubaLIF (current-based, leaky integrate-and-fire):

* The membrane's time constant is 10^8 tau, so that it does not leak in any time that matters.
* The reset after a spike is so far below the threshold that the neuron's positive weights together
  cannot reach it again: it spikes once.
* A bias is one more channel of the input, which spikes at t = 0; one more neuron in each layer
  passes it on. A horizon is another, which spikes just after t_max and inhibits the layer from
  then on.
* First-spike pooling is a neuron for each window, which any of its inputs fires.
* A delay is NIR's own node, Delay, in seconds.

A simulator counts time in steps, so its spike times differ by about a step. It must respect the
reset; docs/nir.md lists simulators that do. Facts that nodes do not contain (padding, pools, the
encoding) are in the graph's metadata, so that :func:`from_graph` restores the network, bit for bit.

References
----------
J. E. Pedersen et al., "Neuromorphic intermediate representation: A unified instruction set for
interoperable brain-inspired computing", Nature Communications 15, 8122 (2024).
"""

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ttfs_fast._extras import require
from ttfs_fast._files import replace_file
from ttfs_fast._untrusted import parse_json
from ttfs_fast.encoding import Encoding, check_spike_values, encoding_of
from ttfs_fast.nir._layers import BIAS, Builder, Clock, build, clocks_of, describe, fill, node_name
from ttfs_fast.nn import refuse_sisters

__all__ = [
    "first_spikes",
    "from_graph",
    "metadata",
    "read",
    "spike_trains",
    "to_graph",
    "write",
]

_FORMAT = "ttfs_fast network"
_VERSION = 2


def to_graph(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    tau: float = 10e-3,
    dt: float = 0.1e-3,
    encoding: Encoding | None = None,
) -> Any:
    """A network as a NIR graph.

    Parameters
    ----------
    model : torch.nn.Sequential
        Of SpikingConv2d, SpikingLinear, SpikingMaxPool2d, Delay and Flatten modules, of one type.
        Centered weights (:mod:`ttfs_fast.optim.centering`) are written as the plain ones they stand
        for. A module that stands at two places is written, and read back, as two.
    input_shape : sequence of int
        Shape of one input, (channels, height, width) or (features,).
    tau : float
        The synaptic time constant, in seconds.
    dt : float
        Step of the simulator that is to run it, in seconds, below `tau`. NIR's spikes are pulses;
        w_in, r and v_threshold are such that one of height 1 and length `dt` steps the current by
        the weight. snnTorch 1.0 takes 0.1 ms for granted.
    encoding : Encoding, optional
        How inputs become spikes, for the metadata; by default the one that the model carries, if
        any.

    Returns
    -------
    nir.NIRGraph
        The graph. Its input has one channel (or feature) more than the model's for biases, and
        one for each horizon; :func:`spike_trains` fills them.

    Raises
    ------
    TypeError
        If a module is of another kind; names it.
    ValueError
        If a layer has a form that a graph cannot carry, or a number is out of its range.
    ImportError
        If nir is not installed (extra ``nir``).

    Examples
    --------
    >>> from ttfs_fast.models import mnist_scnn
    >>> from ttfs_fast.nir import to_graph
    >>> graph = to_graph(mnist_scnn(), (1, 28, 28))
    >>> [type(node).__name__ for node in graph.nodes.values()][:4]
    ['Input', 'Conv2d', 'CubaLIF', 'Conv2d']
    """
    nir = require("nir", "nir")
    tau, dt = float(tau), float(dt)
    if not 0 < dt < tau < math.inf:
        raise ValueError(f"dt must be above 0 and below tau; got dt={dt} and tau={tau} seconds")
    shape = tuple(int(size) for size in input_shape)
    if len(shape) not in (1, 3) or min(shape) < 1:
        raise ValueError(
            f"input_shape must be (channels, height, width) or (features,); got {shape}"
        )
    if not isinstance(model, nn.Sequential) or len(model) == 0:
        raise TypeError(f"model must be a Sequential with layers; got a {type(model).__name__}")
    refuse_sisters(model, "a NIR graph")
    if type(model).forward is not nn.Sequential.forward:
        raise TypeError(
            f"model, a {type(model).__name__}, has a forward of its own, which no NIR graph "
            "carries; give a plain Sequential of its layers"
        )
    layers = model._modules  # named_children leaves out the second place of a module
    descriptions = [describe(name, layer) for name, layer in layers.items()]
    types = {str(p.dtype).removeprefix("torch.") for p in model.parameters()}
    if len(types) > 1:
        raise ValueError(f"all layers must have one type; got {sorted(types)}")
    if not types <= {"float32", "float64"}:
        raise ValueError(f"weights must be float32 or float64; got {types.pop()}")
    clocks = _clocks(descriptions)
    builder = Builder(nir, shape, tau, dt, clocks[0])
    for facts, layer, later in zip(descriptions, layers.values(), clocks[1:], strict=True):
        builder.add(facts, layer, later)
    if encoding is not None or isinstance(getattr(model, "encoding", None), Encoding):
        encoding = encoding_of(model, encoding)
    notes = {
        "format": _FORMAT,
        "version": _VERSION,
        "input_shape": list(shape),
        "tau": tau,
        "dt": dt,
        "encoding": None if encoding is None else encoding.to_dict(),
        "layers": descriptions,
    }
    return builder.graph({"ttfs_fast": json.dumps(notes, default=_plain)})


def from_graph(graph: Any) -> nn.Sequential:
    """The network of a graph that :func:`to_graph` made.

    Parameters
    ----------
    graph : nir.NIRGraph
        With the metadata that :func:`to_graph` adds.

    Returns
    -------
    torch.nn.Sequential
        With the names of its modules, hence its state_dict, the same outputs bit for bit, and the
        encoding, if the graph has one.

    Raises
    ------
    ValueError
        If the graph does not come from ttfs_fast, or its nodes are not those that its metadata
        describe.
    """
    notes = metadata(graph)
    try:
        model = nn.Sequential()
        for facts, clocks in zip(notes["layers"], _clocks(notes["layers"])[:-1], strict=True):
            layer = build(facts)
            fill(layer, facts, graph.nodes[node_name(facts["name"])], clocks)
            model.add_module(facts["name"], layer)
        if notes["encoding"] is not None:
            model.encoding = Encoding.from_dict(notes["encoding"])  # type: ignore[assignment]
        again = to_graph(model, notes["input_shape"], tau=notes["tau"], dt=notes["dt"])
        same = _equal(again, graph)
    except (
        KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, ArithmeticError
    ) as error:  # fmt: skip
        raise ValueError(
            f"the graph's metadata do not describe its nodes: {type(error).__name__}: {error}"
        ) from error
    if not same:
        raise ValueError(
            "the graph's nodes are not those that its metadata describe: it was changed after "
            "ttfs_fast wrote it"
        )
    return model


def write(
    path: str | Path,
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    tau: float = 10e-3,
    dt: float = 0.1e-3,
    encoding: Encoding | None = None,
) -> Path:
    """Write a network to a NIR file (HDF5). An existing file is replaced in one step.

    Parameters
    ----------
    path : str or Path
        The file, usually ``NAME.nir``.
    model, input_shape, tau, dt, encoding
        As :func:`to_graph`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    TypeError, ValueError, ImportError
        As :func:`to_graph`.
    """
    graph = to_graph(model, input_shape, tau=tau, dt=dt, encoding=encoding)
    content = io.BytesIO()
    require("nir", "nir").write(content, graph)
    path = Path(path)
    replace_file(path, content.getvalue())
    return path


def read(path: str | Path) -> nn.Sequential:
    """The network in a file that :func:`write` wrote.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    torch.nn.Sequential
        As :func:`from_graph`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a NIR file, or not one of ttfs_fast.
    """
    nir = require("nir", "nir")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no NIR file at {path}")
    try:
        graph = nir.read(path)
    except Exception as error:  # nir checks little of a file, so anything may be raised
        raise ValueError(f"{path} is not a readable NIR file: {error}") from error
    try:
        return from_graph(graph)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def metadata(graph: Any) -> dict[str, Any]:
    """The metadata that ttfs_fast stored in a graph.

    Parameters
    ----------
    graph : nir.NIRGraph
        As :func:`to_graph` made it.

    Returns
    -------
    dict
        input_shape, tau, dt, encoding and layers.

    Raises
    ------
    ValueError
        If the graph was not made by ttfs_fast, or by a version with another format.
    """
    text = getattr(graph, "metadata", {}).get("ttfs_fast")
    if text is None:
        raise ValueError(
            "the graph has no metadata of ttfs_fast: only what ttfs_fast wrote can be read back, "
            "because nothing else in a graph says that its neurons spike once"
        )
    try:
        notes = dict(parse_json(text))
        name, version = notes["format"], notes["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the graph's metadata of ttfs_fast are damaged: {error!r}") from error
    if (name, version) != (_FORMAT, _VERSION):
        raise ValueError(
            f"the graph's metadata are of format {name!r}, version {version!r}; this version of "
            f"ttfs_fast reads {_FORMAT!r}, version {_VERSION}"
        )
    return notes


def spike_trains(graph: Any, z: Tensor, steps: int) -> Tensor:
    """Spike values of one input as a simulator takes them: a 1 in the step of each spike.

    Parameters
    ----------
    graph : nir.NIRGraph
        As :func:`to_graph` made it.
    z : Tensor
        Spike values of one input, of the model's input shape, 1 or above (t >= 0).
    steps : int
        Length of the trains; later spikes are left out.

    Returns
    -------
    Tensor
        float32, shape (steps, ...): the graph's input at each step; behind the model's channels
        those of the bias, a spike at t = 0, and of the horizons, a spike in the step after each.

    Raises
    ------
    ValueError
        If the shape is another, or a spike comes before t = 0.
    """
    notes = metadata(graph)
    if list(z.shape) != notes["input_shape"]:
        raise ValueError(
            f"z has the shape {tuple(z.shape)}; the network takes {tuple(notes['input_shape'])}, "
            "one input without a batch"
        )
    check_spike_values(z)
    if bool(z.isnan().any()):
        raise ValueError("z has NaN; spike values are numbers, or inf where silent")
    if bool((z < 1).any()):
        raise ValueError(
            f"the earliest spike is at t = {z.min().log().item():.4g}; trains begin at t = 0"
        )
    (node,) = graph.inputs.values()
    shape = tuple(int(size) for size in node.input_type["input"])
    trains = torch.zeros(steps, *shape)
    rate = notes["tau"] / notes["dt"]
    step = (z.detach().double().log() * rate).floor()
    inside = step < steps
    trains[(step[inside].long(), *inside.nonzero(as_tuple=True))] = 1
    for channel, clock in enumerate(_clocks(notes["layers"])[0], z.shape[0]):
        at = 0 if clock == BIAS else math.floor(clock[1] * rate) + 1
        trains[at : at + 1, channel] = 1
    return trains


def first_spikes(graph: Any, trains: Tensor) -> Tensor:
    """First spikes of trains, as spike values.

    Parameters
    ----------
    graph : nir.NIRGraph
        As :func:`to_graph` made it.
    trains : Tensor
        Shape (steps, ...): what a node gave at each step, above 0 for a spike. Channels behind
        the model's own hand on biases and horizons.

    Returns
    -------
    Tensor
        float64, shape (...): exp(t) for the beginning of the first step with a spike, ``inf``
        where there is none.
    """
    notes = metadata(graph)
    spiked = trains > 0
    first = spiked.to(torch.uint8).argmax(0).double()
    z = (first * (notes["dt"] / notes["tau"])).exp()
    return torch.where(spiked.any(0), z, torch.inf)


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy and torch as Python's, for JSON."""
    if isinstance(value, np.generic | np.ndarray | Tensor):
        return value.tolist()
    raise TypeError(f"got a {type(value).__name__}")


def _clocks(layers: Sequence[Mapping[str, Any]]) -> list[list[Clock]]:
    """Before each layer, and after the last: the clocks that it or a later one needs."""
    needed: list[set[Clock]] = [set()]
    for facts in reversed(layers):
        needed.append(needed[-1] | clocks_of(facts))
    return [sorted(clocks) for clocks in reversed(needed)]


def _equal(one: Any, other: Any) -> bool:
    """Whether two graphs have the same nodes, with the same numbers, and the same edges."""
    if one.nodes.keys() != other.nodes.keys() or set(one.edges) != set(other.edges):
        return False
    for name, node in one.nodes.items():
        mine, theirs = node.to_dict(), other.nodes[name].to_dict()
        if mine.keys() != theirs.keys():
            return False
        if not all(np.array_equal(mine[key], theirs[key]) for key in mine if key != "metadata"):
            return False
    return True
