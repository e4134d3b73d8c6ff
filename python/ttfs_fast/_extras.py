"""Import of the packages that only some parts of ttfs_fast need."""

import importlib
from types import ModuleType


def require(module_name: str, extra: str) -> ModuleType:
    """Import an optional package, or say which extra brings it.

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
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        package = module_name.partition(".")[0]
        if error.name != package:
            raise
        raise ImportError(
            f"this needs the package {package!r}, which is not installed; "
            f'install it with: pip install "ttfs_fast[{extra}]"',
            name=error.name,
        ) from error
