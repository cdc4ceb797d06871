#!/usr/bin/env bash
# From tiles to a submission and a report. Each line below is a stage that can also be run alone, with the same flags.
# A stage whose inputs and settings have not changed says so and returns at once.
#
#   ./run_all.sh                                  the built-in sample, minutes on a laptop
#   ./run_all.sh --data DIR                       Kaggle's tiles; the profile is chosen by the machine
#   ./run_all.sh --data DIR --profile blog        the article's recipe, on a GPU
#   ./run_all.sh --run short --set train.epochs=5   one number changed, as a run of its own; --help lists the flags
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/environment.sh"
started=$(date +%s)       # --max-hours counts from here, for all stages together; a stage it stops ends the script
stage() { # in the background, so that this script can pass SIGTERM on (`docker stop` sends it) and wait for the save
    PYTHONPATH=$here "$python" -P -m "pipeline.$1" --started "$started" "${@:2}" &
    child=$!
    status=0; wait "$child" || status=$?
    while kill -0 "$child" 2>/dev/null; do status=0; wait "$child" || status=$?; done    # a signal ends `wait`, too
    return "$status"
}
trap 'kill -TERM "$child"' TERM
trap : INT # the terminal itself sends Ctrl-C to the stage

case " $* " in *" --help "* | *" -h "*) stage prepare --help; exit ;; esac

stage prepare    "$@"     # data/                      -> data/cache/        every tile decoded once, and checked
stage make_folds "$@"     # data/cache/tiles.csv       -> folds/<run>/folds.csv
stage train      "$@"     # folds.csv, data/cache/     -> fold_<k>/128.safetensors, then 224 from those weights
stage pseudo_label   "$@"     # if a phase uses pseudo-labels: the test tiles each fold is sure of
stage train --pseudo "$@"     # ... join that fold's training tiles
stage predict    "$@"     # fold_<k>/224.safetensors   -> oof.npy, test.npy  flip TTA, mean of the folds
stage submit     "$@"     # test.npy                   -> submissions/<run>/submission.csv.gz
stage report     "$@"     # all of it                  -> report.html, scores.json
