#!/usr/bin/env bash
# A run, the GPU's tests and every bench on a GPU machine with torch and Python 3.12 but no internet, ten minutes a call.
#
#   bench/gpu_run.sh pack TILES [WEIGHTS]    on your machine: wheels into .whl/, the tiles of Kaggle's folder TILES into
#                                     .tiles/, the file WEIGHTS (ImageNet's, of the profile's encoder) into .weights/
#   bench/gpu_run.sh WORK RESULTS     on the GPU machine, with the repository and these folders: chunk after chunk for
#                                     LIMIT seconds, the run of PROFILE first. Call it again until it says that all is
#                                     done: a finished chunk is not repeated, a training goes on from its last saved
#                                     epoch. Without .git SALT_COMMIT=$(git rev-parse --short HEAD) names the commit.
#   cp RESULTS/nvidia-* bench/results/        on your machine again, then for the tables in docs/
#   python -c 'import bench.__main__ as b, bench.experiments.models as m; b.write_page(); m.write_page()'
#
# WORK keeps what is installed, trained and done; RESULTS gets the few small files that are worth bringing back. Put into
# .gpu/ beside the repository's files, a machine that has lost WORK reads there which benches are done.
set -euo pipefail
cd "$(dirname "$0")/.."

pack() {
    local python=python3 platform tags=(--only-binary=:all: --python-version 3.12 --implementation cp --platform any)
    if [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
    for platform in manylinux_2_{39,34,28,27,24,17} manylinux2014 manylinux1; do tags+=(--platform "${platform}_x86_64"); done
    rm -rf .whl     # two versions of one package stop the install; weights and tiles may be somebody's own
    mkdir -p .whl .tiles .weights
    echo '*' | tee .whl/.gitignore .weights/.gitignore > .tiles/.gitignore
    # Left out is what images for a GPU have beside torch: pandas, matplotlib, scikit-learn, safetensors, httpx, requests.
    local names='fastai|fastcore|fasttransform|fastprogress|fastdownload|plum-dispatch|beartype|timm|munch'
    names+='|python-fasthtml|starlette|itsdangerous|oauthlib|python-multipart|beautifulsoup4|soupsieve|uvicorn'
    names+='|pytest|iniconfig|pluggy|hypothesis|sortedcontainers'
    grep -iE "^($names)==" constraints.txt > .whl/names.txt
    "$python" -m pip download -q --no-deps "${tags[@]}" -d .whl -r .whl/names.txt segmentation-models-pytorch
    "$python" -m pip wheel -q --no-deps -c constraints.txt -w .whl pretrainedmodels
    "$python" -m bench.pack_tiles "$1" .tiles 200
    if [ -n "$2" ]; then cp "$2" .weights; fi
    du -sch .whl .tiles .weights
}

chunk() {   # chunk NAME COMMAND...
    if [ -e "$work/done/$1" ]; then return; fi
    local left=$((limit - SECONDS)) status=0
    if [ "$left" -lt 60 ]; then echo "time is up before $1: call again"; exit; fi
    echo "== $1"
    timeout --signal INT --kill-after 30 "$left" "${@:2}" 2>&1 | tee -a "$work/log" || status=$?
    if [ $status = 0 ]; then touch "$work/done/$1"; fi
    collect_results
    case $status in
        0) ;;
        124 | 137) echo "time is up within $1: call again"; exit ;;
        *) echo "$1 ended with status $status; a call tries it again"; failed+=" $1" ;;
    esac
}

collect_results() {
    local made=$work/out/submissions/$profile
    grep -ls '"device": "cuda"' bench/results/*.json | xargs -r cp -t "$work/results" || true
    cp bench/results/nvidia-*.operators.md "$work/results" 2> /dev/null || true
    find "$work/done" -name 'bench-*' -printf '%f\n' > "$results/done.txt"
    cp "$work/log" "$work/results/"* "$made"/{scores.json,report.html} "$results" 2> /dev/null || true
    tail -n +1 "$work/out/folds/$profile"/fold_*/*.csv > "$results/histories.txt" 2> /dev/null || true
}

if [ "${1:-}" = pack ] && [ $# -ge 2 ]; then pack "$2" "${3:-}"; exit; fi
if [ $# -ne 2 ]; then sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 2; fi

mkdir -p "$1/done" "$1/results" "$2" bench/results
work=$(realpath "$1") results=$(realpath "$2") failed=''
limit=${LIMIT:-530} python=${PYTHON:-python3}       # seconds; less in a call that has less time
profile=${PROFILE:-night} workers=${WORKERS:-5}      # of the run; EPOCHS and FOLDS in place of the profile's
settings=(${EPOCHS:+--set "train.epochs=$EPOCHS"} ${FOLDS:+--set "run_folds=$FOLDS"})
weights=none
if compgen -G '.weights/*' > /dev/null; then weights=.weights; else echo 'note: no .weights/: it trains from random weights'; fi
export SALT_TILES=${SALT_TILES:-$PWD/.tiles} PYTHONPATH=$work/site:$PWD PYTHONUNBUFFERED=1
if [ -e .gpu/done.txt ]; then
    cp .gpu/nvidia-* "$work/results/" 2> /dev/null || true
    while read -r name; do touch "$work/done/$name"; done < .gpu/done.txt
fi
cp "$work/results/"*.json bench/results/ 2> /dev/null || true       # of earlier calls, should the repository be a new copy

if compgen -G '.whl/*.whl' > /dev/null; then
    chunk install "$python" -m pip install -q --no-index --no-deps --upgrade --target "$work/site" .whl/*.whl
fi
for stage in prepare make_folds train predict submit report; do
    chunk "$stage" "$python" -P -m "pipeline.$stage" --data "$SALT_TILES" --out "$work/out" --profile "$profile" \
        --weights "$weights" --workers "$workers" "${settings[@]}"
done
chunk tests "$python" -m pytest tests/training/test_on_gpu.py
chunk bench-operators "$python" -m bench.experiments.operators
for bench in folds_at_once switches train_step whole_run; do chunk "bench-$bench" "$python" -m bench "$bench"; done
chunk bench-quick "$python" -m bench losses metric_rle loader
for bench in smp inference training_memory scaling; do chunk "bench-$bench" "$python" -m bench "$bench"; done
chunk bench-models "$python" -m bench.experiments.models
echo "${failed:+failed:$failed; of the rest }all is done"
