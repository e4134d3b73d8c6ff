"""The command ``ttfs-fast``: parse, call, print. One module a group of commands."""

from ttfs_fast.cli import circuit, info, quantization, training  # each adds its commands
from ttfs_fast.cli._common import app

__all__ = ["app", "circuit", "info", "main", "quantization", "training"]


def main() -> None:
    """Run the command ``ttfs-fast``."""
    app()
