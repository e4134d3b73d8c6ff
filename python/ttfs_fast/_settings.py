"""Configurations whose fields each say once what they mean, what they may be and where they count.

A configuration is a frozen dataclass, documented with `document_settings`, whose fields are made
by `setting` and whose ``__post_init__`` calls `check_settings`. From a field follow its
documentation, its check, its place in JSON and recipes, and its option on the command line
(`ttfs_fast.cli._options`).
"""

import dataclasses
import inspect
import math
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin

T = TypeVar("T")
KEY = "setting"
"""Under which a field's metadata hold its `Setting`."""


@dataclass(frozen=True)
class Setting:
    """What a field of a configuration knows about itself; `setting` explains each part."""

    help: str
    group: str
    basic: bool
    min: float | None
    above: float | None
    max: float | None
    below: float | None
    infinite: bool
    path: bool
    decides: bool
    option: bool
    choices: tuple[str, ...]
    also: Callable[[str], bool] | None
    also_text: str

    def problem(self, value: float) -> str | None:
        """What ``value`` must be, if it is not; None if it is allowed."""
        allowed = (
            (self.infinite or math.isfinite(value))
            and (self.min is None or value >= self.min)
            and (self.above is None or value > self.above)
            and (self.max is None or value <= self.max)
            and (self.below is None or value < self.below)
            and not math.isnan(value)
        )
        return None if allowed else self.range

    @property
    def range(self) -> str:
        """The numbers that are allowed, in words; empty if any finite one is."""
        parts = [
            f"{word} {bound:g}"
            for word, bound in (
                ("at least", self.min),
                ("above", self.above),
                ("at most", self.max),
                ("below", self.below),
            )
            if bound is not None
        ]
        text = " and ".join(parts)
        if self.infinite:
            return f"{text}, or inf" if text else "a number, or inf"
        return text or "finite"


def setting(
    default: T,
    help: str,
    *,
    group: str = "Learning",
    basic: bool = False,
    min: float | None = None,
    above: float | None = None,
    max: float | None = None,
    below: float | None = None,
    infinite: bool = False,
    path: bool = False,
    decides: bool = True,
    option: bool = True,
    choices: Sequence[str] = (),
    also: Callable[[str], bool] | None = None,
    also_text: str = "",
) -> T:
    """A field of a configuration.

    Parameters
    ----------
    default : object
        Its default value.
    help : str
        What it means: its documentation, and its help on the command line.
    group : str
        Heading under which the command line lists it.
    basic : bool
        ``--help`` shows it; ``--help-all`` shows every one.
    min, above, max, below : float, optional
        Bounds of a number.
    infinite : bool
        Infinity is allowed, too.
    path : bool
        It names a file or a folder; ``~`` is the home folder in recipes.
    decides : bool
        It decides the result: a run that is resumed must have the same.
    option : bool
        The command line has an option for it.
    choices : sequence of str
        Texts that are allowed; by default any.
    also : callable, optional
        Returns whether another text is allowed in addition to the choices.
    also_text : str
        What such a text is, in words; without it, users are not told, and the command line does
        not take it.
    """
    ranges = (min, above, max, below, infinite)
    known = Setting(
        help, group, basic, *ranges, path, decides, option, tuple(choices), also, also_text
    )
    field: T = dataclasses.field(default=default, metadata={KEY: known})
    return field


def settings_of(config: Any) -> dict[str, tuple["dataclasses.Field[Any]", Setting]]:
    """The fields of a configuration, or of its class, that are settings, by name."""
    return {
        field.name: (field, field.metadata[KEY])
        for field in dataclasses.fields(config)
        if KEY in field.metadata
    }


def document_settings(cls: type[T]) -> type[T]:
    """Put the settings of a class at ``{settings}`` in its docstring, in numpydoc's format."""
    if cls.__doc__ is not None:  # as with python -OO
        rows = []
        for name, (field, known) in settings_of(cls).items():
            default = f"default {field.default!r}"
            kind = _choices_text(known.choices) if known.choices else _type_text(field.type)
            rows.append(f"{name} : {kind}, {default}")
            rows.append(textwrap.indent(textwrap.fill(known.help, 95), "    "))
        text = "\n".join(["Attributes", "----------", *rows])
        cls.__doc__ = inspect.cleandoc(cls.__doc__).replace("{settings}", text)
    return cls


