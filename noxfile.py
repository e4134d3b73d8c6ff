"""Checks beside `make test` and `make lint`: every supported Python, wheels, and clang-tidy.

``nox`` runs all; ``nox -s tests-3.12`` or ``nox -s tidy`` one of them.
"""

import json
from pathlib import Path

import nox

nox.options.error_on_missing_interpreters = False


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Build and install the package as a user would, and run the Python tests on it."""
    session.install("-c", "constraints.txt", ".[train,plot,nir,dev]")
    session.run("pytest", *session.posargs)


@nox.session(python=False)
def lint(session: nox.Session) -> None:
    """Run the formatters, linters, type checker and compiler warnings."""
    session.run("make", "lint", external=True)


@nox.session(python=False)
def wheel(session: nox.Session) -> None:
    """Build a source distribution and a wheel, and test it in a fresh environment."""
    session.run("make", "wheel", external=True)


@nox.session(python=False)
def sanitize(session: nox.Session) -> None:
    """Run the kernels' tests under sanitizers."""
    session.run("make", "sanitize", external=True)


@nox.session
def tidy(session: nox.Session) -> None:
    """Look for defects in the C++ sources with clang-tidy."""
    session.install("-c", "constraints.txt", "clang-tidy", "cmake", "ninja", "pybind11")
    pybind11 = session.run("python", "-m", "pybind11", "--cmakedir", silent=True)
    # Each source by itself, not the bindings as one.
    python = [
        "-D",
        "CMAKE_UNITY_BUILD=OFF",
        "-D",
        "TTFS_FAST_PYTHON=ON",
        "-D",
        f"pybind11_DIR={str(pybind11).strip()}",
    ]
    session.run("cmake", "--preset", "dev", "--log-level=WARNING", *python)
    commands = json.loads(Path("build/dev/compile_commands.json").read_text())
    sources = sorted({command["file"] for command in commands})
    # clang-tidy alone comes without omp.h (without OpenMP the same code compiles for one thread),
    # and it need not know GCC's warnings.
    flags = ["--extra-arg=-fno-openmp", "--extra-arg=-Wno-unknown-warning-option"]
    session.run("clang-tidy", "-p", "build/dev", "--quiet", *flags, *sources)
