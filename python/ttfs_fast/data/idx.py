"""The IDX file format, in which MNIST is published: plain or gzip.

A file holds two zero bytes, a byte for the type of its values, a byte for the number of
dimensions, each dimension as a big-endian 32-bit integer, then the values, big-endian, last
dimension fastest.
"""

import gzip
import io
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ttfs_fast._files import replace_file

_DTYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype("uint8"),
    0x09: np.dtype("int8"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
_MAX_DIMENSIONS = 8
_GZIP_MAGIC = b"\x1f\x8b"
# A deflate block spends at least 2 bits on a match of at most 258 bytes (RFC 1951).
_LARGEST_GZIP_RATIO = 1032
_CHUNK = 1 << 20


class IdxError(ValueError):
    """A file is not a whole and sound IDX file."""


def read_idx(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read an array from an IDX file, gzip or not (told by its content, not its name).

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    array : ndarray
        In the machine's byte order; uint8, int8, int16, int32, float32 or float64.

    Raises
    ------
    OSError
        If the file cannot be opened or read.
    IdxError
        If the file is truncated, damaged, of another format, or longer than its header says; the
        message names the file. No more is read or unpacked than the header declares, and
        nothing is allocated for values that the file cannot hold.
    """
    with open(path, "rb") as file:
        return read_idx_stream(file, os.fspath(path))


def is_idx(start: bytes) -> bool:
    """Whether a file that begins with these four bytes is an IDX file."""
    known = len(start) == 4 and start[:2] == b"\0\0" and start[2] in _DTYPES
    return known and 1 <= start[3] <= _MAX_DIMENSIONS


def read_idx_stream(file: BinaryIO, name: str) -> NDArray[Any]:
    """Read an array from an open, seekable IDX file; ``name`` is for messages.

    Otherwise as :func:`read_idx`.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    is_gzip = file.read(2) == _GZIP_MAGIC
    file.seek(0)
    if not is_gzip:
        return _read_values(file, name, size)
    try:
        with gzip.GzipFile(fileobj=file) as unpacked:
            return _read_values(unpacked, name, size * _LARGEST_GZIP_RATIO)
    except EOFError as error:
        raise IdxError(f"{name}: truncated gzip data; fetch the file again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise IdxError(f"{name}: damaged gzip data ({error}); fetch the file again") from error


def write_idx(path: str | os.PathLike[str], array: NDArray[Any]) -> None:
    """Write an array as an IDX file; gzip if the name ends in ``.gz``.

    The same array gives the same bytes each time, and the file appears whole or not at all.

    Parameters
    ----------
    path : path
        The file; its folder is made if it does not exist.
    array : ndarray
        One to eight dimensions; uint8, int8, int16, int32, float32 or float64.

    Raises
    ------
    TypeError
        If IDX has no such dtype.
    ValueError
        If the array has no dimension, too many, or one above 2**32 - 1.
    OSError
        If the file cannot be written.
    """
    code = _code(array.dtype)
    if not 1 <= array.ndim <= _MAX_DIMENSIONS or max(array.shape) >= 1 << 32:
        raise ValueError(
            f"an IDX file holds 1 to {_MAX_DIMENSIONS} dimensions below 2**32; got {array.shape}"
        )
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.astype(_DTYPES[code]).tobytes()
    path = Path(path)
    if path.suffix == ".gz":
        content = gzip.compress(content, compresslevel=9, mtime=0)
    replace_file(path, content)


def _code(dtype: np.dtype[Any]) -> int:
    for code, known in _DTYPES.items():
        if known.newbyteorder("=") == dtype.newbyteorder("="):
            return code
    names = ", ".join(known.name for known in _DTYPES.values())
    raise TypeError(f"an IDX file holds {names}; got {dtype}")


def _read_values(file: BinaryIO | gzip.GzipFile, name: str, capacity: int) -> NDArray[Any]:
    magic = _read_header(file, 4, name)
    code, dimensions = magic[2], magic[3]
    if magic[:2] != b"\0\0" or code not in _DTYPES or not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise IdxError(
            f"{name}: not an IDX file: it starts with {magic.hex(' ')}, where 00 00, a type and "
            "a number of dimensions are expected"
        )
    shape = struct.unpack(f">{dimensions}I", _read_header(file, 4 * dimensions, name))
    dtype = _DTYPES[code]
    size = math.prod(shape) * dtype.itemsize
    if size + 4 + 4 * dimensions > capacity:
        raise IdxError(
            f"{name}: truncated or damaged: its header declares {size} bytes of values "
            f"(shape {shape}), more than the file can hold"
        )
    content = bytearray()
    while len(content) < size and (chunk := file.read(min(_CHUNK, size - len(content)))):
        content += chunk
    if len(content) < size:
        raise IdxError(
            f"{name}: truncated: its header declares {size} bytes of values (shape {shape}), "
            f"the file holds {len(content)}; fetch it again"
        )
    if file.read(1):
        raise IdxError(f"{name}: bytes follow the {size} that its header declares (shape {shape})")
    values = np.frombuffer(content, dtype).reshape(shape)
    native: NDArray[Any] = values.astype(dtype.newbyteorder("="), copy=False)
    return native


def _read_header(file: BinaryIO | gzip.GzipFile, size: int, name: str) -> bytes:
    header = file.read(size)
    if len(header) < size:
        raise IdxError(f"{name}: truncated: it ends within the IDX header; fetch it again")
    return header
