"""Energy models: joules per counted operation, as a small table that the user can replace."""

import math
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from ttfs_fast._untrusted import parse_toml

Operations = Literal["causal", "delivered"]


@dataclass(frozen=True)
class EnergyModel:
    """Joules of the operations of some hardware.

    Attributes
    ----------
    name : str
        For tables.
    source : str
        Where the figures come from.
    per_spike, per_synaptic_operation, per_neuron_update, per_byte : float
        Joules; 0 for no cost, or an unknown one.
    operations : {"causal", "delivered"}
        Which synaptic operations the hardware carries out: those before a neuron's own spike, or
        all that are delivered to it.

    Raises
    ------
    ValueError
        If an energy is negative or not finite, or `operations` is another word.
    """

    name: str
    source: str
    per_spike: float = 0.0
    per_synaptic_operation: float = 0.0
    per_neuron_update: float = 0.0
    per_byte: float = 0.0
    operations: Operations = "causal"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.startswith("per_") and not (
                isinstance(value, int | float)
                and not isinstance(value, bool)
                and math.isfinite(value)
                and value >= 0
            ):
                raise ValueError(
                    f"energy model {self.name}: {field.name} must be joules, 0 or above; "
                    f"got {value!r}"
                )
        if self.operations not in get_args(Operations):
            raise ValueError(
                f"energy model {self.name}: operations must be one of "
                f"{', '.join(map(repr, get_args(Operations)))}; got {self.operations!r}"
            )
        if not isinstance(self.source, str):
            raise ValueError(f"energy model {self.name}: source must be a text")


def read_energy_models(path: str | Path | None = None) -> tuple[EnergyModel, ...]:
    """Energy models of a TOML file.

    Parameters
    ----------
    path : str or Path, optional
        A table for each model, with the attributes of :class:`EnergyModel` as keys; by default the
        models that come with the package: ``paper``, ``loihi`` and ``digital-45nm``.

    Returns
    -------
    tuple of EnergyModel
        In the order of the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not TOML, holds no model, or a model has a key or value that is not allowed.

    Examples
    --------
    >>> from ttfs_fast.analysis import read_energy_models
    >>> [model.name for model in read_energy_models()]
    ['paper', 'loihi', 'digital-45nm']
    """
    if path is None:
        where = "the package's energy models"
        content = resources.files("ttfs_fast.analysis").joinpath("energy_models.toml").read_bytes()
    else:
        where = str(path)
        if not Path(path).is_file():
            raise FileNotFoundError(f"no file of energy models at {path}")
        content = Path(path).read_bytes()
    try:
        tables = parse_toml(content)
    except ValueError as error:
        raise ValueError(f"{where} is not a TOML file: {error}") from error
    if not tables:
        raise ValueError(f"{where} holds no energy model; write a table [NAME] for each")
    allowed = [field.name for field in fields(EnergyModel) if field.name != "name"]
    models = []
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ValueError(f"{where}: {name} stands outside a table [NAME] of an energy model")
        models.append(_model(where, name, table, allowed))
    return tuple(models)


def _model(where: str, name: str, table: dict[str, Any], allowed: list[str]) -> EnergyModel:
    unknown = [key for key in table if key not in allowed]
    if unknown:
        raise ValueError(
            f"{where}: [{name}] has the key {unknown[0]!r}; allowed are {', '.join(allowed)}"
        )
    if "source" not in table:
        raise ValueError(f'{where}: [{name}] needs source = "where the figures come from"')
    try:
        return EnergyModel(name, **table)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
