#!/usr/bin/env bash
# All tests, in the environment of run_all.sh: format, lint, types, then pytest. Arguments go to pytest, which then runs
# alone: ./run_tests.sh -k rle
#   --soak             the long and random tests instead, hours: ./run_tests.sh --soak
#   SALT_TILES=DIR     Kaggle's tiles, for the tests that want real ones
#   SALT_WEIGHTS=DIR   ImageNet weights of tf_efficientnet_lite0, likewise
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
extra=test
source "$here/environment.sh"
cd "$here"
if [ $# -eq 0 ]; then
    "$python" -m ruff format --check --quiet .
    "$python" -m ruff check --quiet .
    "$python" -m mypy --no-error-summary
    set -- --numprocesses=auto --maxprocesses=4 --dist=loadfile    # a file's tests share what they made
fi
if [ "${1:-}" = --soak ]; then
    set -- -m soak "${@:2}"
fi
exec "$python" -m pytest "$@"
