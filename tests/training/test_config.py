import dataclasses
import itertools
import json
import math

import pytest

from ttfs_fast.training import TrainConfig


def test_defaults_are_the_papers() -> None:
    config = TrainConfig()
    assert (config.epochs, config.batch_size) == (50, 10)
    assert (config.K, config.lambda_, config.beta, config.max_gradient) == (100, 0.001, 1, 10)
    assert (config.lr_start, config.lr_end) == (0.001, 0.0001)


def test_learning_rate_falls_by_the_same_amount_every_epoch() -> None:
    config = TrainConfig(epochs=50)
    rates = [config.learning_rate(epoch) for epoch in range(51)]
    steps = [after - before for before, after in itertools.pairwise(rates)]
    assert rates[0] == 0.001
    assert rates[50] == pytest.approx(0.0001)
    assert steps == pytest.approx([(0.0001 - 0.001) / 50] * 50)


def test_json_round_trip() -> None:
    config = TrainConfig(dataset="digits", t_max=math.inf, seed=2**62, jitter=0.1, threads=3)
    text = config.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert TrainConfig.from_json(text) == config
    finite = dataclasses.replace(config, t_max=4.5)
    assert TrainConfig.from_json(finite.to_json()) == finite


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dataset", "cifar"),
        ("polarity", "sideways"),
        ("cost_reduction", "max"),
        ("epochs", 0),
        ("epochs", 1.5),
        ("epochs", True),
        ("batch_size", -1),
        ("threads", 0),
        ("train_images", 0),
        ("lr_start", 0.0),
        ("lr_end", math.nan),
        ("max_gradient", math.inf),
        ("alpha", -3.0),
        ("scale", 0.0),
        ("jitter", -0.1),
        ("shift", -1),
        ("beta", math.inf),
        ("t_max", math.nan),
        ("seed", -1),
        ("exclude_target", "yes"),
        ("data_root", 3),
    ],
)
def test_what_is_not_allowed_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        TrainConfig(**{field: value})  # type: ignore[arg-type]


def test_equal_numbers_of_other_types_are_equal_settings() -> None:
    assert TrainConfig(alpha=3) == TrainConfig(alpha=3.0)
    assert TrainConfig(alpha=3).to_json() == TrainConfig(alpha=3.0).to_json()


def test_differences_leave_out_where_the_data_lie() -> None:
    one = TrainConfig(seed=1, data_root="a")
    assert one.differences(TrainConfig(seed=1, data_root="b")) == []
    assert one.differences(TrainConfig(seed=2, epochs=3)) == ["epochs", "seed"]


@pytest.mark.parametrize("text", ["[]", "{", '{"momentum": 1}', '{"epochs": "many"}'])
def test_a_file_that_is_no_configuration(text: str) -> None:
    with pytest.raises(ValueError, match=r"configuration|epochs"):
        TrainConfig.from_json(text)
