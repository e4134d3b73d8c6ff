"""The command ``ttfs-fast``: it parses, calls and prints. One module per command or group."""

from ttfs_fast._terminal import escape_unknown_characters
from ttfs_fast.cli import (  # each adds its command
    bench,
    circuit,
    convert,
    demo,
    diagnose,
    evaluate,
    export,
    info,
    predict,
    quantize,
    reproduce,
    study,
    train,
)
from ttfs_fast.cli._common import app

__all__ = [
    "app",
    "bench",
    "circuit",
    "convert",
    "demo",
    "diagnose",
    "evaluate",
    "export",
    "info",
    "main",
    "predict",
    "quantize",
    "reproduce",
    "study",
    "train",
]


def main() -> None:
    """Run the command ``ttfs-fast``."""
    escape_unknown_characters()
    app()
