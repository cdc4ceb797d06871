# Sourced by run_all.sh and run_tests.sh, which set $here to the repository and $extra to the extra of pyproject.toml that
# they need, if any. Finds or creates the Python to use and sets $python to it.
#   on Kaggle                                                           its Python as it is: nothing needed is missing
#                                                                       (timm has pretrainedmodels' encoders)
#   in an active environment (conda, venv) with the packages            that Python as it is
#   anywhere else                                                       .venv, made once, updated when the packages change
extra=${extra:-}

if [ -n "${KAGGLE_KERNEL_RUN_TYPE:-}" ]; then
    python=python
elif active=${VIRTUAL_ENV:-${CONDA_PREFIX:-}} && [ -n "$active" ] && [ "$active" != "$here/.venv" ] &&
    "$active/bin/python" -c "import sys; assert sys.version_info >= (3, 11)
import fastai, jinja2, packaging, safetensors, tifffile, timm, torch; assert torch.__version__ >= '2.6'${extra:+; import pytest}" 2>/dev/null; then
    python=$active/bin/python
else
    python=$here/.venv/bin/python
    packages=$(cat "$here/pyproject.toml" "$here/constraints.txt" | cksum | cut -d' ' -f1)
    stamp=$here/.venv/installed-$extra-$packages
    if ! "$python" -c '' 2>/dev/null || # no .venv, or one whose Python the system has replaced
        { [ ! -e "$stamp" ] && [ ! -e "$here/.venv/installed-test-$packages" ]; }; then # the extra test has all the others
        python3=
        for candidate in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11; do
            if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python3=$candidate; break; fi
        done
        if [ -z "$python3" ]; then
            echo "error: Python 3.11 or later is needed; install it, or name it: PYTHON=/path/to/python3 $0" >&2; exit 1
        fi
        if ! "$python" -m pip --version >/dev/null 2>&1 && ! "$python3" -m venv --clear "$here/.venv"; then
            echo "error: $python3 cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1
        fi
        echo "install  packages into .venv, once (about 3 GB to fetch, 6 GB on disk; less without a GPU: docs/how-to/install.md)"
        "$python" -m pip install --quiet --disable-pip-version-check --constraint "$here/constraints.txt" \
            --editable "$here${extra:+[$extra]}"
        find "$here/.venv" -maxdepth 1 -name 'installed-*' ! -name "*-$packages" -delete    # stamps of earlier package lists
        touch "$stamp"
    fi
fi
