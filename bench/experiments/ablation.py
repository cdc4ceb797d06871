"""Ablation: scores of named variants of one base recipe, trained on fold 0 of the real tiles, one core each.

    python -m bench.experiments.ablation base heads --data DIR --weights DIR          short trainings, paired by seed
    python -m bench.experiments.ablation phases_warp --scale full --seed 1 --data DIR --weights DIR
    python -m bench.experiments.ablation --table                                      the results so far

A finished variant is skipped; one that was stopped resumes from its last saved epoch.

writes  bench/results/ablation.json: one entry per training, with the score of each tile, to compare any two on the same
        folds
"""

import argparse
import json
import time
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from bench.harness.records import RESULTS, machine_name, provenance
from pipeline import make_folds, prepare
from pipeline.pseudo_label import label_fold
from pipeline.salt import cli, stages, submission
from pipeline.salt.config import PROFILES, Model, Phase, Profile, Submit
from pipeline.salt.device import pick_device
from pipeline.salt.inference import inference_settings, tile_logits
from pipeline.salt.logit_sums import probabilities
from pipeline.salt.metrics import tile_scores
from pipeline.salt.overrides import changed
from pipeline.salt.run import Run
from pipeline.salt.tiles import cache
from pipeline.salt.training import checkpoints
from pipeline.train import train_fold

FILE = RESULTS / "ablation.json"
FOLD = 0
DIGITS = "0123456789X"  # a tile's score in tenths


@dataclass(frozen=True)
class Variant:
    """settings  as for --set;  phases  of its training, in order; none: that of the scale"""

    settings: tuple[str, ...] = ()
    phases: tuple[Phase, ...] = ()


def cycle(size: int, epochs: int, lr: float = 1.5e-3, pseudo: bool = False) -> Phase:
    return Phase(size=size, batch=16, epochs=epochs, lr=lr, pseudo=pseudo)


