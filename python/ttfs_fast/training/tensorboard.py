"""The log of a training run, for TensorBoard."""

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ttfs_fast._extras import require
from ttfs_fast.training.log import EpochRecord
from ttfs_fast.training.run_folder import RunFolder


class Scalars:
    """Writes each column of the log as a curve over the epochs, once for each epoch.

    Parameters
    ----------
    run : Path
        Folder of the run; the files go to ``tensorboard`` inside.
    write : bool
        With false, nothing is written and the package tensorboard is not needed.

    Raises
    ------
    ValueError
        If the folder's path is not UTF-8, which TensorBoard cannot write to.
    """

    def __init__(self, run: Path, *, write: bool) -> None:
        self._folder = RunFolder(run).tensorboard
        self._writer: Any = None
        self._written = 0
        if write:
            require("tensorboard", "tensorboard")
            _check_folder(self._folder)
        self._wanted = write

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, records: Sequence[EpochRecord]) -> None:
        """Write the epochs that were not written yet."""
        if not self._wanted:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # What a run wrote beyond its newest checkpoint is rewritten.
            self._writer = SummaryWriter(str(self._folder), purge_step=1)
        for record in records[self._written :]:
            for name, value in dataclasses.asdict(record).items():
                if name != "epoch" and math.isfinite(value):
                    group = name.partition("_")[0]
                    self._writer.add_scalar(f"{group}/{name}", value, record.epoch)
        self._written = len(records)
        self._writer.flush()


def _check_folder(folder: Path) -> None:
    try:
        os.fspath(folder).encode()
    except UnicodeEncodeError as error:
        name = os.fspath(folder).encode(errors="backslashreplace").decode()
        raise ValueError(
            f"TensorBoard takes paths in UTF-8 only, and {name} is not: choose another folder "
            "or leave out tensorboard=True"
        ) from error
