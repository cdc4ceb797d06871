#!/usr/bin/env bash
# All tests, in the environment of run_all.sh: format, lint, types, then pytest. With arguments only pytest runs, and
# gets them: ./run_tests.sh -k rle
#   --soak             the long randomised tests instead; they take hours: ./run_tests.sh --soak
#   SALT_TILES=DIR     Kaggle's tiles, for the tests that need real ones
#   SALT_WEIGHTS=DIR   ImageNet weights of tf_efficientnet_lite0, for the tests that need them
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
extra=test
source "$here/environment.sh"
cd "$here"
if [ $# -eq 0 ]; then
    "$python" -m ruff format --check --quiet .
    "$python" -m ruff check --quiet .
    "$python" -m mypy --no-error-summary
    set -- --numprocesses=auto --maxprocesses=4 --dist=loadfile    # the tests of one file share what they make
fi
if [ "${1:-}" = --soak ]; then
    set -- -m soak "${@:2}"
fi
exec "$python" -m pytest "$@"
