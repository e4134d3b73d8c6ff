#!/usr/bin/env bash
# The core and its bindings under AddressSanitizer and UndefinedBehaviorSanitizer, with the C++ tests
# and the Python tests of the kernels; and the C++ tests under ThreadSanitizer. Needs Linux and GCC.
#     scripts/sanitize.sh PYTHON [build], where PYTHON is the one of .venv; build: compiles only
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
PATH=$(dirname "$python"):$PATH
compiler=${CXX:-g++}

library() {
  local path
  path=$($compiler -print-file-name="$1")
  if [[ $path != /* ]]; then
    echo "$compiler knows no $1: install GCC's sanitizers (Fedora: dnf install libasan libubsan libtsan)" >&2
    exit 1
  fi
  echo "$path"
}
# torch and numpy come without the sanitizer, so it has to be there first. What they and Python leave
# to the end of the process would be taken for leaks.
preload="$(library libasan.so) $(library libstdc++.so)"

cmake --preset asan --log-level=WARNING -D TTFS_FAST_PYTHON=ON -D Python_EXECUTABLE="$python" \
  -D pybind11_DIR="$("$python" -m pybind11 --cmakedir)"
cmake --preset tsan --log-level=WARNING
cmake --build --preset asan -- --quiet
cmake --build --preset tsan -- --quiet
if [[ ${2:-} == build ]]; then exit; fi
core=$(ls build/asan/cpp/_core.*.so)
# (grep without -q reads to the end: nm would fail on a pipe that closes early.)
if ! nm -D "$core" | grep __asan_report_ >/dev/null; then
  echo "$core was built without AddressSanitizer" >&2
  exit 1
fi

# Beside each other: these are most of the time, so threads sleep while they wait. (torch's own side
# of the operators has no pointers of ours, and ten thousand images add minutes and no other paths.
# Processes that a test starts load the ordinary core, and the reference layers have none.)
export OMP_WAIT_POLICY=passive
env -u TTFS_FAST_DATA LD_PRELOAD="$preload" ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=2 CI=1 \
  TTFS_FAST_TEST_CORE="$PWD/$core" \
  "$python" -m pytest -q -p no:cacheprovider --ignore=tests/operators/test_torch_integration.py \
  -k "not gradcheck and not openmp_runtime and not interpreter_lock and not can_interrupt \
    and not run_in_other_processes and not classifies_without_torch and not public_submodule \
    and not submodules_are_imported and not (numerics_table and reference)" \
  tests/operators tests/quantization/test_integer.py tests/quantization/test_network_file.py \
  tests/circuit/test_circuit_contract.py >build/asan/pytest.log 2>&1 &
kernels=$!
ctest --preset asan >build/asan/ctest.log 2>&1 &
memory=$!
status=0
ctest --preset tsan || status=1
wait $memory || status=1
cat build/asan/ctest.log
wait $kernels || status=1
tail -n 3 build/asan/pytest.log
if [[ $status != 0 ]]; then
  grep -v "^\.*$" build/asan/pytest.log >&2
fi
exit $status
