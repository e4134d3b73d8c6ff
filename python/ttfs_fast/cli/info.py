"""``ttfs-fast info``: what runs here."""

import os
import platform
from pathlib import Path

from ttfs_fast.cli._common import DataRoot, Debug, app, friendly_errors


@app.command()
def info(
    data_root: DataRoot = None,
    debug: Debug = False,
) -> None:
    """Show what runs here: versions, instruction set, threads, OpenMP runtime, data."""
    with friendly_errors(debug):
        import numpy
        import torch

        import ttfs_fast

        forced = os.environ.get("TTFS_FAST_ISA")
        rows = {
            "ttfs_fast": str(ttfs_fast.__version__),
            "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
            "torch": str(torch.__version__),
            "numpy": numpy.__version__,
            "instruction set": ttfs_fast.instruction_set()
            + (f" (TTFS_FAST_ISA={forced})" if forced else ""),
            "available": ", ".join(ttfs_fast.instruction_sets()),
            "threads": f"{torch.get_num_threads()} (of {os.cpu_count()} processors)",
            "OpenMP runtime": "\n".join(openmp_runtimes()) or "none found in this process",
            "data": _data_found(data_root),
        }
        for name, value in rows.items():
            for number, line in enumerate(value.splitlines()):
                print(f"{'' if number else name:<16} {line}")


def openmp_runtimes() -> list[str]:
    """Paths of the OpenMP libraries loaded into this process (Linux; empty elsewhere)."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    paths = (
        line.split(maxsplit=5)[5:]
        for line in maps.read_text(errors="backslashreplace").splitlines()
    )
    names = ("libgomp", "libiomp", "libomp")
    return sorted({p[0] for p in paths if p and Path(p[0]).name.startswith(names)})


def _data_found(data_root: Path | None) -> str:
    from ttfs_fast.data import load_digits, load_mnist

    found = [f"digits: {len(load_digits(train=True)):,} + {len(load_digits(train=False)):,} images"]
    try:
        sizes = [len(load_mnist(data_root, train=train)) for train in (True, False)]
        found.append(f"mnist: {sizes[0]:,} + {sizes[1]:,} images")
    except (OSError, ValueError) as error:
        found.append(f"mnist: {error}")
    return "\n".join(found)
