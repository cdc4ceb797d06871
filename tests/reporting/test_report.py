"""The report: its numbers against a direct computation, its HTML against a parser."""

import base64
import io
import json
import shlex
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn import metrics as sklearn

from pipeline import make_folds, report, submit
from pipeline.salt import artifacts, cli, stages
from pipeline.salt.config import PROFILES
from pipeline.salt.errors import InputError
from pipeline.salt.product import Product, command_of
from pipeline.salt.reporting import figures, scores
from pipeline.salt.reporting.figures import HEAVIEST, LONGEST, OPACITY, heat, outline, picture, reduced
from pipeline.salt.run import Run
from pipeline.salt.tiles import Tiles, cache
from pipeline.salt.tiles.competition import SIDE
from pipeline.tools import picture as picture_tool

about = partial(pytest.approx, abs=1e-6)  # scores.json has six decimals


def draw_tiles(
    seed: int = 0, train: int = 40, test: int = 12, empty: bool = False, truth: bool = True, shape=(SIDE, SIDE)
) -> Tiles:
    """Noise with discs of salt; every third tile has none, the first is black."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] * SIDE / max(shape)
    masks = np.stack([(y - a) ** 2 + (x - b) ** 2 < r**2 for a, b, r in rng.integers(5, 95, (train + test, 3))])
    masks[::3] = False
    masks &= not empty
    images = np.where(masks, 170, 90).astype(np.uint8) + rng.integers(0, 60, masks.shape, np.uint8)
    images[[0, train]], masks[[0, train]] = 0, False
    table = pd.DataFrame(
        {
            "id": [f"{i:010x}" for i in range(train + test)],
            "split": ["train"] * train + ["test"] * test,
            "z": rng.integers(50, 960, train + test),
            "black": ~images.any(axis=(1, 2)),
            "coverage": [*masks[:train].mean(axis=(1, 2)), *np.full(test, np.nan)],
        }
    )
    return Tiles(images[:train], masks[:train], images[train:], table, masks[train:] if truth else None)


def guess(masks: np.ndarray, seed: int = 1) -> np.ndarray:
    """float16 probabilities of a mediocre model: shifted masks with soft edges, some missed, some invented."""
    rng = np.random.default_rng(seed)
    probs = np.empty(masks.shape, np.float16)
    for i, mask in enumerate(masks):
        soft = np.roll(mask, rng.integers(-4, 5, 2), axis=(0, 1)).astype(np.float32)
        for axis in (0, 1, 0, 1):
            soft = sum(np.roll(soft, shift, axis) for shift in (-2, -1, 0, 1, 2)) / 5
        if rng.random() < 0.15:
            soft = np.zeros_like(soft) if mask.any() else soft + np.tri(*mask.shape, k=-70)
        probs[i] = np.clip(0.05 + 0.85 * soft + rng.normal(0, 0.02, soft.shape), 0, 1)
    return probs


def history(epochs: int, best: float, seed: int) -> pd.DataFrame:
    """A history as callbacks.EpochLog writes it, whose best score is about `best`."""
    rng = np.random.default_rng(seed)
    done = np.arange(1, epochs + 1)
    score = best - 0.4 * np.exp(-6 * done / epochs) + rng.normal(0, 0.006, epochs)
    return pd.DataFrame(
        {
            "epoch": done,
            "train_loss": 1.1 - 0.9 * score,
            "valid_loss": 1.2 - 0.95 * score + rng.normal(0, 0.01, epochs),
            "meanap": score.round(5),
            "lr": 1e-3,
            "seconds": 10 + rng.random(epochs),
            "tiles_per_second": 300.0,
            "memory": 2.5,
        }
    )


def make(tiles: Tiles, argv: list[str], guess: Callable[[np.ndarray, int], np.ndarray] = guess) -> Run:
    """Everything before the report: cache, folds, made-up histories and predictions, and the submission."""
    run, _ = cli.parse("", argv)
    files = run.files
    cache.write(tiles, files, stages.tiles(run)["tiles.csv"].origin())
    make_folds.main(argv)
    fold_of = pd.read_csv(files.folds)["fold"]
    for fold in run.folds:
        for phase in run.profile.train.phases:
            for product in stages.pseudo_labels(run, fold) if phase.pseudo else []:
                publish(product, lambda tmp: tmp.write_bytes(b""))
            rows = history(phase.epochs, 0.8 + phase.size / 5000, 10 * fold + phase.size)
            made = {"fold": fold, "device": "2 CPU threads, AVX512", "seconds": rows["seconds"].sum()}
            made |= {"init_from": "random weights", "precision": "bf16"}
            products = dict(stages.trained(run, fold, phase))
            publish(products.pop("history"), lambda tmp, rows=rows: rows.to_csv(tmp, index=False), **made)
            for product in products.values():
                publish(product, lambda tmp: tmp.write_bytes(b""), **made)
    oof = guess(tiles.train_masks, 1)
    oof[~fold_of.isin(run.folds)] = np.nan
    truth = tiles.test_truth if tiles.test_truth is not None else tiles.test_images > 120
    for product, probs in zip(stages.predictions(run), (oof, guess(truth, 2)), strict=True):
        publish(product, lambda tmp, probs=probs: np.save(tmp, probs))
    submit.main(argv)
    return run


def publish(product: Product, write: Callable[[Path], object], **extra) -> None:
    with artifacts.publish(product.path, product.origin(), **extra) as tmp:
        write(tmp)


def scores_of(run: Run) -> dict:
    return json.loads(run.files.result("scores.json").read_text())


def html_of(run: Run) -> "Report":
    parsed = Report()
    parsed.feed(run.files.result("report.html").read_text(encoding="utf-8"))
    parsed.close()
    return parsed


class Report(HTMLParser):
    """Checks what every report must satisfy, and collects what the tests need."""

    VOID = {"meta", "img", "br", "link", "hr", "input"}

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.loads, self.pictures, self.rows, self.words = [], [], [], [], [], ""

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert tag not in {"link", "iframe", "object", "embed"} and not [
            name for name in attrs if name.startswith("on")
        ]
        assert tag != "script" or not attrs, "its text stands in the page"
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.loads += [attrs[name] for name in ("src", "href", "xlink:href", "srcset", "poster") if name in attrs]
        if tag == "img":
            self.pictures.append(attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):  # <path/>, inside an <svg>
        self.loads += [value for name, value in attrs if name in ("href", "xlink:href")]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"th", "td"} & {*self.open}:
            self.rows[-1][-1] += data.strip()
        if not {"style", "script"} & {*self.open}:
            self.words += " " + " ".join(data.split())

    def close(self):
        super().close()
        assert not self.open


# ---- the demo: two phases, three folds, truth known for the test tiles


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Run, Tiles, list[str]]:
    argv = ["--data", "sample", "--out", str(tmp_path_factory.mktemp("demo")), "--profile", "demo"]
    tiles = draw_tiles()
    run = make(tiles, argv)
    report.main(argv)
    return run, tiles, argv


def by_definition(probs: np.ndarray, truth: np.ndarray, threshold: float) -> float:
    """Kaggle's score of one tile by the competition's definition, after the rules of profile demo."""
    mask = probs > np.float16(threshold)
    mask &= not mask.all() and probs.max() > np.float16(0.6)
    if not mask.any() and not truth.any():
        return 1.0
    ratio = np.sum(mask & truth) / np.sum(mask | truth)
    return sum(ratio > cut / 100 for cut in range(50, 100, 5)) / 10


def test_scores_are_those_of_a_direct_computation(demo):
    run, tiles, _ = demo
    results, oof, test = scores_of(run), np.load(run.files.oof), np.load(run.files.result("test.npy"))
    folds = pd.read_csv(run.files.folds)["fold"]
    each = np.array([by_definition(p, t, 0.5) for p, t in zip(oof, tiles.train_masks, strict=True)])
    assert results["threshold"] == 0.5 and results["out_of_fold"]["tiles"] == 40
    assert results["out_of_fold"]["score"] == about(each.mean())
    assert results["out_of_fold"]["at_half"] == results["thresholds"]["0.5"] == results["out_of_fold"]["score"]
    assert [fold["score"] for fold in results["folds"]] == about([each[folds == k].mean() for k in run.folds])
    assert [fold["tiles"] for fold in results["folds"]] == folds.value_counts().sort_index().tolist()
    at_04 = [by_definition(p, t, 0.4) for p, t in zip(oof, tiles.train_masks, strict=True)]
    assert results["thresholds"]["0.4"] == about(np.mean(at_04))
    on_test = [by_definition(p, t, 0.5) for p, t in zip(test, tiles.test_truth, strict=True)]
    assert results["test"]["score"] == about(np.mean(on_test))

    empty = ~tiles.train_masks.any(axis=(1, 2))
    assert results["out_of_fold"]["all_empty"] == results["empty"]["labelled"] == about(empty.mean())
    assert results["test"]["all_empty"] == about((~tiles.test_truth.any(axis=(1, 2))).mean())
    none = results["classes"][0]
    assert (none["class"], none["tiles"], none["score"]) == ("none", empty.sum(), about(each[empty].mean()))
    assert sum(row["tiles"] for row in results["classes"]) == 40
    lowest = [row for row in results["classes"] if row["class"] == "to 10 %"][0]
    few = ~empty & (tiles.train_masks.mean(axis=(1, 2)) <= 0.1)
    assert (lowest["tiles"], lowest["score"]) == (few.sum(), about(each[few].mean()))
    submitted = pd.read_csv(run.files.result("submission.csv.gz"))["rle_mask"]
    assert results["empty"]["submission"] == about(submitted.isna().mean())


def test_epochs_are_those_of_the_histories(demo):
    run, _, _ = demo
    results = scores_of(run)
    total, best = 0, []
    for fold in results["folds"]:
        assert list(fold["phases"]) == [phase.name for phase in run.profile.train.phases]
        for phase, epochs in fold["phases"].items():
            rows = pd.read_csv(run.files.history(fold["fold"], run.profile.train.phase(phase)))
            top = rows["meanap"].max()
            assert epochs["best"] == {"epoch": rows["epoch"][rows["meanap"] == top].iloc[0], "score": top}
            assert epochs["last"] == {"epoch": len(rows), "score": rows["meanap"].iloc[-1]}
            assert epochs["seconds"] == pytest.approx(rows["seconds"].sum(), abs=0.1)
            total += rows["seconds"].sum()
            best += [top] if phase == list(fold["phases"])[-1] else []
    assert results["seconds"] == pytest.approx(total, abs=0.2)
    ends = list(results["phases"].values())[-1]
    assert ends["best"] == {"mean": about(np.mean(best)), "sd": about(np.std(best, ddof=1))}
    assert results["device"] == "2 CPU threads, AVX512" and results["versions"]["python"]


def charts_of(run: Run) -> list[str]:
    """Each SVG chart with its caption."""
    return run.files.result("report.html").read_text(encoding="utf-8").split('<figure class="chart">')[1:]


def test_the_html_loads_nothing_and_can_be_read_aloud(demo):
    html = html_of(demo[0])
    assert html.loads and all(load.startswith(("data:image/png;base64,", "#")) for load in html.loads)
    assert {load[1:] for load in html.loads if load[0] == "#"} <= {*html.ids}, (
        "what a link or a chart refers to is there"
    )
    assert "url(http" not in demo[0].files.result("report.html").read_text() and "@import" not in html.words
    assert len(set(html.ids)) == len(html.ids)
    assert html.pictures and all(picture["alt"] for picture in html.pictures)


def test_the_html_shows_every_fold_and_the_numbers_of_scores_json(demo):
    run, _, _ = demo
    results, html = scores_of(run), html_of(run)
    for fold in results["folds"]:
        row = next(row for row in html.rows if row[:2] == [str(fold["fold"]), str(fold["tiles"])])
        assert row[2] == f"{fold['score']:.4f}"
        for phase in fold["phases"].values():
            assert {f"{end['score']:.4f} ({end['epoch']})" for end in (phase["best"], phase["last"])} <= {*row}
    together = results["out_of_fold"]
    for number in (together["score"], together["mean"], together["sd"], results["test"]["score"]):
        assert f"{number:.4f}" in html.words
    assert ["submit.threshold", "0.5"] in html.rows and "generated tiles" in html.words
    assert "gold" not in html.words and "too high" not in html.words  # made-up tiles; the last epoch predicts
    for axis, caption in [
        ("loss", "Loss: in training"),
        ("score", "own tiles, without flip averaging, at 0.5. The fold"),
        ("learning rate", "Learning rate at the end"),
        ("tiles/s", "Tiles per second in training"),
        ("peak memory, GiB", "Peak memory: on a GPU"),
    ]:
        [chart] = [chart for chart in charts_of(run) if caption in chart]
        assert f">{axis}<" in chart and chart.count("<path") > 10, caption


def test_the_first_thing_said_is_what_trained_it(finished):
    run = finished[0].parse()
    results, html = scores_of(run), html_of(run)
    by, each = results["trained_by"], [sidecar["code"] for sidecar in report.sidecars(stages.predictions(run))]
    assert (by["model"], by["encoder"], by["first_weights"]) == ("unet_lean", "test_resnet", "random weights")
    assert by["commit"] == (artifacts.commit() or "") and by["code"] == each[0] and by["precision"] == "fp32"
    again, _ = cli.parse("", shlex.split(by["command"])[1:])
    assert (again.profile, again.files, again.folds) == (run.profile, run.files, run.folds)
    words = " ".join(html.words.split())
    first, score = words.index("How it was trained model"), words.index("out of fold; empty masks alone")
    assert first < score and by["command"] in html.words and (by["commit"] or by["code"]) in html.words
    times = results["runtime"]
    assert list(times) == ["train --phase 32", "train --phase 48", "predict", "all"]
    assert times["train --phase 32"]["sum"] == pytest.approx(results["phases"]["32"]["seconds"], abs=0.2)
    assert all(0 < time["wall"] <= time["sum"] + 0.05 for time in times.values())


def test_the_four_of_the_page_are_those_of_scikit_learn(demo):
    run, tiles, _ = demo
    results, rows = scores_of(run), html_of(run).rows
    probs = np.load(run.files.oof)
    masks = probs > np.float16(0.5)
    masks[tiles.train_table["black"] | masks.all(axis=(1, 2)) | (probs.max(axis=(1, 2)) <= np.float16(0.6))] = False
    salt = tiles.train_masks.any(axis=(1, 2))
    functions = (sklearn.f1_score, sklearn.jaccard_score, sklearn.precision_score, sklearn.recall_score)
    pooled = [function(tiles.train_masks.ravel(), masks.ravel()) for function in functions]
    flat = tiles.train_masks[salt].reshape(salt.sum(), -1), masks[salt].reshape(salt.sum(), -1)
    means = [function(*flat, average="samples", zero_division=0) for function in functions]
    assert [*results["out_of_fold"]["pixels"].values()] == about(pooled)
    assert [*results["out_of_fold"]["salt_tiles"].values()] == [salt.sum(), *(about(mean) for mean in means)]
    assert ["out of fold: all pixels", *(f"{value:.4f}" for value in pooled)] in rows
    assert [f"out of fold: mean of {salt.sum()} tiles with salt", *(f"{value:.4f}" for value in means)] in rows


def test_an_up_to_date_report_prints_its_summary_again(demo, capsys):
    run, _, argv = demo
    before = run.files.result("report.html").stat().st_mtime_ns
    report.main(argv)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("fresh") and run.files.result("report.html").stat().st_mtime_ns == before
    assert [line[:13].strip() for line in lines[1:]] == ["out of fold", "test", "submission", "report"]
    assert f"{scores_of(run)['out_of_fold']['score']:.4f}" in lines[1] and lines[4].endswith("report.html")


def test_a_submission_with_other_settings_is_refused_in_words(demo):
    _, _, argv = demo
    with pytest.raises(
        InputError, match=r"submission.csv.gz was made with other settings \(submit.threshold 0.5 -> 0.4\)"
    ):
        report.main([*argv, "--set", "submit.threshold=0.4"])
    with pytest.raises(InputError, match=r"oof.npy was made with other settings .*; run .*predict"):
        report.main([*argv, "--fold", "0"])


# ---- other runs


def test_one_fold_of_five_of_real_tiles_and_no_truth(tmp_path):
    (tmp_path / "<i>" / "train" / "images").mkdir(parents=True)
    (tmp_path / "<i>" / "sample_submission.csv").touch()  # so that it is Kaggle's
    argv = [
        "--data",
        str(tmp_path / "<i>"),
        "--out",
        str(tmp_path),
        "--profile",
        "cpu",
        "--fold",
        "3",
        "--set",
        "predict.checkpoint=best",
        "--set",
        "train.epochs=1",
        "--add-phase",
        "pseudo=true,epochs=2",
    ]
    run = make(draw_tiles(truth=False), argv)
    report.main(argv)
    results, html = scores_of(run), html_of(run)
    assert results["folds_ran"] == [3] and results["out_of_fold"]["tiles"] == 8 and results["test"] is None
    assert results["out_of_fold"]["sd"] is None and results["folds"][0]["score"] == results["out_of_fold"]["score"]
    assert np.isnan(np.load(run.files.oof)).any()
    assert list(results["phases"]) == ["128", "pseudo"]
    assert "of phase pseudo." in html.words
    assert html.words.count("with flip averaging, at two sizes, at 0.5") == 1  # profile cpu's
    assert "0.5, black tiles, full masks and masks nowhere above 0.6 left empty (otherwise" in html.words
    assert "fold 3 of 5" in html.words and "too high" in html.words and "silver" in html.words
    assert ["predict.checkpoint", f"best(was {PROFILES['cpu'].predict.checkpoint})"] in html.rows
    assert "the tiles in <i> :" in html.words  # text, no tag


def test_tiles_without_any_salt(tmp_path):
    argv = ["--data", "sample", "--out", str(tmp_path), "--profile", "demo"]
    run = make(draw_tiles(empty=True), argv)
    report.main(argv)
    results, html = scores_of(run), html_of(run)
    assert results["out_of_fold"]["all_empty"] == 1 and [row["class"] for row in results["classes"]] == ["none"]
    assert "There are none." in html.words


def test_a_searched_threshold_is_the_top_of_the_curve(tmp_path):
    argv = ["--data", "sample", "--out", str(tmp_path), "--profile", "demo", "--set", "submit.threshold=search"]
    run = make(draw_tiles(), argv, lambda masks, seed: (0.8 * guess(masks, seed)).astype(np.float16))  # too timid
    report.main(argv)
    results, html = scores_of(run), html_of(run)
    curve = {float(threshold): score for threshold, score in results["thresholds"].items()}
    assert results["threshold"] != 0.5 and curve[results["threshold"]] == max(curve.values())
    assert results["out_of_fold"]["score"] == about(max(curve.values()))
    assert "No other threshold scores better than the one used." in html.words


def test_predictions_that_are_worse_than_none_are_said_at_the_top_and_at_the_end(tmp_path, capsys):
    argv = ["--data", "sample", "--out", str(tmp_path), "--profile", "demo"]
    run = make(draw_tiles(), argv, lambda masks, seed: guess(~masks, seed))
    report.main(argv)
    said, html = capsys.readouterr().out, html_of(run).words
    for warning in scores.warnings(scores_of(run)):
        assert said.count(f"warning      {warning}\n") == 1
        assert html.index(warning) < html.index("is Kaggle's, the mean over")
    assert "The score out of fold is 0." in html and "The score on the test tiles is 0." in html


def test_ten_folds_of_the_article_stay_a_small_page(tmp_path):
    (tmp_path / "tgs" / "train" / "images").mkdir(parents=True)
    flags = [f"--data={tmp_path / 'tgs'}", f"--out={tmp_path}", "--profile=blog", "--set=train.epochs=60"]
    noise = draw_tiles(train=60, test=80, truth=False)
    # Nothing is harder to compress than noise, in the images as in the outlines of a model that has learned nothing.
    run = make(noise, flags, lambda masks, seed: np.random.default_rng(seed).random(masks.shape).astype(np.float16))
    report.main(flags)
    size, html = run.files.result("report.html").stat().st_size, html_of(run)
    assert len(scores_of(run)["folds"]) == 10 and "mean of the 10 folds" in html.words
    assert len(html.pictures) == 2 * 30 and size < 2 * 10**6


def test_coloured_tiles_of_another_size_without_depths(tmp_path):
    argv = ["--data", "sample", "--out", str(tmp_path), "--profile", "demo"]
    grey = draw_tiles(shape=(300, 120))
    colours = np.random.default_rng(0).integers(0, 256, (2, 300, 120, 3), np.uint8)
    images, test = (np.repeat(each[..., None], 3, axis=-1) for each in (grey.train_images, grey.test_images))
    images[5:7] = colours
    run = make(Tiles(images, grey.train_masks, test, grey.table.assign(z=np.nan), grey.test_truth), argv)
    report.main(argv)
    html = html_of(run)
    assert {(picture["width"], picture["height"]) for picture in html.pictures} == {("40", "100")}
    assert "120 × 300 px" in html.words and " · z" not in html.words and "nan" not in html.words


def test_whatever_is_named_by_a_person_is_text(tmp_path):
    evil = "<img src=x onerror=alert(1)>'\"</script>"
    tiles = draw_tiles()
    table = tiles.table.assign(id=[f"{i:02} {evil}" for i in range(len(tiles.table))])
    tiles = Tiles(tiles.train_images, tiles.train_masks, tiles.test_images, table, tiles.test_truth)
    argv = ["--data=sample", f"--out={tmp_path / 'a<b>&'}", "--profile=demo"]
    run = make(tiles, argv)
    for phase in run.profile.train.phases:
        for fold in run.folds:  # as a file of weights may be called
            product = stages.trained(run, fold, phase)["history"]
            content = product.path.read_bytes()
            made = {"device": evil, "init_from": evil, "seconds": 1.0}
            publish(product, lambda tmp, content=content: tmp.write_bytes(content), **made)
    report.main([*argv, "--force"])
    html = html_of(run)  # which asserts that there is no attribute on..., and one script
    assert f"initial weights {' '.join(evil.split())}" in html.words and "a<b>&" in html.words
    assert all(picture["src"].startswith("data:") for picture in html.pictures)
    assert any(evil in picture["alt"] for picture in html.pictures)


# ---- small cases by hand


def test_the_errors_of_the_classes_add_up_to_what_the_score_lacks(demo):
    results = scores_of(demo[0])
    lost = [part for row in results["classes"] for part in row["lost"].values()]
    assert sum(lost) == pytest.approx(1 - results["out_of_fold"]["score"], abs=1e-5)
    # two tiles without salt, one of them with some invented; 5 % of salt missed; 5 % met with 0.4; 35 % met with 0.9
    tiles = pd.DataFrame(
        {"salt": [0, 0, 0.05, 0.05, 0.35], "predicted": [0, 0.2, 0, 0.04, 0.34], "score": [1, 0, 0, 0.4, 0.9]}
    )
    none, low, high = scores.per_class(tiles)
    assert (none["class"], none["tiles"], none["score"], none["invented"], none["both"]) == ("none", 2, 0.5, 1, 0)
    assert none["lost"] == {"missed": 0, "invented": 0.2, "shape": 0} and none["score_both"] is None
    assert (low["class"], low["missed"], low["both"], low["score_both"]) == ("to 10 %", 1, 1, 0.4)
    assert low["lost"] == {"missed": 0.2, "invented": 0, "shape": about(0.12)}
    assert (high["class"], high["lost"]["shape"]) == ("to 40 %", about(0.02))


def test_pixels_counted_together_and_tiles_one_by_one():
    # Areas of a tile: 2 of 4 and 6 shared; nothing of 0 and 4; an empty tile with 2 invented.
    tiles = pd.DataFrame({"shared": [0.2, 0, 0], "predicted": [0.4, 0, 0.2], "salt": [0.6, 0.4, 0]})
    tiles["score"] = tiles["raw_score"] = 0.0
    pooled = scores.pooled(tiles)
    assert pooled["pixels"] == {
        "dice": about(0.4 / 1.6),
        "iou": about(0.2 / 1.4),
        "precision": about(1 / 3),
        "recall": 0.2,
    }
    assert pooled["salt_tiles"] == {
        "tiles": 2,
        "dice": about(0.4 / 2),
        "iou": about(0.25 / 2),
        "precision": 0.25,
        "recall": about(1 / 6),
    }
    assert scores.pooled(tiles[2:])["salt_tiles"] is None


def test_the_wall_clock_counts_what_is_side_by_side_once_and_no_pause():
    assert scores.wall_clock([(0, 10), (5, 12), (6, 7), (20, 21)]) == 13
    assert scores.wall_clock([]) == 0
    at = "2026-11-22T10:{}:00+0000".format
    zone = "2026-11-22T11:05:00+0100"
    trained = [{"made": at("04"), "seconds": 120}, {"made": zone, "seconds": 120}]
    predicted = [{"made": at("20"), "seconds": 60}]
    assert scores.runtime({"train": trained, "predict": predicted}) == {
        "train": {"wall": 180, "sum": 240},
        "predict": {"wall": 60, "sum": 60},
        "all": {"wall": 240, "sum": 300},
    }


def test_the_command_repeats_the_run(tmp_path, monkeypatch):
    flags = ["--data=sample", "--profile=demo", "--out", str(tmp_path / "an out"), "--run=a", "--fold=1", "--force"]
    flags += ["--set=train.64.epochs=2", "--add-phase=size=128,epochs=1", "--workers=2"]
    run, _ = cli.parse("", flags)
    root = artifacts.CODE.parent
    monkeypatch.chdir(root)
    words = shlex.split(command_of(run))
    assert words[0] == "./run_all.sh" and "--force" not in words and "--workers" not in words
    again, _ = cli.parse("", words[1:])
    assert (again.profile, again.files, again.data, again.folds) == (run.profile, run.files, run.data, run.folds)
    run, flags = cli.parse("", ["--data=sample", "--profile=demo"])[0], "--data sample --profile demo"
    assert command_of(run) == f"./run_all.sh {flags}"
    assert command_of(run, "train --fold 0 --phase 64") == f"python -m pipeline.train --fold 0 --phase 64 {flags}"
    monkeypatch.chdir(tmp_path)
    run = cli.parse("", ["--data=sample", "--profile=demo"])[0]
    assert command_of(run) == f"{root}/run_all.sh {flags}", "from elsewhere, the clone's"
    monkeypatch.setattr(artifacts, "CODE", tmp_path / "site-packages" / "pipeline")
    assert command_of(run) == f"salt run {flags}", "an installed package has no script"


@pytest.mark.parametrize("folds", [1, 2, 10])
def test_curves_have_a_mean_and_a_range_and_follow_one_another(folds):
    histories = {fold: {name: history(n, 0.8, fold) for name, n in [("128", 60), ("224", 20)]} for fold in range(folds)}
    histories[0]["224"]["meanap"] -= 0.2
    svg = ElementTree.fromstring(figures.curves(histories, "score", {"meanap": "score"}))
    text = ["".join(element.itertext()).strip() for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"128", "224", "80", "epoch"} <= {*text} and ("fold 0" in text) == (folds > 1)
    strokes = [element.get("style") or "" for element in svg.iter()]
    assert sum(f"stroke: {figures.BLUE}; stroke-width: 2" in style for style in strokes) == 2, "a mean line a phase"
    assert sum(f"stroke: {figures.BLUE}; stroke-opacity" in style for style in strokes) == (
        2 * folds if folds > 1 else 0
    )
    assert sum(f"fill: {figures.BLUE}; fill-opacity: 0.2" in style for style in strokes) == (2 if folds > 1 else 0)


def scored(*folds: list[float], empty: float = 0.25) -> dict:
    """As in scores.json: tile scores of each fold, and the share of tiles without salt."""
    tiles = pd.DataFrame({"fold": np.repeat(range(len(folds)), [*map(len, folds)]), "score": np.concatenate(folds)})
    tiles["raw_score"], tiles["salt"] = tiles["score"], np.where(np.arange(len(tiles)) < empty * len(tiles), 0, 0.5)
    tiles["predicted"] = tiles["shared"] = tiles["salt"]
    histories = dict.fromkeys(range(len(folds)), {})
    return {"out_of_fold": scores.pooled(tiles), "test": None, "folds": scores.per_fold(tiles, histories)}


def test_a_fold_far_below_the_others_is_a_warning():
    # 16 tiles of a half 0, half 0.4: mean 0.2, sd 0.2066, standard error 0.0516; so the limit is 0.355.
    low = [0.0, 0.4] * 8
    for others, warned in [(0.34, False), (0.37, True)]:
        said = scores.warnings(scored([others] * 16, low, [others] * 16, empty=0))
        assert len(said) == warned and all("Fold 1 scores 0.2000" in line for line in said)
    assert scores.warnings(scored([0.8] * 4, [0.8] * 4)) == []
    assert scores.warnings(scored([0.8, 0.7])) == [], "one fold has no others"
    assert scores.warnings(scored([0.8] * 8, [0.0])) == [], "one tile has no standard error"


def test_a_score_no_better_than_empty_masks_is_a_warning():
    for score, empty, warned in [(0.2, 0.25, True), (0.25, 0.25, True), (0.3, 0.25, False), (1.0, 1.0, False)]:
        results = scored([score] * 8, empty=empty)
        for part in ("out_of_fold", "test"):
            clean = {"score": 0.9, "all_empty": 0.1}
            said = scores.warnings({**results, "out_of_fold": clean, "test": clean, part: results["out_of_fold"]})
            assert len(said) == warned, (score, empty, part)


def test_spread_has_the_deviation_of_a_sample():
    # The article's ten folds: mean .8540, sd .0090 with n - 1.
    folds = [0.8454, 0.8586, 0.8548, 0.8651, 0.8449, 0.8606, 0.8584, 0.8648, 0.8474, 0.8400]
    results = scores.spread(folds)
    assert (round(results["mean"], 4), round(results["sd"], 3)) == (scores.ARTICLE["mean"], scores.ARTICLE["sd"])
    assert scores.spread([0.5]) == {"mean": 0.5, "sd": None}


def test_examples_are_of_their_kind_and_the_clearest_come_first():
    tiles = pd.DataFrame(
        {
            "id": list("abcdefgh"),
            "salt": [0, 0.3, 0.6, 0, 0, 0.5, 0.5, 0.05],
            "predicted": [0, 0, 0, 0.1, 0.2, 0.5, 0.5, 0.01],
            "iou": [1, 0, 0, 0, 0, 0.9, 0.6, 0.2],
        },
        index=range(10, 18),
    )
    kinds = {kind: "".join(rows["id"]) for kind, rows in scores.examples(tiles, 2).items()}
    # f and g share a class; h, of another, is the best of its own. g is left, with the larger error of the two.
    assert kinds == {"best": "fh", "missed": "cb", "invented": "ed", "shape": "g"}
    # Area in error is union - intersection: 0.5 + 0.5 at IoU 1/3 is 0.5, 0.05 + 0.01 at IoU 0.2 is 0.04.
    tiles.loc[[15, 16], "iou"] = 1 / 3, 0.9
    assert "".join(scores.examples(tiles, 1)["shape"]["id"]) == "f"


def test_outline_goes_along_the_edges_of_the_pixels():
    mask = np.zeros((4, 5), bool)
    mask[1:3, 2] = True
    assert outline(mask) == "M2 1H3M2 3H3M2 1V3M3 1V3"
    assert outline(np.ones((4, 5), bool)) == "M0 0H5M0 4H5M0 0V4M5 0V4"  # a full mask is framed
    assert outline(np.zeros((4, 5), bool)) == ""
    noise = np.random.default_rng(0).random((128, 128)) > 0.5
    assert len(outline(noise)) < HEAVIEST and outline(noise) == outline(noise[::2, ::2], 2)


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


def test_a_picture_is_the_tile():
    rng = np.random.default_rng(0)
    for shape in [(101, 101), (64, 33), (40, 70, 3)]:
        tile = rng.integers(0, 256, shape, np.uint8)
        assert picture(tile).startswith("data:image/png;base64,")
        np.testing.assert_array_equal(np.asarray(decoded(picture(tile))), tile)


def test_a_large_tile_is_shown_small_and_light():
    noise = np.random.default_rng(0).integers(0, 256, (1000, 700, 3), np.uint8)  # nothing is harder to compress
    assert reduced(noise).shape == (125, 88, 3) and reduced(noise[:LONGEST, :LONGEST]).shape == (LONGEST, LONGEST, 3)
    uri = picture(reduced(noise))
    assert uri.startswith("data:image/jpeg;base64,") and len(uri) < 24_000
    assert decoded(uri).size == (88, 125)


def test_heat_is_the_more_opaque_the_higher_the_probability():
    probs = np.linspace(0, 1, 101 * 101, dtype=np.float16).reshape(101, 101)
    probs[0, 5] = np.nan
    layer = np.asarray(decoded(heat(probs)).convert("RGBA"))
    assert len({*map(tuple, layer[..., :3].reshape(-1, 3))}) == 1, "one colour"
    opacity = layer[..., 3].ravel().astype(int)
    assert opacity[0] == opacity[5] == 0 and opacity[-1] == OPACITY
    np.testing.assert_allclose(opacity / OPACITY, np.nan_to_num(probs).ravel(), atol=0.5 / 15 + 0.01)


def test_a_grid_has_a_row_for_each_name_and_a_column_for_each_tile():
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 30), np.uint8)
    probs = np.zeros((3, 20, 30), np.float16)
    probs[2] = 1
    pixels = np.asarray(figures.grid({"image": images, "truth": images > 128, "probability": probs}))
    assert pixels.shape == (3 * 24 - 4, 84 + 3 * 34 - 4, 3)
    np.testing.assert_array_equal(pixels[:20, 84 + 34 : 84 + 64], np.repeat(images[1][..., None], 3, -1))
    np.testing.assert_array_equal(pixels[24:44, -30:, 0] > 0, images[2] > 128)
    assert pixels[48, 84].tolist() == [68, 1, 84] and pixels[48, -1].tolist() == [253, 231, 36]  # viridis' ends
    assert (pixels[:, :84] < 255).any(), "the names"


def test_the_picture_of_a_run(finished, tmp_path):
    run, _ = finished
    file = tmp_path / "tiles.png"
    picture_tool.main([*run.flags(), "--tiles=3", f"--to={file}"])
    with Image.open(file) as picture:
        assert picture.size == (84 + 3 * 105 - 4, 4 * 105 - 4)
    with pytest.raises(InputError, match="--tiles 99: take 1 to 2"):
        picture_tool.main([*run.flags(), "--tiles=99", f"--to={file}"])
    with pytest.raises(InputError, match=r"oof.npy was made with other settings"):
        picture_tool.main([*run.flags("--fold=0"), f"--to={file}"])
