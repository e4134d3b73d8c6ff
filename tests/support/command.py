"""The command line, run in this process."""

from typing import TYPE_CHECKING

import pytest

from support.machine import torch_threads

testing = pytest.importorskip("typer.testing", reason="needs the extra ttfs_fast[train]")

from ttfs_fast import cli  # noqa: E402

if TYPE_CHECKING:
    from click.testing import Result


def run_command(*arguments: object, **options: object) -> "Result":
    """What ``ttfs-fast`` answers; ``options`` are those of CliRunner.invoke."""
    with torch_threads():
        return testing.CliRunner().invoke(cli.app, [str(word) for word in arguments], **options)


def output_of(*arguments: object, code: int = 0) -> str:
    """What ``ttfs-fast`` prints when it ends with this status."""
    done = run_command(*arguments)
    assert done.exit_code == code, done.output
    return done.output
