"""Say what this machine lacks to build ttfs_fast, and how to install it.

Exit status 0 if nothing is missing. Written to run on old Python versions too, which it is to name.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile

MINIMUM_PYTHON = (3, 11)

PROBE = """
#include <concepts>
#include <span>
template <std::integral T> T first(std::span<const T> values) { return values.front(); }
int main() { const int value = 0; return first(std::span<const int>(&value, 1)); }
"""


def compiler_command():
    """The compiler that CMake will choose: the one named in CXX, or the first one found."""
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    return next(([name] for name in ("c++", "g++", "clang++") if shutil.which(name)), [])


def compiles_cxx20(compiler):
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "probe.cpp")
        with open(source, "w", encoding="utf-8") as file:
            file.write(PROBE)
        command = [*compiler, "-std=c++20", source, "-o", os.path.join(folder, "probe")]
        try:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        except OSError:
            return False


def missing():
    """Yield one message for each thing that is missing."""
    if sys.version_info < MINIMUM_PYTHON:
        yield (
            f"Python {MINIMUM_PYTHON[0]}.{MINIMUM_PYTHON[1]} or newer is needed; "
            f"{sys.executable} is {sys.version_info[0]}.{sys.version_info[1]}.\n"
            "  Name another one: make PYTHON=python3.12"
        )
        return
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        yield (
            f"{sys.executable} cannot create virtual environments.\n"
            "  Debian, Ubuntu: apt install python3-venv"
        )
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        yield (
            f"The headers of {sys.executable} (Python.h) are missing.\n"
            "  Debian, Ubuntu: apt install python3-dev\n"
            "  Fedora:         dnf install python3-devel"
        )
    compiler = compiler_command()
    if not compiler or not compiles_cxx20(compiler):
        found = f"{shlex.join(compiler)!r} cannot compile C++20" if compiler else "none was found"
        yield (
            f"A C++20 compiler is needed (GCC 11, Clang 14 or newer); {found}.\n"
            "  Debian, Ubuntu: apt install g++\n"
            "  Fedora:         dnf install gcc-c++\n"
            "  macOS:          xcode-select --install\n"
            "  Another one:    make CXX=/path/to/compiler"
        )


if __name__ == "__main__":
    messages = list(missing())
    for message in messages:
        print(f"ttfs_fast: {message}", file=sys.stderr)
    sys.exit(1 if messages else 0)
