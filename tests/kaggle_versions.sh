#!/usr/bin/env bash
# Runs the tests with the versions of Kaggle's image (2026-11) instead of those in constraints.txt, and without
# pretrainedmodels. By hand, before a release: it takes 8 GB of disk. CONTRIBUTING.md has the last result.
#
#   tests/kaggle_versions.sh [DIR] [arguments of pytest]      DIR: where the environment is made, once (default: .kaggle-venv)
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "${1:-$here/.kaggle-venv}"
venv=$(cd "${1:-$here/.kaggle-venv}" && pwd)
python3=python3
for candidate in "${PYTHON:-python3.12}" python3.12 "$HOME"/.pyenv/versions/3.12.*/bin/python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null; then python3=$candidate; break; fi
done
[ "$python3" != python3 ] || echo "note     Kaggle has Python 3.12; here it is $(python3 --version)" >&2

if [ ! -e "$venv/installed" ]; then
    "$python3" -m venv "$venv"
    image=('fastai==2.8.7' 'fastcore<2' 'torch==2.10.*' 'torchvision==0.25.*' 'timm==1.0.26' 'numpy==2.0.*' 'pandas==2.2.*'
           'pillow==11.3.*' 'scikit-learn==1.6.*' 'onnx==1.18.*' accelerate jinja2 matplotlib kornia ray safetensors
           tensorboard tifffile tqdm wandb)
    tests_need=(httpx hypothesis ipykernel mkdocs-material nbclient onnxruntime playwright pytest pytest-xdist segyio starlette uvicorn)
    "$venv/bin/pip" install --quiet --disable-pip-version-check "${image[@]}" "${tests_need[@]}"
    touch "$venv/installed"
fi
"$venv/bin/python" -c 'import importlib.util, sys; sys.exit(any(map(importlib.util.find_spec, ["pretrainedmodels", "munch"])))'
cd "$here"
[ $# -gt 1 ] || set -- "$venv" --numprocesses=auto --maxprocesses=4 --dist=loadfile    # as run_tests.sh has it
exec env PYTHONPATH="$here" "$venv/bin/python" -m pytest "${@:2}"
