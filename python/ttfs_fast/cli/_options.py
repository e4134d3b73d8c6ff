"""Options of the command line, made from the fields of a configuration."""

import functools
import inspect
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import typer
import typer.core

from ttfs_fast._settings import Setting, plain_type, settings_of

Given = dict[str, Any]
"""The fields of a configuration that the command line gave, with their values."""

EVERYTHING = "ttfs_fast.help_all"
"""Set in a context whose help shows every option."""


class Command(typer.core.TyperCommand):
    """A command whose ``--help`` leaves out the settings that are not basic."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help text."""
        advanced = getattr(self.callback, "advanced", ())
        left_out = [p for p in self.get_params(ctx) if p.name in advanced]
        if ctx.meta.get(EVERYTHING):
            left_out = []
        for parameter in left_out:  # completion knows them all the same
            parameter.hidden = True  # type: ignore[attr-defined]
        try:
            super().format_help(ctx, formatter)
        finally:
            for parameter in left_out:
                parameter.hidden = False  # type: ignore[attr-defined]


def settings_options(
    *configs: type, leave_out: Collection[str] = (), inherited: type | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command: in place of its parameter ``given`` it has an option for every setting.

    Parameters
    ----------
    *configs : type
        Configurations (`ttfs_fast._settings`); of two fields of one name the first counts. A
        field ``clip_grad`` becomes ``--clip-grad``, a bool ``--hflip/--no-hflip``, a Literal its
        choices, a tuple a list with commas. Its help is the field's, with the default; ranges are
        left to the configuration's own check.
    leave_out : collection of str
        Fields without an option.
    inherited : type, optional
        The one of these whose defaults are not the class's: its help names none.
    """
    settings: dict[str, tuple[Any, Setting]] = {}
    options = []
    for config in configs:
        for name, found in settings_of(config).items():
            if found[1].option and name not in settings and name not in leave_out:
                settings[name] = found
                options.append(_parameter(name, *found, default=config is not inherited))
    advanced = {name for name, (_, known) in settings.items() if not known.basic}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            values.pop("help_all")
            given = {name: values.pop(name) for name in settings}
            command(**values, given=Given(given_values(given.items())))

        parameters = []
        for own in inspect.signature(command, eval_str=True).parameters.values():
            own = own.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            parameters += [*options, _help_all(len(advanced))] if own.name == "given" else [own]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {own.name: own.annotation for own in parameters}
        run.advanced = advanced  # type: ignore[attr-defined]
        return run

    return decorate


def given_values(values: Iterable[tuple[str, Any]]) -> Given:
    """Those of the values that were given, as configurations take them: paths as text."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in values
        if value is not None
    }


def numbers(text: str) -> tuple[float, ...]:
    """A list of numbers, with commas between them."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers, such as 1,2.5,4") from None


MOST_SPELLED_OUT = 6
"""Largest number of choices shown beside an option. Longer lists are in its help text."""


def _parameter(name: str, field: Any, known: Setting, *, default: bool) -> inspect.Parameter:
    wanted: Any = plain_type(field.type)
    text, spelled = known.help, f"--{name.replace('_', '-')}"
    more: dict[str, Any] = {}
    if default and field.default not in (None, ()):
        text += f" Default: {_default_text(field.default)}."
    if known.choices and known.also_text:
        more = {"metavar": "NAME", "autocompletion": _completion(known.choices)}
    elif known.choices:
        wanted = Literal[known.choices]
        if len(known.choices) > MOST_SPELLED_OUT:
            more = {"metavar": "NAME"}
    if wanted is bool:
        spelled += f"/--no-{spelled.removeprefix('--')}"
    elif get_origin(wanted) is tuple:
        wanted, more = str, {"parser": numbers, "metavar": "X,Y,..."}
    elif known.path:
        wanted = Path
    info = typer.Option(spelled, help=text, show_default=False, rich_help_panel=known.group, **more)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[wanted | None, info],
    )


def _completion(choices: tuple[str, ...]) -> Callable[[str], list[str]]:
    """What the shell offers for the beginning of a choice."""

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


def _default_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _help_all(more: int) -> inspect.Parameter:
    def show(ctx: typer.Context, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            ctx.meta[EVERYTHING] = True
            print(ctx.get_help())
            raise typer.Exit

    info = typer.Option(
        "--help-all",
        help=f"Show every option: {more} more.",
        show_default=False,
        is_eager=True,
        callback=show,
    )
    return inspect.Parameter(
        "help_all",
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[bool, info],
    )