# the phase of a variant that has none of its own
SCALES = {"screen": cycle(64, 6), "mid": cycle(64, 12), "full": cycle(128, 28)}
W24 = "model.options.width=24"
WARP = ("augment.rotate=5", "augment.stretch=1.2", "augment.shear=0.15", "augment.shift=0.08")
PHASES = (cycle(64, 6), cycle(96, 10), cycle(128, 14))
HEADS = ("model.options.deep_supervision=true", "model.options.classifier=true")
NO_LABELS = ("pseudo.low=0", "pseudo.high=1", "pseudo.share=1")  # no tile is that sure
VARIANTS = {
    "present": Variant(("model.name=unet_resnext50", "model.options.width=16", "model.options.stem_skip=true")),
    "base": Variant(),
    "w24": Variant((W24,)),
    "w32": Variant(("model.options.width=32",)),
    "classifier": Variant(HEADS[1:]),
    "deep": Variant(HEADS[:1]),
    "heads": Variant(HEADS),
    "warp": Variant(WARP),
    "phases": Variant((W24,), PHASES),
    "phases_warp": Variant((W24, *WARP), PHASES),
    "phases_warp_low": Variant((W24, *WARP), (*PHASES[:2], cycle(128, 10, lr=7e-4))),
    "phases_warp_pseudo": Variant((W24, *WARP), (*PHASES, cycle(128, 3, lr=5e-4, pseudo=True))),
    # The same phase without any pseudo-labelled tile: the effect of another cycle alone.
    "phases_warp_cycle": Variant((W24, *WARP, *NO_LABELS), (*PHASES, cycle(128, 4, lr=5e-4, pseudo=True))),
    "bce_lovasz": Variant(("train.loss=bce_lovasz",)),
    "lr3e-3": Variant(("train.lr=3e-3",)),
    "batch8": Variant(("train.batch=8",)),
    "batch32": Variant(("train.batch=32",)),
    "lite2": Variant(("model.encoder=tf_efficientnet_lite2",)),
    "two_sizes": Variant(("predict.scale=1.25",)),  # the same training as base
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", nargs="*", metavar="NAME", help=", ".join(VARIANTS))
    parser.add_argument("--scale", choices=SCALES, default="screen")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", metavar="DIR", default="sample", help="folder with Kaggle's files")
    parser.add_argument("--weights", metavar="DIR", help="folder with ImageNet weights, or 'none'")
    parser.add_argument("--out", metavar="DIR", default="folds/ablation", help="where trainings are kept")
    parser.add_argument("--table", action="store_true", help="print the results")
    args = parser.parse_args(argv)
    if unknown := set(args.variant) - VARIANTS.keys():
        parser.error(f"no variant {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    torch.set_num_threads(1)
    records = json.loads(FILE.read_text()) if FILE.exists() else []
    for name in args.variant:
        run = prepared_run(f"{name}-{args.scale}-{args.seed}", args, profile_of(VARIANTS[name], args.scale, args.seed))
        folds = stages.folds(run).sidecar()["sha256"]
        about = {"variant": name, "scale": args.scale, "seed": args.seed, "folds": folds}
        if any(record.items() >= about.items() for record in records):
            print(f"known    {name}, {args.scale}, seed {args.seed}")
            continue
        records.append(about | measure(run) | {"machine": machine_name(pick_device()), **provenance()})
        FILE.write_text("[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n")
        print(table(records[-1:]), flush=True)
    if args.table:
        print(table(records))


def profile_of(variant: Variant, scale: str, seed: int) -> Profile:
    """Profile cpu at width 16 and this scale, predicted at a single size without `peak`, with the variant's changes."""
    cpu = PROFILES["cpu"]
    base = replace(
        cpu,
        model=Model(name="unet_lean", encoder=cpu.model.encoder, options={"width": 16}),
        train=replace(cpu.train, phases=variant.phases or (SCALES[scale],), average=0.1),
        predict=replace(cpu.predict, scale=1.0),
        submit=Submit(),
    )
    return changed(base, *variant.settings, f"train.seed={seed}")


def prepared_run(title: str, args: argparse.Namespace, profile: Profile) -> Run:
    """The run of this name and recipe on the tiles of --data, with tiles decoded and folds made."""
    flags = ["--profile=cpu", f"--run={title}", f"--data={args.data}", f"--out={args.out}"]
    flags.append(f"--set=folds.scheme={profile.folds.scheme}")
    if args.weights:
        flags.append(f"--weights={args.weights}")
    prepare.main(flags)
    make_folds.main(flags)
    run, _ = cli.parse(__doc__, flags)
    start = run.profile.model.weights  # from --weights
    return replace(run, profile=replace(profile, model=replace(profile.model, weights=start)))


def held_out_masks(run: Run, fold: int, epoch: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Rows of the tiles that the fold holds out, their predicted masks (N, 101, 101) bool, and the CPU seconds taken.

    With flip TTA, threshold 0.5 and the submission's rules.
    """
    profile, files = run.profile, run.files
    tiles, model, last = cache.read(files), checkpoints.build(profile.model), profile.train.last
    rows = np.flatnonzero(pd.read_csv(files.folds)["fold"].to_numpy() == fold)
    checkpoints.load(files.weights(fold, last, epoch), model)
    start = time.process_time()
    batches = tile_logits(model, tiles.train_images, rows, inference_settings(profile, last))
    probs = probabilities(np.concatenate([logits for _, logits in batches]))
    seconds = time.process_time() - start
    black = tiles.train_table["black"].to_numpy()[rows]
    return rows, submission.masks(probs, 0.5, profile.submit, black), seconds


def measure(run: Run) -> dict:
    """Train fold 0 as the stages do, and score it at 101 px."""
    files, phases = run.files, run.profile.train.phases
    wall, cpu = time.perf_counter(), time.process_time()
    for phase in phases:
        if phase.pseudo:
            label_fold(run, FOLD)
        train_fold(run, FOLD, phase)
    busy = (time.process_time() - cpu) / (time.perf_counter() - wall)
    histories = [pd.read_csv(files.history(FOLD, phase)) for phase in phases]

    results, truth = {}, cache.read(files).train_masks
    for epoch in ("last", "average"):
        rows, masks, seconds = held_out_masks(run, FOLD, epoch)
        results[epoch] = summarize(tile_scores(masks, truth[rows]), masks, truth[rows])
        results[epoch]["predicted_per_second"] = round(len(rows) / seconds, 1)
    history = pd.concat(histories)
    return {
        **results,
        "cpu_seconds": round(history["seconds"].sum() * busy),
        "epochs": "+".join(f"{len(of_phase)}x{p.name}" for of_phase, p in zip(histories, phases, strict=True)),
        "tiles_per_second": round(float(history["tiles_per_second"].median()), 1),
        "parameters": sum(p.numel() for p in checkpoints.build(run.profile.model).parameters()),
        "curve": history["meanap"].tolist(),
    }


def summarize(scores: np.ndarray, masks: np.ndarray, truth: np.ndarray) -> dict:
    """Mean and standard error of the scores (N,), and the errors of the masks (N, H, W) bool by kind."""
    salt, predicted = truth.any((1, 2)), masks.any((1, 2))
    both = salt & predicted
    return {
        "score": round(float(scores.mean()), 4),
        "se": round(float(scores.std(ddof=1) / len(scores) ** 0.5), 4),
        "missed": int((salt & ~predicted).sum()),
        "invented": int((~salt & predicted).sum()),
        "shape": round(float(scores[both].mean()), 4) if both.any() else 0.0,
        "by_tile": "".join(DIGITS[round(10 * score)] for score in scores),
    }


def difference(a: dict, b: dict) -> tuple[float, float]:
    """Mean of a's scores minus b's, tile by tile, and its standard error."""
    a, b = (np.array([DIGITS.index(digit) for digit in result["by_tile"]]) / 10 for result in (a, b))
    return float((a - b).mean()), float((a - b).std(ddof=1) / len(a) ** 0.5)


def table(records: list[dict]) -> str:
    """Markdown, one row per result; differences are to `base` at the same scale, seed and folds, last-epoch weights."""
    base = {(r["scale"], r["seed"], r["folds"]): r for r in records if r["variant"] == "base"}
    lines = [
        "| variant | scale | seed | epochs | last | averaged | to base | missed / invented / shape | CPU s |",
        "|---|---|--:|---|--:|--:|--:|---|--:|",
    ]
    for r in sorted(records, key=lambda r: (r["scale"], r["seed"])):
        last, other = r["last"], base.get((r["scale"], r["seed"], r["folds"]))
        to_base = "{:+.4f} ± {:.4f}".format(*difference(last, other["last"])) if other and other is not r else ""
        lines.append(
            f"| {r['variant']} | {r['scale']} | {r['seed']} | {r['epochs']} | {last['score']:.4f} ± {last['se']:.4f} "
            f"| {r['average']['score']:.4f} | {to_base} | {last['missed']} / {last['invented']} / {last['shape']:.3f} "
            f"| {r['cpu_seconds']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    cli.start(main)
