import dataclasses
import itertools
import json
import math

import pytest

from ttfs_fast.training import TrainConfig
from ttfs_fast.training.config import RENAMED, Schedule


def test_defaults_are_the_papers() -> None:
    config = TrainConfig()
    assert (config.epochs, config.batch_size) == (50, 10)
    assert (config.weight_sum_cost, config.l2_cost, config.beta, config.clip_grad) == (
        100,
        0.001,
        1,
        10,
    )
    assert (config.lr, config.min_lr) == (0.001, 0.0001)
    assert (config.schedule, config.warmup_epochs, config.adam_beta2) == ("linear", 0, 0.999)
    assert (config.weight_decay, config.ema_decay, config.val_images) == (0, 0, 0)
    assert not any(config.distortion.values())


def test_learning_rate_falls_by_the_same_amount_every_epoch() -> None:
    config = TrainConfig(epochs=50)
    rates = [config.learning_rate(epoch) for epoch in range(51)]
    steps = [after - before for before, after in itertools.pairwise(rates)]
    assert rates[0] == 0.001
    assert rates[50] == pytest.approx(0.0001)
    assert steps == pytest.approx([(0.0001 - 0.001) / 50] * 50)


def test_the_linear_schedule_is_flat_within_an_epoch() -> None:
    config = TrainConfig(epochs=5)
    assert config.learning_rate(2, 0.1) == config.learning_rate(2) == config.learning_rate(2, 1.0)


def test_cosine_schedule() -> None:
    config = TrainConfig(epochs=8, lr=0.01, min_lr=0.0002, schedule="cosine")
    assert config.learning_rate(0, 0.0) == pytest.approx(0.01)
    assert config.learning_rate(3) == pytest.approx((0.01 + 0.0002) / 2)
    assert config.learning_rate(7) == pytest.approx(0.0002)
    assert config.learning_rate(1, 0.5) == pytest.approx(
        0.0002 + (0.01 - 0.0002) * (1 + math.cos(math.pi * 1.5 / 8)) / 2
    )
    rates = [config.learning_rate(epoch, fraction) for epoch in range(8) for fraction in (0.5, 1.0)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_warmup_rises_from_zero_to_the_schedule(schedule: Schedule) -> None:
    plain = TrainConfig(epochs=10, schedule=schedule)
    config = dataclasses.replace(plain, warmup_epochs=2.0)
    for epoch, fraction, factor in ((0, 0.01, 0.005), (0, 1.0, 0.5), (1, 0.5, 0.75), (1, 1.0, 1.0)):
        expected = factor * plain.learning_rate(epoch, fraction)
        assert config.learning_rate(epoch, fraction) == pytest.approx(expected)
    assert config.learning_rate(5, 0.3) == plain.learning_rate(5, 0.3)


def test_json_round_trip() -> None:
    config = TrainConfig(dataset="digits", t_max=math.inf, seed=2**62, jitter=0.1, threads=3)
    text = config.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert TrainConfig.from_json(text) == config
    finite = dataclasses.replace(config, t_max=4.5)
    assert TrainConfig.from_json(finite.to_json()) == finite


def test_files_of_the_previous_version_are_read() -> None:
    config = TrainConfig(dataset="digits", lr=0.02, logit_scale=3.0, zoom=0.1, ema_decay=0.5)
    now = json.loads(config.to_json())
    old_names = {new: old for old, new in RENAMED.items()}
    old = {old_names.get(name, name): value for name, value in now.items()}
    assert {"lr_start", "scale", "stretch", "average", "K", "lambda_"} <= {*old}
    assert TrainConfig.from_json(json.dumps(old)) == config
    assert not {*RENAMED} & {*now}  # no name means two things
    assert {*RENAMED.values()} <= {*now}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dataset", "cifar"),
        ("polarity", "sideways"),
        ("cost_reduction", "max"),
        ("schedule", "stairs"),
        ("warmup_epochs", -1.0),
        ("adam_beta2", 1.0),
        ("weight_decay", -0.1),
        ("weight_sum", 1.0),
        ("weight_sum", math.inf),
        ("weight_norm", 0.0),
        ("ema_decay", 1.0),
        ("ema_decay", -0.5),
        ("ema_decay", math.nan),
        ("rotate", -10.0),
        ("zoom", 1.0),
        ("zoom", -0.1),
        ("shear", math.inf),
        ("elastic", math.nan),
        ("val_images", -5),
        ("val_images", 0.5),
        ("epochs", 0),
        ("epochs", 1.5),
        ("epochs", True),
        ("batch_size", -1),
        ("threads", 0),
        ("train_images", 0),
        ("lr", 0.0),
        ("min_lr", math.nan),
        ("clip_grad", -1.0),
        ("alpha", -3.0),
        ("logit_scale", 0.0),
        ("jitter", -0.1),
        ("shift", -1),
        ("beta", math.inf),
        ("t_max", math.nan),
        ("seed", -1),
        ("exclude_target", "yes"),
        ("data_root", 3),
    ],
)
def test_invalid_settings_are_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        TrainConfig(**{field: value})  # type: ignore[arg-type]


def test_equal_numbers_of_other_types_are_equal_settings() -> None:
    assert TrainConfig(alpha=3) == TrainConfig(alpha=3.0)
    assert TrainConfig(alpha=3).to_json() == TrainConfig(alpha=3.0).to_json()


def test_differences_ignore_the_data_folder() -> None:
    one = TrainConfig(seed=1, data_root="a")
    assert one.differences(TrainConfig(seed=1, data_root="b")) == []
    assert one.differences(TrainConfig(seed=2, epochs=3)) == ["epochs", "seed"]


@pytest.mark.parametrize("text", ["[]", "{", '{"velocity": 1}', '{"epochs": "many"}'])
def test_invalid_configuration_files_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"configuration|epochs"):
        TrainConfig.from_json(text)
