"""``ttfs-fast info``: versions and hardware."""

import os
import platform
from importlib import metadata
from pathlib import Path

from ttfs_fast.cli._common import DataRoot, Debug, app, friendly_errors


@app.command()
def info(
    data_root: DataRoot = None,
    debug: Debug = False,
) -> None:
    """Show versions, instruction set, threads, OpenMP runtime, GPUs, data."""
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
            "GPU": "\n".join(gpus()),
            "data": _data_found(data_root),
        }
        for name, value in rows.items():
            for number, line in enumerate(value.splitlines()):
                print(f"{'' if number else name:<16} {line}")


def gpus() -> list[str]:
    """Each GPU, the implementation of spiking layers there, and Triton's version."""
    import torch

    from ttfs_fast.gpu.dispatch import kernels_in_use

    try:
        triton = f"Triton {metadata.version('triton')}"
    except metadata.PackageNotFoundError:
        triton = 'Triton is not installed (pip install "ttfs_fast[gpu]")'
    if not torch.cuda.is_available():
        return [f"none found by torch; {triton}"]
    found = []
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        found.append(
            f"cuda:{index}: {torch.cuda.get_device_name(index)}, compute capability "
            f"{major}.{minor}; layers run on {kernels_in_use(torch.device('cuda', index))}"
        )
    return [*found, triton]


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
