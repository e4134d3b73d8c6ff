"""The paper's MNIST network."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ttfs_fast._untrusted import parse_json, read_metadata, read_npy, read_safetensors
from ttfs_fast.encoding import MNIST_ENCODING, Encoding
from ttfs_fast.models.pretrained import pretrained_weights, read_encoding
from ttfs_fast.nn import SpikingConv2d, SpikingLinear

AUTHORS_FILES = ("weight_scnn1.npy", "weight_scnn2.npy", "weight_scnn3.npy")
AUTHORS_LATEST = math.log(1e5)
"""The authors' network takes a spike later than z = 1e5 for none."""


class MnistSCNN(nn.Sequential):
    """SCNN(5,32,2) -> SCNN(5,16,2) -> FC(10) (Table 1).

    Input: spike values of images, shape (N, 1, 28, 28). Output: spike values of the classes,
    shape (N, 10); the class is the output that spikes first. 21,440 weights, and 58 more for the
    bias neurons, one a neuron of each layer's output.
    """

    def __init__(
        self,
        *,
        t_max: float = math.inf,
        encoding: Encoding = MNIST_ENCODING,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.t_max = t_max
        self.encoding = encoding
        like = {"t_max": t_max, "device": device, "dtype": dtype}
        self.conv1 = SpikingConv2d(1, 32, 5, stride=2, padding="same", **like)  # type: ignore[arg-type]
        self.conv2 = SpikingConv2d(32, 16, 5, stride=2, padding="same", **like)  # type: ignore[arg-type]
        self.flatten = nn.Flatten()
        self.fc = SpikingLinear(16 * 7 * 7, 10, **like)  # type: ignore[arg-type]


def mnist_scnn(
    *,
    pretrained: bool = False,
    weights: str | Path | None = None,
    t_max: float | None = None,
    encoding: Encoding | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> MnistSCNN:
    """The paper's MNIST network, SCNN(5,32,2) -> SCNN(5,16,2) -> FC(10), padding "same".

    Parameters
    ----------
    pretrained : bool
        Load the weights that ship with the package, trained on MNIST (docs/results/mnist.md says
        how).
    weights : path, optional
        Load a ``.safetensors`` file, as ``ttfs-fast train`` writes it, or the folder of the
        authors' ``weight_scnn1.npy``, ``weight_scnn2.npy`` and ``weight_scnn3.npy``.
    t_max : float, optional
        The horizon of every layer. By default that of the training run whose weights are loaded,
        else none; for the authors' weights ln 1e5, as in their code.
    encoding : Encoding, optional
        How the network sees images; it carries it as its attribute. By default that of the file
        whose weights are loaded; where a file does not say, for the authors' weights, and for a
        new network the paper's, ``Encoding()``, t = 3 (1 - p).
    device, dtype
        Of the parameters.

    Returns
    -------
    MnistSCNN

    Raises
    ------
    FileNotFoundError, ValueError
        If `weights` does not exist or does not hold this network's arrays.

    Examples
    --------
    >>> from ttfs_fast.models import mnist_scnn
    >>> sum(p.numel() for name, p in mnist_scnn().named_parameters() if "weight" in name)
    21440
    """
    if pretrained and weights is not None:
        raise ValueError("give either pretrained=True or weights, not both")
    path = Path(weights) if weights is not None else None
    if path is not None and not path.exists():
        raise FileNotFoundError(f"no weights at {path}: give a .safetensors file or a folder")
    state: dict[str, Tensor] = {}
    horizons, known = [math.inf] * 3, None
    if pretrained:
        with pretrained_weights() as file:
            (state, horizons), known = _exported(file), read_encoding(file)
    elif path is not None and path.is_dir():
        state, horizons = _authors_state(path), [AUTHORS_LATEST] * 3
    elif path is not None:
        (state, horizons), known = _exported(path), read_encoding(path)
    if t_max is not None:
        horizons = [t_max] * 3
    encoding = encoding or known or MNIST_ENCODING
    model = MnistSCNN(t_max=max(horizons), encoding=encoding, device=device, dtype=dtype)
    for layer, horizon in zip((model.conv1, model.conv2, model.fc), horizons, strict=True):
        layer.t_max = horizon
    if not state:
        return model
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{path or 'the pretrained weights'}: not this network: {error}"
        ) from error
    return model


def _exported(path: Path) -> tuple[dict[str, Tensor], list[float]]:
    """The weights that a training run exported, and its three layers' horizons."""
    state = read_safetensors(path)
    try:
        config = parse_json(read_metadata(path).get("config", "{}"))
        t_max = float(config.get("t_max", math.inf))
        horizons = [float(t) for t in config.get("horizons", [])]
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: its metadata hold no training settings: {error}") from error
    if len(horizons) not in (0, 3):
        raise ValueError(f"{path}: the network has 3 layers, its settings {len(horizons)} horizons")
    return state, horizons or [t_max] * 3


def _authors_state(folder: Path) -> dict[str, Tensor]:
    """The authors' arrays of shape (inputs + 1, outputs); the last row is the bias neuron.

    A convolution's inputs are ordered (kernel row, kernel column, channel), the last layer's (row,
    column, channel).
    """
    shapes = {"conv1": (5, 5, 1, 32), "conv2": (5, 5, 32, 16), "fc": (7, 7, 16, 10)}
    state = {}
    for file, (layer, shape) in zip(AUTHORS_FILES, shapes.items(), strict=True):
        path = folder / file
        try:
            array = read_npy(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{path} is missing; the folder must hold {', '.join(AUTHORS_FILES)}"
            ) from error
        expected = (math.prod(shape[:3]) + 1, shape[3])
        if array.shape != expected or array.dtype.kind != "f":
            raise ValueError(
                f"{path} holds a {array.dtype} array of shape {array.shape}; "
                f"expected floats of shape {expected}"
            )
        weight = torch.from_numpy(array[:-1].astype(np.float32)).reshape(shape).permute(3, 2, 0, 1)
        state[f"{layer}.weight"] = (weight.flatten(1) if layer == "fc" else weight).contiguous()
        state[f"{layer}.bias"] = torch.from_numpy(array[-1].astype(np.float32))
    return state
