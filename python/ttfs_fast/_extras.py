"""Import of the packages that only some parts of ttfs_fast need."""

import importlib
import os
import sys
from contextlib import suppress
from types import ModuleType


def require(module_name: str, extra: str) -> ModuleType:
    """Import an optional package; if it is missing, the error names the extra that installs it.

    Parameters
    ----------
    module_name : str
        Name of the module, such as ``"safetensors.torch"``.
    extra : str
        Name of the extra of this package that installs it, such as ``"train"``.

    Returns
    -------
    module : types.ModuleType
        The imported module.

    Raises
    ------
    ImportError
        If the package is not installed. A module that is installed but fails to import for
        another reason raises its own error.
    """
    package = module_name.partition(".")[0]
    try:
        if package == "matplotlib" and package not in sys.modules:
            _import_matplotlib()
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ImportError(
            f"this needs the package {package!r}, which is not installed; "
            f'install it with: pip install "ttfs_fast[{extra}]"',
            name=error.name,
        ) from error


def _import_matplotlib() -> None:
    """Import matplotlib and ignore MPLBACKEND, because this package only draws files.

    The variable names what shows figures on a screen. A notebook sets it for every process that it
    starts, and where that backend is not installed, matplotlib refuses to be imported.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        matplotlib = importlib.import_module("matplotlib")
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend  # as it would have done itself
