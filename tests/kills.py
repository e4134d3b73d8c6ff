"""Kill training, quantization or a reproduction at random moments and resume it, until it ends.

    python tests/kills.py --what training quantization --kills 50 [--seed S]

Run after run is killed with SIGKILL, resumed, killed again, until it ends by itself; every run must
end with the same bits as one that nothing happened to. Runs are begun until there were that many
kills.
The exit status is 1 if bits differ, or a run fails by itself.
"""

import argparse
import dataclasses
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import load_file

from support.reproduction import SMALL
from support.runs import MANY_SETTINGS
from ttfs_fast._files import LOCK
from ttfs_fast.models import mnist_scnn
from ttfs_fast.paper import find_networks, reproduce, store
from ttfs_fast.quantization import QuantizeConfig, quantize
from ttfs_fast.training import read_log, read_metadata, train
from ttfs_fast.training.checkpoint import load_checkpoint

TRAINING = dataclasses.replace(MANY_SETTINGS, epochs=8, patience_epochs=7)
QUANTIZATION = QuantizeConfig(bits=2, epochs=3, training=TRAINING)


def run_training(folder: Path) -> None:
    train(TRAINING, folder, resume=(folder / "config.json").exists())


def run_quantization(folder: Path) -> None:
    quantize(mnist_scnn(pretrained=True), QUANTIZATION, folder, resume=True)


def run_reproduction(folder: Path) -> None:
    """Of a network that is trained beside the folder, for all runs."""
    run = folder.parent / "digits"
    if not (run / "model.safetensors").exists():
        train(TRAINING, run)
    store.FLUSH_EVERY = 0.05
    found = find_networks(quick=True, out=folder, seed=0, runs=(run,))
    parts = ("table3", "table4", "figure2")
    reproduce(SMALL, found, folder, only=parts)


WORK: dict[str, Callable[[Path], None]] = {
    "training": run_training,
    "quantization": run_quantization,
    "reproduction": run_reproduction,
}


def fingerprint(folder: Path) -> dict[str, str]:
    """A digest of everything that a run leaves, but for the time that it took."""
    if (folder / "results.json").exists():
        return _of_reproduction(folder)
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name == "log.csv":
            records = [repr({**vars(r), "seconds": 0}) for r in read_log(path)]
            found[path.name] = sha256("\n".join(records).encode()).hexdigest()
        elif path.suffix == ".safetensors":  # whose metadata have no order
            found |= _digests(path.name, load_file(path))
            found |= {f"{path.name} {key}": text for key, text in read_metadata(path).items()}
        elif path.is_file():
            found[path.name] = sha256(path.read_bytes()).hexdigest()
        else:
            found[path.name] = "folder"
    checkpoint = load_checkpoint(folder)
    assert checkpoint is not None
    for kind in ("model", "averaged", "best"):
        found |= _digests(kind, getattr(checkpoint, kind))
    for index, state in checkpoint.optimizer.items():
        found |= _digests(f"optimizer {index}", state)
    return found | _digests("random", {"generator": checkpoint.generator})


def _of_reproduction(folder: Path) -> dict[str, str]:
    """The results, and the names of all files: pages and tables say how long they took."""
    parts = json.loads((folder / "results.json").read_text())["parts"]
    found = {name: store.digest(part["result"]) for name, part in parts.items()}
    for path in sorted(folder.rglob("*")):
        if path.parent.name == "units":
            found[path.name] = sha256(path.read_bytes()).hexdigest()
        else:
            found[str(path.relative_to(folder))] = "there"
    return found


def _digests(what: str, tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    return {
        f"{what} {name}": sha256(tensor.numpy().tobytes()).hexdigest()
        for name, tensor in tensors.items()
    }


def kill_and_resume(work: Callable[[Path], None], folder: Path, most: float) -> int:
    """Run to the end, with a kill after a random time each run; returns the number of kills."""
    kills = 0
    while True:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                work(folder)
                status = 0
            finally:
                os._exit(status)
        # Ever longer pauses, so that it ends even where nothing is saved at first.
        time.sleep(random.uniform(0, most * (1 + kills / 20)))
        os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 0:
            return kills
        if status != -signal.SIGKILL:
            raise RuntimeError(f"the run failed by itself after {kills} kills")
        kills += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", choices=WORK, nargs="+", default=["training"])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given = parser.parse_args()
    random.seed(given.seed)
    torch.set_num_threads(1)
    print(f"seed {given.seed}", flush=True)
    return max(kill_often(what, given.kills) for what in given.what)


def kill_often(what: str, least: int) -> int:
    """Begin runs until so many were killed; 1 if bits differ."""
    work = WORK[what]
    print(f"{what}:", flush=True)
    kills = runs = 0
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "whole"
        begin = time.perf_counter()
        work(whole)
        seconds = time.perf_counter() - begin
        expected = fingerprint(whole)
        while kills < least:
            folder = Path(name) / str(runs)
            more = kill_and_resume(work, folder, seconds / 3)
            runs, kills = runs + 1, kills + more
            found = fingerprint(folder)
            # The lock of a killed run stays, and is no obstacle to the next one.
            names = {name for name in {*expected, *found} if Path(name).name != LOCK}
            wrong = sorted(name for name in names if expected.get(name) != found.get(name))
            if wrong:
                print(f"run {runs}, after {more} kills, differs in {', '.join(wrong)}")
                return 1
            print(f"run {runs}: {more} kills, the same {len(expected)} digests", flush=True)
    print(f"{kills} kills in {runs} runs of {what}: all ended with the same bits")
    return 0


if __name__ == "__main__":
    sys.exit(main())
