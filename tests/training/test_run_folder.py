"""Every file of a run has one name, in one module."""

import re
from pathlib import Path

import ttfs_fast
from ttfs_fast.training.run_folder import RunFolder

PACKAGE = Path(ttfs_fast.__file__).parent


def test_no_other_module_spells_a_file_name_of_a_run() -> None:
    # Read as code: docstrings and messages may name them.
    joined = re.compile(r"""/ f?["'](config\.json|quantize\.json|log\.csv|model|checkpoint-)""")
    found = [path.name for path in PACKAGE.rglob("*.py") if joined.search(path.read_text("utf-8"))]
    assert found == ["run_folder.py"]


def test_removing_a_training_run_leaves_other_files(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for file in (run.config, run.log, run.weights, run.integer_network(2), tmp_path / "notes"):
        file.write_text("x")
    for folder in (run.tensorboard, run.checkpoint(3), run.checkpoint(12345)):
        folder.mkdir()
        (folder / "inside").write_text("x")
    assert run.checkpoints() == [(3, run.checkpoint(3)), (12345, run.checkpoint(12345))]
    run.remove_training()
    assert {path.name for path in tmp_path.iterdir()} == {"model-2bit.ttfs", "notes"}
    RunFolder(tmp_path / "missing").remove_training()
    assert RunFolder(tmp_path / "missing").checkpoints() == []
