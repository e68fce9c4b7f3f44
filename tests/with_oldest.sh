#!/usr/bin/env bash
# Runs the tests with the oldest versions that pyproject.toml allows: tests/with_oldest.sh [arguments of pytest]
# PyPI's torch brings CUDA, several gigabytes; PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu finds one without.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
python3 -m venv "$venv"
"$venv/bin/pip" install -q -c constraints-oldest.txt -e ".[test]"
# Old versions warn of what newer ones of others deprecate.
"$venv/bin/python" -m pytest -W default "$@"
