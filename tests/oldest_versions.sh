#!/usr/bin/env bash
# Runs the tests with the oldest packages that pyproject.toml allows, found by uv. By hand, before a release: it takes 8 GB of disk.
# CONTRIBUTING.md has the last result.
#
#   tests/oldest_versions.sh [DIR] [arguments of pytest]      DIR: where the environment is made, once (default: .oldest-venv)
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "${1:-$here/.oldest-venv}"
venv=$(cd "${1:-$here/.oldest-venv}" && pwd)
cd "$here"
if [ ! -e "$venv/installed" ]; then
    "${PYTHON:-python3.11}" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check uv
    # fastai 2.8.7 does not run with fastcore 2, and does not say so; of pretrainedmodels there is no wheel.
    "$venv/bin/uv" pip compile --quiet --python "$venv/bin/python" --resolution lowest-direct --only-binary :all: \
        --no-binary pretrainedmodels --constraint <(echo 'fastcore<2') --extra test pyproject.toml -o "$venv/oldest.txt"
    "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" -r "$venv/oldest.txt"
    touch "$venv/installed"
fi
[ $# -gt 1 ] || set -- "$venv" --numprocesses=auto --maxprocesses=4 --dist=loadfile    # as run_tests.sh has it
# Old packages warn of what newer ones will do: no fault of theirs.
exec env PYTHONPATH="$here" "$venv/bin/python" -m pytest -o filterwarnings=default -p no:warnings "${@:2}"
