from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="needs the extra ttfs_fast[plot]")

from ttfs_fast.training.curve import training_curve
from ttfs_fast.training.log import EpochRecord, write_log


def test_curve_of_a_log(tmp_path: Path) -> None:
    records = [
        EpochRecord(n, 0.001, 2 / n, 1 / n, 0.0, 20.0, 0.9, 0.91, 0.8, 0.7, 1.5, 0, 1.0)
        for n in (1, 2, 3)
    ]
    write_log(tmp_path / "log.csv", records)
    figure = training_curve(tmp_path / "log.csv")
    figure.savefig(tmp_path / "curve.png")
    assert "9.00" in figure.axes[1].get_title()
    assert list(figure.axes[0].lines[0].get_ydata()) == [2.0, 1.0, 2 / 3]
    write_log(tmp_path / "log.csv", [])
    with pytest.raises(ValueError, match="no epoch"):
        training_curve(tmp_path / "log.csv")
