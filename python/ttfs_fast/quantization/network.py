"""Integer networks: numpy arrays in and out, without torch."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ttfs_fast._files import replace_file
from ttfs_fast._native import _core

MAGIC = b"TTFSINT\n"
MOST_THREADS = 1 << 16
"""The largest number of threads: a layer has fewer work items."""
Codes = NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class LayerInfo:
    """One layer of an integer network; docs/integer.md defines the terms.

    Attributes
    ----------
    kind : {"neurons", "pooling"}
        A layer of neurons (fully connected ones are convolutions whose kernel covers the input),
        or first-spike pooling.
    output_size : tuple of int
        Channels, rows and columns of the output.
    kernel, stride, padding, dilation : tuple of int
        Rows and columns; the padding is that at the top and left.
    groups, bits : int
        Groups of the convolution; bits of a weight. 0 for pooling.
    ratio : int
        An output code is the neuron's spike value A / B, in steps of the input codes, times
        ``ratio / 2**16``, rounded.
    latest : int
        Spikes with a later output code are treated as no spike.
    bias_code : int
        Spike code of the bias input.
    theta : int32 array, shape (channels,)
        Threshold of every output channel.
    bias : int32 array, shape (channels,), or None
        Bias weight of every output channel.
    reference_code : int
        The horizon of the inputs, at which all inputs spike that have not yet; 0 without a horizon.
    slope : int32 array, shape (channels,), or None
        Slope of every output channel's membrane after the horizon.
    """

    kind: str
    output_size: tuple[int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int = 0
    bits: int = 0
    ratio: int = 0
    latest: int = 0
    bias_code: int = 0
    theta: NDArray[np.int32] | None = None
    bias: NDArray[np.int32] | None = None
    reference_code: int = 0
    slope: NDArray[np.int32] | None = None


class IntegerNetwork:
    """A spiking network in integers, from pixels to class.

    :func:`ttfs_fast.quantization.convert` makes one from a trained network and :func:`load` reads
    one from a file. Calling it gives the same codes, bit for bit, on every machine, for every
    number of threads and every instruction set.

    Parameters
    ----------
    core : _core.IntegerNetwork
        The network of the compiled core.

    Examples
    --------
    >>> from ttfs_fast import quantization
    >>> net = quantization.load("mnist.ttfs")  # doctest: +SKIP
    >>> net.classify(images)  # uint8, (N, 1, 28, 28)  # doctest: +SKIP
    """

    def __init__(self, core: _core.IntegerNetwork) -> None:
        self._core = core

    def __call__(self, images: NDArray[np.uint8] | Codes, *, threads: int | None = None) -> Codes:
        """Spike codes of the last layer.

        Parameters
        ----------
        images : uint8 or uint16 array, shape (N, C, H, W)
            Pixels as uint8, of ``input_size``, which the network encodes; or spike codes as uint16,
            of ``code_size``, from 1 to ``silent``.
        threads : int, optional
            Number of threads; by default OMP_NUM_THREADS, or one per processor of this process.

        Returns
        -------
        codes : uint16 array, shape (N, classes), or (N, C, H, W) if the output has rows
            The output with the least code is the class; ``silent`` means that an output does not
            spike.

        Raises
        ------
        TypeError
            If the array is neither uint8 nor uint16.
        ValueError
            If its shape does not fit, or a uint16 value is no spike code.
        """
        output: Codes = self._run(images, False, threads)[0]
        channels, rows, columns = self.output_size
        return output.reshape(-1, channels) if rows == columns == 1 else output

    def layers(
        self, images: NDArray[np.uint8] | Codes, *, threads: int | None = None
    ) -> list[Codes]:
        """Spike codes of every layer, each (N, C, H, W). Otherwise as a call."""
        return self._run(images, True, threads)

    def classify(
        self, images: NDArray[np.uint8] | Codes, *, threads: int | None = None
    ) -> NDArray[np.int32]:
        """The class of each image: the output that spikes first, the lowest of several.

        Parameters
        ----------
        images, threads
            As when calling the network.

        Returns
        -------
        classes : int32 array, shape (N,)
            -1 where no output spikes.

        Raises
        ------
        ValueError
            If the output of the network is not one value per class.
        """
        if self.output_size[1:] != (1, 1):
            raise ValueError(
                f"the network's output has size {self.output_size}; to classify, it must be one "
                "value per class"
            )
        return first_spikes(self(images, threads=threads), self.silent)

    def encode(self, images: NDArray[np.uint8]) -> Codes:
        """Spike codes of pixels: uint8 (..., C, H, W) to uint16 of the same shape.

        With two encoders the codes have 2 C channels, first those by the first encoder.
        """
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
            raise TypeError(f"pixels must be a uint8 array; got {_kind(images)}")
        if images.ndim < 3:
            raise ValueError(f"images have shape {images.shape}; it must be (..., C, H, W)")
        return np.concatenate([encoder[images] for encoder in self.encoders], axis=-3)

    def reference(self, layer: int, codes: Codes) -> Codes:
        """One layer by the slow reference: (N, C, H, W) codes in and out."""
        return self._core.reference(layer, np.ascontiguousarray(codes))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the network to one file; an existing file is replaced in one step."""
        target = Path(path)
        replace_file(target, self.to_bytes())
        return target

    def to_bytes(self) -> bytes:
        """The content of the file that :meth:`save` writes."""
        return self._core.serialize()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """The network of a file's content.

        Raises
        ------
        ValueError
            If it is truncated, was altered, or is of another version. The checksum is checked
            first.
        """
        try:
            return cls(_core.IntegerNetwork.parse(content))
        except RuntimeError as error:
            raise ValueError(str(error)) from error

    def __getstate__(self) -> dict[str, Any]:
        """State for pickle and copy: the content of the file in place of the core's network."""
        return self.__dict__ | {"_core": self.to_bytes()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _core=_core.IntegerNetwork.parse(state["_core"]))

    @property
    def time_bits(self) -> int:
        """Bits of a spike code: 16 or 8."""
        return self._core.time_bits

    @property
    def silent(self) -> int:
        """The code for "no spike": the largest code."""
        return self._core.silent

    @property
    def time_scale(self) -> float:
        """Spike value exp(t) of one step of an input code."""
        return self._core.unit

    @property
    def time_scales(self) -> list[float]:
        """The same for the output codes of each layer."""
        scales, scale = [], self.time_scale
        for layer in self.layer_infos():
            if layer.kind == "neurons":
                scale = scale * 2**16 / layer.ratio
            scales.append(scale)
        return scales

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, rows and columns of an image."""
        return self._core.image_size

    @property
    def code_size(self) -> tuple[int, int, int]:
        """Channels, rows and columns of its spike codes, with the channels of all encoders."""
        return self._core.input_size

    @property
    def output_size(self) -> tuple[int, int, int]:
        """Channels, rows and columns of the output."""
        return self._core.output_size

    @property
    def encoders(self) -> Codes:
        """Spike code of each pixel intensity, shape (1, 256), or (2, 256) with polarity "both"."""
        return self._core.encoders

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes, in the order of the outputs; None if the network has none."""
        return tuple(self._core.classes) or None

    def set_classes(self, names: Sequence[str] | None) -> None:
        """Set the names of the classes, in place; files that are saved afterwards contain them.

        Parameters
        ----------
        names : sequence of str or None
            A name for each channel of the output, in their order; None removes the names.

        Raises
        ------
        ValueError
            If there are more or fewer names than outputs, one is empty, or two are the same.
        """
        given = [] if names is None else list(names)
        try:
            self._core.set_classes(given)
        except TypeError:
            raise ValueError(
                f"class names must be text that UTF-8 can write; got {given}"
            ) from None

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights, in bytes."""
        return self._core.weight_bytes

    def layer_infos(self) -> list[LayerInfo]:
        """A description of every layer."""
        return [LayerInfo(**self._core.layer(i)) for i in range(self._core.layer_count)]

    def weight_codes(self, layer: int) -> NDArray[np.int8]:
        """Codes of a layer's weights, shape (outputs, inputs / groups, rows, columns)."""
        return self._core.weight_codes(layer)

    def __repr__(self) -> str:
        twice = ", two for each pixel" if len(self.encoders) == 2 else ""
        lines = [f"IntegerNetwork(input {self.input_size}, {self.time_bits}-bit spike codes{twice}"]
        for info in self.layer_infos():
            bits = f", {info.bits}-bit weights" if info.bits else ""
            lines.append(
                f"  {info.kind} {info.kernel[0]}x{info.kernel[1]} -> {info.output_size}{bits}"
            )
        return "\n".join([*lines, ")"])

    def _run(self, images: Any, all_layers: bool, threads: int | None) -> list[Codes]:
        if not isinstance(images, np.ndarray) or images.dtype not in (np.uint8, np.uint16):
            raise TypeError(
                "images must be a uint8 array of pixels or a uint16 array of spike codes; got "
                f"{_kind(images)}"
            )
        what, size = "images", self.input_size
        if images.dtype == np.uint16:
            what, size = "spike codes", self.code_size
        if images.ndim != 4 or images.shape[1:] != size:
            raise ValueError(
                f"{what} have shape {images.shape}; the network takes (N, "
                f"{', '.join(map(str, size))})"
            )
        if self._core.layer_count == 0:
            raise ValueError("the network has no layers")
        run = self._core.run_pixels if images.dtype == np.uint8 else self._core.run_codes
        return run(np.ascontiguousarray(images), all_layers, default_threads(threads))


