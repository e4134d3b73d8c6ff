import dataclasses
import math
from pathlib import Path

import pytest

from ttfs_fast.training import EpochRecord, read_log
from ttfs_fast.training.log import write_log

RECORD = EpochRecord(
    1, 0.001, 1 / 3, 0.25, 1e-12, 26.5, 0.9, 0.95, 0.9, 0.925, 1.5, skipped_steps=2, seconds=0.75
)


def test_round_trip_keeps_every_digit(tmp_path: Path) -> None:
    records = [RECORD, dataclasses.replace(RECORD, epoch=2, loss=math.pi)]
    write_log(tmp_path / "log.csv", records)
    assert read_log(tmp_path / "log.csv") == records
    assert (tmp_path / "log.csv").read_text().startswith("epoch,learning_rate,loss,")
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3


def test_an_epoch_without_output_spikes_can_be_logged(tmp_path: Path) -> None:
    write_log(tmp_path / "log.csv", [dataclasses.replace(RECORD, first_spike_time=math.nan)])
    assert math.isnan(read_log(tmp_path / "log.csv")[0].first_spike_time)


def test_log_of_version_0_1_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    write_log(path, [RECORD])
    path.write_text(path.read_text().replace("spikes_per_neuron", "sparsity"))
    assert read_log(path) == [RECORD]
    row = dataclasses.asdict(RECORD)
    row["test_sparsity"] = row.pop("test_spikes_per_neuron")
    assert EpochRecord.from_dict(row) == RECORD


def test_invalid_logs_are_named(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"other\.csv"):
        read_log(path)
    write_log(path, [RECORD])
    path.write_text(path.read_text() + "2,oops\n")
    with pytest.raises(ValueError, match=r"other\.csv, line 3"):
        read_log(path)
