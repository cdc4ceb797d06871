#!/usr/bin/env bash
# The sample, the decoded tiles and the folds, byte for byte, on Python 3.11, 3.12 and 3.13 with today's packages, and on 3.11 with the
# oldest that pyproject.toml allows. By hand: minutes, 2 GB; CONTRIBUTING.md has the last result. These stages need no torch.
#
#   tests/same_everywhere.sh [DIR]      DIR: where the environments are made, once (default: .same-venvs)
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "${1:-$here/.same-venvs}"
venvs=$(cd "${1:-$here/.same-venvs}" && pwd)
packages=(numpy pandas pillow scikit-learn scipy tifffile tqdm)
oldest=()
for name in "${packages[@]}"; do
    lowest=$(sed -n "s/^ *\"$name>=\([0-9.]*\)\".*/\1/p" "$here/pyproject.toml")
    oldest+=("$name${lowest:+==$lowest.*}")
done

make() {        # sample, tiles and folds with one Python, in the current folder; prints the hash of each file but the sidecars
    for scheme in kfold coverage mosaic; do
        for stage in prepare make_folds; do
            PYTHONPATH="$here" "$1" -m "pipeline.$stage" --profile demo --run "$scheme" --set "folds.scheme=$scheme" >/dev/null || return
        done
    done
    find . -type f ! -name '*.json' | sort | xargs sha256sum
}

first=
for version in 3.11 3.12 3.13 oldest; do
    number=${version/oldest/3.11} python=
    for candidate in "python$number" "$HOME/.pyenv/versions/$number".*/bin/python; do
        if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$number')" 2>/dev/null; then python=$candidate; break; fi
    done
    if [ -z "$python" ]; then echo "missing  Python $number" >&2; exit 1; fi
    venv=$venvs/$version
    if [ ! -e "$venv/installed" ]; then
        wanted=("${packages[@]}")
        if [ "$version" = oldest ]; then wanted=("${oldest[@]}"); fi
        "$python" -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check "${wanted[@]}"
        touch "$venv/installed"
    fi
    work=$(mktemp -d)
    made=$(cd "$work"; make "$venv/bin/python")
    rm -r "$work"
    first=${first:-$made}
    if [ "$made" != "$first" ]; then
        echo "differs  $version:"; diff <(echo "$first") <(echo "$made") || true; exit 1
    fi
    echo "same     $version: $(wc -l <<<"$made") files, $("$venv/bin/python" --version), $("$venv/bin/pip" list --format=freeze 2>/dev/null |
        grep -iE '^(numpy|pandas|pillow|scikit-learn|scipy|tifffile)==' | tr '\n' ' ')"
done
