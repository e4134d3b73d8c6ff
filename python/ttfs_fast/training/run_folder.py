"""The folder of a run, of float training or of quantization-aware training: its file names."""

import re
from dataclasses import dataclass
from pathlib import Path

from ttfs_fast._files import remove_folder, remove_partials
from ttfs_fast.models.pretrained import WEIGHTS

CHECKPOINT_WEIGHTS = "model.safetensors"
CHECKPOINT_REST = "optimizer.safetensors"
CHECKPOINT_STATE = "state.json"

_CHECKPOINT = re.compile(r"checkpoint-(\d{4,})")


@dataclass(frozen=True)
class RunFolder:
    """Paths of the files of a run.

    Attributes
    ----------
    path : Path
        The folder. It need not exist.
    """

    path: Path

    @property
    def config(self) -> Path:
        """Settings of a training run, as JSON."""
        return self.path / "config.json"

    @property
    def qat_config(self) -> Path:
        """Settings of a run of quantization-aware training, as JSON."""
        return self.path / "quantize.json"

    @property
    def log(self) -> Path:
        """The log, as CSV: one row per epoch."""
        return self.path / "log.csv"

    @property
    def weights(self) -> Path:
        """The final weights."""
        return self.path / WEIGHTS

    @property
    def generation_before(self) -> "RunFolder":
        """The run of the network that teaches this one, with several generations."""
        return RunFolder(self.path / "generation-before")

    @property
    def tensorboard(self) -> Path:
        """Folder of the log for TensorBoard."""
        return self.path / "tensorboard"

    def integer_network(self, bits: int) -> Path:
        """The integer network with weights of this many bits."""
        return self.path / f"model-{bits}bit.ttfs"

    def checkpoint(self, epoch: int) -> Path:
        """Folder of the checkpoint after this many epochs."""
        return self.path / f"checkpoint-{epoch:04d}"

    def checkpoints(self) -> list[tuple[int, Path]]:
        """The checkpoints that are there, as (finished epochs, folder), oldest first."""
        if not self.path.is_dir():
            return []
        return sorted(
            (int(match.group(1)), path)
            for path in self.path.iterdir()
            if (match := _CHECKPOINT.fullmatch(path.name)) and path.is_dir()
        )

    @property
    def holds_training(self) -> bool:
        """Whether a training run, or a part of one, is there."""
        return (
            self.config.exists()
            or bool(self.checkpoints())
            or (self.path.is_dir() and self.generation_before.holds_training)
        )

    def remove_training(self) -> None:
        """Remove a training run. Its settings go first: nothing can resume from the rest alone."""
        self.config.unlink(missing_ok=True)
        for _, folder in self.checkpoints():
            remove_folder(folder)
        for file in (self.log, self.weights):
            file.unlink(missing_ok=True)
        if self.tensorboard.is_dir():
            remove_folder(self.tensorboard)
        if self.path.is_dir():
            remove_partials(self.path)
        if (before := self.generation_before).path.is_dir():
            before.remove_training()
