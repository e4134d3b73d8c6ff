"""Readers for untrusted files: they return values or raise ValueError.

The libraries behind these formats raise errors of many kinds, some of which they do not even
export, and all of them mean that the file is damaged.
"""

import json
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ttfs_fast._extras import require

if TYPE_CHECKING:
    from torch import Tensor


def parse_json(text: str | bytes) -> Any:
    """A JSON text's value; ValueError also where it is nested too deeply.

    A byte order mark, which editors on Windows put first, is passed over.
    """
    try:
        return json.loads(text.removeprefix("\ufeff") if isinstance(text, str) else text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_toml(content: bytes) -> dict[str, Any]:
    """A TOML file's tables, likewise; its text is UTF-8."""
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_safetensors(content: bytes) -> "dict[str, Tensor]":
    """The tensors of a safetensors file."""
    safetensors = require("safetensors.torch", "train")
    try:
        tensors: dict[str, Tensor] = safetensors.load(content)
    except Exception as error:
        raise ValueError(str(error)) from error
    return tensors


def read_safetensors(path: Path) -> "dict[str, Tensor]":
    """The same from a file that is there; the ValueError names it."""
    safetensors = require("safetensors.torch", "train")
    try:
        # The library takes every path as UTF-8, whatever its bytes in the file system are.
        tensors: dict[str, Tensor] = (
            safetensors.load_file(path)
            if os.fsencode(path) == str(path).encode(errors="replace")
            else safetensors.load(path.read_bytes())
        )
    except Exception as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    return tensors


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty if it has none.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not in the safetensors format.
    """
    path = Path(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= path.stat().st_size - 8:
            raise ValueError(f"{path} is not a safetensors file, or it is truncated")
        try:
            header: Any = parse_json(file.read(length))
        except ValueError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    if not isinstance(metadata, dict):
        raise ValueError(f"{path} is not a safetensors file: its metadata are no JSON object")
    return {str(key): str(value) for key, value in metadata.items()}


def read_npy(path: Path) -> NDArray[Any]:
    """The array of a .npy file; nothing is unpickled, and the ValueError names the file."""
    with open(path, "rb") as file:
        try:
            return np.lib.format.read_array(file, allow_pickle=False)
        except Exception as error:
            raise ValueError(f"{path} is not a readable .npy array: {error}") from error
