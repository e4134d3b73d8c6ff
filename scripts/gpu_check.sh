#!/usr/bin/env bash
# Everything that only a machine with a GPU can show, in one command, without a network:
#     scripts/gpu_check.sh PYTHON OUT        checks and times the kernels; results go to the folder OUT
#     scripts/gpu_check.sh PYTHON OUT dry    the same with Triton's interpreter and tiny sizes, on a CPU
# PYTHON has torch, Triton and numpy, and pybind11, scikit-build-core, cmake and ninja to build with. The
# package is built into OUT/site, unless PYTHON already imports it. Writes gpu.json and gpu.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ $# -lt 2 ]]; then
  sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
python=$1
mkdir -p "$2"
out=$(cd "$2" && pwd)
mode=${3:-}
if [[ $mode == dry ]]; then
  export TRITON_INTERPRET=1
elif [[ -n $mode ]]; then
  echo "the third argument is 'dry' or nothing; got '$mode'" >&2
  exit 2
fi
if ! "$python" -c "import ttfs_fast" 2>/dev/null; then
  "$python" -m pip install --quiet --no-deps --no-build-isolation --target "$out/site" .
  export PYTHONPATH=$out/site${PYTHONPATH:+:$PYTHONPATH}
fi
"$python" scripts/gpu_check.py --out "$out" ${mode:+--dry}
