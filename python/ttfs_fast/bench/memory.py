"""Peak resident memory of training SpikingVGG16's shapes, in a process of its own."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import torch

from ttfs_fast.bench import networks


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage, whose number a process started by a larger one inherits.
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def measure(kind: networks.Kind, batch: int, threads: int, width: float = 1.0) -> dict[str, int]:
    """Peak bytes before and after two training steps, in a fresh process.

    The second step is the larger one: Adam's state is in memory while it computes.
    """
    command = [sys.executable, "-c", "from ttfs_fast.bench.memory import main; main()", kind]
    command += ["--batch", str(batch), "--threads", str(threads), "--width", str(width)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise OSError(
            f"measuring the memory of the {kind} network failed with exit status "
            f"{done.returncode}: {said[-1] if said else 'it said nothing; was there too little?'}"
        )
    found: dict[str, int] = json.loads(done.stdout)
    return found


def main() -> None:
    """What the fresh process runs; prints the two peaks as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=get_args(networks.Kind))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--width", type=float, default=1.0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    before = peak_bytes()
    model = networks.vgg16(args.kind, args.width)
    target = torch.arange(args.batch) % 10
    step = networks.training_step(args.kind, model, networks.images(args.batch), target)
    for _ in range(2):
        step()
    print(json.dumps({"before": before, "peak": peak_bytes()}))