def load(path: str | os.PathLike[str]) -> IntegerNetwork:
    """Read an integer network from a file.

    Parameters
    ----------
    path : path
        A file that :meth:`IntegerNetwork.save` wrote.

    Returns
    -------
    network : IntegerNetwork

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is truncated, was altered, is of another version, or is not an integer network;
        the message says which.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"no integer network at {path}")
    try:
        return IntegerNetwork(_core.IntegerNetwork.load(os.fsencode(path)))
    except UnicodeDecodeError as error:  # the core's message, with a path that is not UTF-8
        raise ValueError(error.object.decode(errors="backslashreplace")) from None
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def is_integer_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins like an integer network."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def first_spikes(codes: Codes, silent: int) -> NDArray[np.int32]:
    """Index of the earliest code of each row, the lowest of several; -1 where all are silent."""
    classes: NDArray[np.int32] = codes.argmin(axis=1).astype(np.int32)
    classes[codes.min(axis=1) == silent] = -1
    return classes


def default_threads(threads: int | None) -> int:
    """The given number of threads, or OMP_NUM_THREADS, or the processors of this process.

    OMP_NUM_THREADS may be a list, a number for each level of nested parallel regions; there is one
    level here. As in OpenMP, an invalid value counts as not set.
    """
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1; got {threads}")
        return min(threads, MOST_THREADS)
    levels = [level.strip() for level in os.environ.get("OMP_NUM_THREADS", "").split(",")]
    if all(re.fullmatch(r"\+?0*[1-9][0-9]{0,8}", level) for level in levels):
        return min(int(levels[0]), MOST_THREADS)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    return type(value).__name__
