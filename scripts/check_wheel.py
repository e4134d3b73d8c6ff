"""Check an installed wheel, where it is installed: python -I check_wheel.py WHEEL.

The kernels against the plain operators, the trained network that comes with the package, a stored
integer network, the command line, and that the process has one OpenMP runtime, torch's. With the
file of the wheel also what is in it: no second OpenMP runtime, and no file that belongs elsewhere.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

RUNTIMES = ("libgomp", "libiomp", "libomp")


def main() -> None:
    import torch

    import ttfs_fast
    from ttfs_fast import quantization, reference
    from ttfs_fast.data import load_digits
    from ttfs_fast.encoding import encode
    from ttfs_fast.models import mnist_scnn

    place = Path(ttfs_fast.__file__)
    assert place.is_relative_to(sys.prefix), f"{place} is not what was installed in {sys.prefix}"
    if len(sys.argv) > 1:
        check_content(Path(sys.argv[1]))

    torch.manual_seed(1)
    z = (2 * torch.rand(50, 300)).exp().requires_grad_()
    weight = (torch.randn(70, 300) * 0.2 + 0.01).requires_grad_()
    for isa in ttfs_fast.instruction_sets():
        ttfs_fast.set_instruction_set(isa)
        out = ttfs_fast.spiking_linear(z, weight)
        assert out.isfinite().float().mean() > 0.5
        plain = reference.spiking_linear(z, weight)
        near = torch.isclose(out, plain, rtol=1e-4)
        assert near.float().mean() > 0.999, f"{isa}: {near.float().mean():.2%}"
    grads = torch.autograd.grad(out[out.isfinite()].log().mean(), [z, weight])
    assert all(grad.isfinite().all() and grad.any() for grad in grads)

    digits = load_digits(train=False)
    model = mnist_scnn(pretrained=True)
    pixels = torch.from_numpy(digits.images[:100]).float() / 255
    assert model(encode(pixels, alpha=3.0)).isfinite().any()
    with tempfile.TemporaryDirectory() as folder:
        net = quantization.convert(model, bits=4)
        again = quantization.load(net.save(Path(folder) / "net.ttfs"))
        classes = again.classify(digits.images[:100])
    assert (classes >= 0).mean() > 0.9

    runtimes = openmp_runtimes()
    expected = 1 if sys.platform == "linux" else None  # elsewhere there is no list to look at
    assert expected is None or len(runtimes) == expected, runtimes
    command = Path(sys.executable).parent / "ttfs-fast"
    shown = subprocess.run([command, "info"], capture_output=True, text=True, check=True).stdout
    assert f"{ttfs_fast.__version__}" in shown
    print(shown.rstrip())


def openmp_runtimes() -> set[str]:
    """OpenMP runtimes in this process."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return set()
    files = {line.split()[-1] for line in maps.read_text().splitlines() if ".so" in line}
    return {file for file in files if Path(file).name.startswith(RUNTIMES)}


def check_content(wheel: Path) -> None:
    """That the wheel holds the package, its data, and nothing else."""
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if any(runtime in name for runtime in RUNTIMES)], names
    elsewhere = [n for n in names if not n.startswith(("ttfs_fast/", "ttfs_fast-"))]
    assert elsewhere == [], elsewhere
    needed = ("py.typed", "_core.pyi", "mnist_scnn.safetensors", "mnist.toml", "entry_points.txt")
    missing = [name for name in needed if not any(n.endswith(name) for n in names)]
    assert missing == [], missing


if __name__ == "__main__":
    main()
