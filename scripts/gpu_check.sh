#!/usr/bin/env bash
# Everything that only a machine with a GPU can show, in one command of 6 minutes, without a network:
#     scripts/gpu_check.sh PYTHON OUT        checks, times and trains; results go to the folder OUT
#     scripts/gpu_check.sh PYTHON OUT dry    the same with Triton's interpreter and tiny sizes, on a CPU
# PYTHON has torch, Triton, numpy, lightning and safetensors, and pybind11, scikit-build-core, cmake and
# ninja to build with. The package is built into OUT/site, unless PYTHON already imports it. CIFAR-10's binary
# files are looked for in $TTFS_FAST_DATA; without them random images of its shape are trained on, which
# takes as long. Writes gpu.json, gpu.md and gpu.svg, after each part what is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ $# -lt 2 ]]; then
  sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
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
begin=$SECONDS
if ! "$python" -c "import ttfs_fast" 2>/dev/null; then
  "$python" -m pip install --quiet --no-deps --no-build-isolation --target "$out/site" .
  export PYTHONPATH=$out/site${PYTHONPATH:+:$PYTHONPATH}
fi
data=()
for folder in "${TTFS_FAST_DATA:-}" "${TTFS_FAST_DATA:-}/cifar10" "${TTFS_FAST_DATA:-}/cifar-10-batches-bin"; do
  if [[ -n ${TTFS_FAST_DATA:-} && -f $folder/data_batch_1.bin ]]; then
    data=(--data "$folder")
  fi
done
seconds=$((350 - (SECONDS - begin)))
"$python" scripts/gpu_check.py --out "$out" --seconds "$seconds" "${data[@]}" ${mode:+--dry}
