#!/usr/bin/env bash
# All tests, in the environment of run_all.sh. Arguments go to pytest: ./run_tests.sh -k rle
#   SALT_TILES=DIR     Kaggle's tiles, for the tests that want real ones
#   SALT_WEIGHTS=DIR   ImageNet weights of tf_efficientnet_lite0, likewise
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
extra=test
source "$here/environment.sh"
cd "$here"
exec "$python" -m pytest "$@"
