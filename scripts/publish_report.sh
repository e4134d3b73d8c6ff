#!/usr/bin/env bash
# Copies what ttfs-fast reproduce wrote (runs/report, or the folder given) into the documentation.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
report=${1:-runs/report}
target=docs/results/reproduction
mkdir -p "$target"
rm -rf "$target/tables" "$target/pictures"
cp -r "$report/report.md" "$report/tables" "$report/pictures" "$target/"
echo "$target: $(du -sh "$target" | cut -f1)"
