"""The command ``ttfs-fast``: parse, call, print. One module a group of commands."""

from ttfs_fast._terminal import escape_unknown_characters
from ttfs_fast.cli import (  # each adds its commands
    bench,
    circuit,
    demo,
    evaluation,
    experiments,
    export,
    info,
    quantization,
    reproduction,
    training,
)
from ttfs_fast.cli._common import app

__all__ = [
    "app",
    "bench",
    "circuit",
    "demo",
    "evaluation",
    "experiments",
    "export",
    "info",
    "main",
    "quantization",
    "reproduction",
    "training",
]


def main() -> None:
    """Run the command ``ttfs-fast``."""
    escape_unknown_characters()
    app()