def check_settings(config: Any) -> None:
    """Bring the settings of a frozen dataclass to their types, and check their ranges.

    Raises
    ------
    ValueError
        If a value is not allowed; the message names the field, what is allowed and the value.
    """
    for name, (field, known) in settings_of(config).items():
        value = _typed(field, getattr(config, name))
        object.__setattr__(config, name, value)
        _check_choice(name, known, value)
        if type(value) not in (int, float) or get_origin(field.type) is Literal:
            continue
        if (allowed := known.problem(value)) is not None:
            finite = isinstance(value, float) and not known.infinite and known.range != "finite"
            must = f"finite and {allowed}" if finite else allowed
            raise ValueError(f"{name} must be {must}; got {value}")


def _check_choice(name: str, known: Setting, value: Any) -> None:
    if not known.choices or value in known.choices:
        return
    if known.also is None or not known.also(value):
        allowed = ", ".join(known.choices)
        more = f", or {known.also_text}" if known.also_text else ""
        raise ValueError(f"{name} must be one of {allowed}{more}; got {value!r}")


def check_names(cls: type, values: Mapping[str, Any], source: str) -> None:
    """Raise ValueError if a name is no field of a configuration."""
    known = {field.name for field in dataclasses.fields(cls)}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"{source} has fields this version does not know: {', '.join(unknown)}")


def settings_that_differ(config: T, other: T) -> list[str]:
    """Names of the settings in which two configurations would give different results."""
    return [
        name
        for name, (_, known) in settings_of(config).items()
        if known.decides and getattr(config, name) != getattr(other, name)
    ]


def settings_to_values(config: Any) -> dict[str, Any]:
    """The settings as JSON takes them; an infinite number becomes a string, ``"inf"``."""
    return {name: _to_json(getattr(config, name)) for name in settings_of(config)}


def settings_from_values(cls: type[T], values: Mapping[str, Any], source: str) -> T:
    """A configuration from what `settings_to_values` gave.

    Raises
    ------
    ValueError
        If a field is unknown, or a value is not allowed.
    """
    check_names(cls, values, source)
    types = {field.name: field.type for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return cls(**{name: _from_json(types[name], value) for name, value in values.items()})


def expand_paths(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with the home folder for ``~`` in those that name files or folders."""
    paths = {name for name, (_, known) in settings_of(cls).items() if known.path}
    return {
        name: os.path.expanduser(value) if name in paths and isinstance(value, str) else value
        for name, value in values.items()
    }


def plain_type(wanted: Any) -> Any:
    """The type of a field, without the None of one that may be left out."""
    if get_origin(wanted) is UnionType:
        (wanted,) = (part for part in get_args(wanted) if part is not type(None))
    return wanted


def _to_json(value: Any) -> Any:
    if isinstance(value, float) and math.isinf(value):
        return str(value)
    return [_to_json(part) for part in value] if isinstance(value, tuple) else value


def _from_json(wanted: Any, value: Any) -> Any:
    if plain_type(wanted) is float and value in ("inf", "-inf"):
        return float(value)
    if get_origin(wanted) is tuple and isinstance(value, list):
        return tuple(_from_json(get_args(wanted)[0], part) for part in value)
    return value


def _typed(field: "dataclasses.Field[Any]", value: Any) -> Any:
    """``value`` as the type that ``field`` declares, so that equal settings compare equal."""
    wanted, plain = field.type, plain_type(field.type)
    if value is None and plain is not wanted:
        return None
    if get_origin(plain) is Literal:
        if value not in get_args(plain) or isinstance(value, bool):
            allowed = ", ".join(map(str, get_args(plain)))
            raise ValueError(f"{field.name} must be one of {allowed}; got {value!r}")
        return value
    if plain is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _as_float(field.name, value)
    if plain is int and isinstance(value, int) and not isinstance(value, bool):
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"{field.name} must be an integer of 64 bits; got a longer one")
        return value
    if plain in (str, bool) and isinstance(value, plain):
        return value
    if get_origin(plain) is tuple and isinstance(value, list | tuple):
        numbers = [t for t in value if isinstance(t, int | float) and not isinstance(t, bool)]
        if len(numbers) == len(value) and not any(map(math.isnan, numbers)):
            return tuple(_as_float(field.name, number) for number in numbers)
    raise ValueError(f"{field.name} must be {_type_text(wanted)}; got {value!r}")


def _as_float(name: str, value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        raise ValueError(f"{name} must be below 1e308; got an integer above it") from None


def _choices_text(choices: Sequence[Any]) -> str:
    return f"{{{', '.join(map(repr, choices))}}}".replace("'", '"')


def _type_text(wanted: Any) -> str:
    if (plain := plain_type(wanted)) is not wanted:
        return f"{_type_text(plain)} or None"
    if get_origin(wanted) is Literal:
        return _choices_text(get_args(wanted))
    if get_origin(wanted) is tuple:
        return "tuple of float"
    return str(wanted.__name__)
