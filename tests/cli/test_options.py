"""One field of a configuration is a documented, checked option of the command line."""

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

typer = pytest.importorskip("typer", reason="needs the extra ttfs_fast[train]")
typer_testing = pytest.importorskip("typer.testing")

from support.command import run_command  # noqa: E402
from support.machine import run_children  # noqa: E402
from ttfs_fast import cli  # noqa: E402
from ttfs_fast._settings import document_settings, setting, settings_of  # noqa: E402
from ttfs_fast.cli._options import Command, Given, settings_options  # noqa: E402
from ttfs_fast.quantization import QuantizeConfig  # noqa: E402
from ttfs_fast.training import TrainConfig, recipes  # noqa: E402


@document_settings
@dataclass(frozen=True)
class MoreSettings(TrainConfig):
    """Settings of training, and these.

    {settings}
    """

    boost: float = setting(0.5, "How much N is boosted.", group="Boosting", above=0, below=2)
    boosts: tuple[float, ...] = setting((), "The same, layer by layer.", group="Boosting")
    how: Literal["up", "down"] = setting("up", "In which direction.", basic=True)
    booster: str | None = setting(None, "A file.", path=True, decides=False)
    turbo: bool = setting(False, "Boost more.")


@pytest.fixture
def seen() -> list[Given]:
    return []


@pytest.fixture
def run(seen: list[Given]):  # type: ignore[no-untyped-def]
    app = typer.Typer()

    @app.command(cls=Command)
    @settings_options(MoreSettings, leave_out=["alpha"])
    def boost(given: Given, name: str = "x") -> None:
        """Boost."""
        seen.append(given | {"name": name})

    return lambda *words: typer_testing.CliRunner().invoke(
        app, list(words), env={"COLUMNS": "150", "TERMINAL_WIDTH": "150"}
    )


def test_a_new_field_is_an_option(run, seen: list[Given]) -> None:  # type: ignore[no-untyped-def]
    words = ("--boost", "1.5", "--boosts", "1,2.5", "--how", "down", "--booster", "a/b", "--turbo")
    assert run(*words).exit_code == 0
    assert seen == [
        {"boost": 1.5, "boosts": (1, 2.5), "how": "down", "booster": "a/b", "turbo": True}
        | {"name": "x"}
    ]
    given = {name: value for name, value in seen[0].items() if name != "name"}
    assert dataclasses.asdict(MoreSettings(**given)).items() >= given.items()


def test_only_given_options_are_passed(run, seen: list[Given]) -> None:  # type: ignore[no-untyped-def]
    assert run("--no-turbo", "--name", "y").exit_code == 0
    assert seen == [{"turbo": False, "name": "y"}]
    assert run("--alpha", "2").exit_code == 2  # left out
    assert run("--processes", "2").exit_code == 2  # has none
    assert run("--how", "sideways").exit_code == 2
    assert run("--boosts", "1,many").exit_code == 2


def test_a_new_field_is_in_the_help(run) -> None:  # type: ignore[no-untyped-def]
    short, whole = run("--help"), run("--help-all")
    assert (short.exit_code, whole.exit_code) == (0, 0)
    assert "In which direction. Default: up." in short.output
    assert "--boost " not in short.output
    assert "How much N is boosted. Default: 0.5." in whole.output
    assert "Boosting" in whole.output
    assert "--no-turbo" in whole.output
    assert "In which direction. Default: up." in whole.output
    assert "--boost " not in run("--help").output  # as before


def test_a_new_field_is_documented_checked_and_saved() -> None:
    documented = MoreSettings.__doc__ or ""
    assert "boost : float, default 0.5\n    How much N is boosted.\n" in documented
    assert 'how : {"up", "down"}, default \'up\'\n    In which direction.\n' in documented
    for value in (0, 2.0, math.nan, math.inf, "much", True):
        with pytest.raises(ValueError, match=r"^boost must be"):
            MoreSettings(boost=value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^boost must be finite and above 0 and below 2; got 2"):
        MoreSettings(boost=2)
    with pytest.raises(ValueError, match=r"^how must be one of up, down; got 'left'"):
        MoreSettings(how="left")  # type: ignore[arg-type]
    config = MoreSettings(boosts=(1, math.inf), how="down", turbo=True)
    assert MoreSettings.from_json(config.to_json()) == config
    assert config.differences(MoreSettings(booster="x", boosts=(1, math.inf), how="down")) == [
        "turbo"
    ]


def test_a_new_field_is_a_key_of_recipes(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "boost.toml"
    path.write_text('boost = 1\nbooster = "~/x"\n')
    with pytest.raises(ValueError, match="does not know: boost, booster"):
        recipes.read_recipe(path)
    monkeypatch.setattr(recipes, "TrainConfig", MoreSettings)
    monkeypatch.setenv("HOME", "/home")
    assert recipes.read_recipe(path) == {"boost": 1, "booster": "/home/x"}
    path.write_text("boost = 3\n")
    with pytest.raises(ValueError, match="boost must be finite and above 0 and below 2; got 3"):
        recipes.read_recipe(path)


@pytest.mark.parametrize(
    ("command", "config", "without"),
    [("train", TrainConfig, {"processes"}), ("quantize", QuantizeConfig, set())],
)
def test_every_setting_has_an_option(command: str, config: type, without: set[str]) -> None:
    parameters = typer.main.get_command(cli.app).commands[command].params
    assert {p.name for p in parameters} >= {*settings_of(config)} - without
    assert all(p.help for p in parameters)


@pytest.mark.parametrize("command", ["train", "quantize"])
def test_help_fits_a_screen_and_help_all_shows_the_rest(command: str) -> None:
    def lines(option: str) -> list[str]:
        wide = {"COLUMNS": "120", "TERMINAL_WIDTH": "120"}
        found = run_command(command, option, env=wide)
        assert found.exit_code == 0
        return found.output.splitlines()

    assert len(lines("--help")) <= 60
    assert "--weight-decay" not in "".join(lines("--help"))
    assert "--weight-decay" in "".join(lines("--help-all"))


def test_commands_import_no_other_command() -> None:
    """Commands share code through modules with a leading underscore."""
    folder = Path(cli.__file__).parent
    imports = {
        (path.stem, found)
        for path in folder.glob("*.py")
        if path.stem != "__init__"
        for found in re.findall(r"from ttfs_fast\.cli\.([a-z]\w*) import", path.read_text())
    }
    assert imports == {("demo", "reproduce")}  # the demo ends with a report


def test_shell_completion_works() -> None:
    expected = {
        "ttfs-fast dia": "diagnose",
        "ttfs-fast train --optim": "--optimizer",
        "ttfs-fast train --weight-d": "--weight-decay",  # which --help leaves out
        "ttfs-fast train --optimizer m": "muon",
        "ttfs-fast quantize --bits ": "4",
        "ttfs-fast circuit jit": "jitter",
    }
    program = "import sys; sys.argv = ['ttfs-fast']; from ttfs_fast import cli; cli.main()"
    children = [
        (
            program,
            {
                "_TTFS_FAST_COMPLETE": "complete_bash",
                "COMP_WORDS": words,
                "COMP_CWORD": str(words.count(" ")),
            },
        )
        for words in expected
    ]
    found = run_children("from ttfs_fast import cli", children)
    for (words, completed), done in zip(expected.items(), found, strict=True):
        assert completed in done.stdout.split(), (words, done.stderr)
