from pathlib import Path

import pytest

from ttfs_fast.training import TrainConfig, read_recipe
from ttfs_fast.training.recipes import names


def test_every_recipe_of_the_package_is_a_configuration() -> None:
    assert "mnist" in names()
    for name in names():
        config = TrainConfig(**read_recipe(name))
        assert config != TrainConfig()
        assert config.data_root is None  # no folder of one machine


def test_read_recipe_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('dataset = "digits"\nt_max = inf\nshift = 2\n')
    assert read_recipe(path) == {"dataset": "digits", "t_max": float("inf"), "shift": 2}
    assert TrainConfig(**read_recipe(str(path))).shift == 2.0


def test_tilde_in_paths_of_a_file_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "mine.toml"
    path.write_text(
        'data_root = "~/a"\ninitial_checkpoint = "~/b"\nteacher = "/c/~"\ndistill_weight = 0.5\n'
    )
    settings = read_recipe(path)
    assert settings["data_root"] == str(tmp_path / "a")
    assert settings["initial_checkpoint"] == str(tmp_path / "b")
    assert settings["teacher"] == "/c/~"


@pytest.mark.parametrize("name", ["no-such-recipe", "no/such/file.toml", "", "."])
def test_neither_recipe_nor_file(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"recipes that come with the package: .*mnist"):
        read_recipe(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"epochs = ", "no training settings"),
        (b"\xff\xfe", "no training settings"),
        (b"velocity = 0.9", "fields this version does not know: velocity"),
        (b"lr_start = 1\nK = 2", "lr_start is now lr, K is now weight_sum_cost"),
        (b"epochs = 0", "epochs must be at least 1"),
        (b"[train]\nepochs = 3", "does not know: train"),
    ],
)
def test_invalid_recipes_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"wrong\.toml .*{message}"):
        read_recipe(path)
