"""Nothing that is compiled for one instruction set can be used by code for another.

The kernels of all sets are linked into one library. A weak symbol, as templates of the standard
library leave them, may be merged with one from elsewhere: code for every processor would then call
an AVX-512 version. So the kernels of a set define exactly one symbol that the linker sees.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CPP = Path(__file__).parent.parent / "cpp"


def isa_flags() -> dict[str, list[str]]:
    """The table of cpp/isa_flags.cmake."""
    text = re.sub(r"#.*", "", (CPP / "isa_flags.cmake").read_text())
    flags = {}
    for name, value in re.findall(r"set\(TTFS_ISA_FLAGS_(\w+)\s+([^)]*)\)", text):
        flags[name] = re.findall(r"(?<![\w:])-m[\w=-]+", value)
    return flags


@pytest.mark.skipif(sys.platform != "linux", reason="reads object files as Linux has them")
@pytest.mark.skipif(not shutil.which("nm"), reason="needs nm (binutils) to read object files")
@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="one instruction set on this processor"
)
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "avx512vnni"])
def test_kernels_define_one_symbol(isa: str, tmp_path: Path) -> None:
    flags = isa_flags()
    assert set(flags) == {"baseline", "avx2", "avx512", "avx512vnni"}
    assert bool(flags[isa]) == (isa != "baseline")
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    output = tmp_path / "kernels.o"
    subprocess.run(
        [
            *compiler.split(),
            "-std=c++20",
            "-O1",
            "-fPIC",
            f"-I{CPP}",
            f"-DTTFS_ISA={isa}",
            f"-DTTFS_ISA_{isa}=1",
            *flags[isa],
            "-c",
            str(CPP / "kernels" / "kernels.cpp"),
            "-o",
            str(output),
        ],
        check=True,
    )
    listing = subprocess.run(
        ["nm", "-C", "--defined-only", "--extern-only", str(output)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    symbols = [line.split(maxsplit=2)[1:] for line in listing.splitlines()]
    assert [name for _, name in symbols] == [f"ttfs::{isa}::table"]
    assert symbols[0][0] in "DRB"  # data, not a weak definition
