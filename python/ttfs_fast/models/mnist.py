"""The paper's MNIST network."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from ttfs_fast._untrusted import parse_json, read_metadata, read_safetensors
from ttfs_fast.encoding import MNIST_ENCODING, Encoding
from ttfs_fast.models.authors import AUTHORS_FILES, AUTHORS_LATEST, MNIST_SHAPES, read_authors
from ttfs_fast.models.pretrained import pretrained_weights, read_encoding
from ttfs_fast.nn import SpikingConv2d, SpikingLinear


class MnistSCNN(nn.Sequential):
    """SCNN(5,32,2) -> SCNN(5,16,2) -> FC(10) (Table 1).

    Input: spike values of images, shape (N, 1, 28, 28). Output: spike values of the classes,
    shape (N, 10); the class is the output that spikes first. 21,440 weights, and 58 more for the
    bias neurons, one for each neuron of a layer's output.
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
        Load the weights in the package, trained on MNIST (docs/results/mnist.md says
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
        state = read_authors(path, AUTHORS_FILES, MNIST_SHAPES)
        horizons = [AUTHORS_LATEST] * 3
    elif path is not None:
        (state, horizons), known = _exported(path), read_encoding(path)
    if t_max is not None:
        horizons = [t_max] * 3
    encoding = encoding or known or MNIST_ENCODING
    model = MnistSCNN(t_max=max(horizons), encoding=encoding, device=device, dtype=dtype)
    for layer, horizon in zip((model.conv1, model.conv2, model.fc), horizons, strict=True):
        layer.t_max = horizon
    if not pretrained and path is None:
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
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path}: its metadata hold no training settings: {error}") from error
    if len(horizons) not in (0, 3):
        raise ValueError(f"{path}: the network has 3 layers, its settings {len(horizons)} horizons")
    return state, horizons or [t_max] * 3
