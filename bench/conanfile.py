"""What the C++ benchmarks need: `conan install bench -of build/conan --build missing`.

Then configure with ``-D CMAKE_TOOLCHAIN_FILE=build/conan/conan_toolchain.cmake``. Where conan's
index is out of reach, the system's package (Debian: libbenchmark-dev) serves as well.
"""

from conan import ConanFile


class Benchmarks(ConanFile):
    settings = "os", "compiler", "build_type", "arch"
    requires = "benchmark/[>=1.7 <2]"
    generators = "CMakeDeps", "CMakeToolchain"
