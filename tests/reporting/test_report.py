"""The report: its numbers against a direct computation, its page against a parser."""

import base64
import io
import json
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import make_folds, report, submit
from pipeline.salt import artifacts
from pipeline.salt import cli as command
from pipeline.salt import stages as lineage
from pipeline.salt.config import PROFILES, PSEUDO
from pipeline.salt.errors import InputError
from pipeline.salt.reporting import scores
from pipeline.salt.reporting.figures import outline, png
from pipeline.salt.reporting.html import flat
from pipeline.salt.tiles import cache
from pipeline.salt.tiles.competition import Competition

SIDE = 101
about = partial(pytest.approx, abs=1e-6)  # scores.json has six decimals


def competition(seed: int = 0, train: int = 40, test: int = 12, empty: bool = False, truth: bool = True) -> Competition:
    """Noise over discs of salt; every third tile has none, the first is black."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    masks = np.stack([(y - a) ** 2 + (x - b) ** 2 < r**2 for a, b, r in rng.integers(5, 95, (train + test, 3))])
    masks[::3] = False
    masks &= not empty
    images = np.where(masks, 170, 90).astype(np.uint8) + rng.integers(0, 60, masks.shape, np.uint8)
    images[[0, train]], masks[[0, train]] = 0, False
    tiles = pd.DataFrame(
        {
            "id": [f"{i:010x}" for i in range(train + test)],
            "split": ["train"] * train + ["test"] * test,
            "z": rng.integers(50, 960, train + test),
            "black": ~images.any(axis=(1, 2)),
            "coverage": [*masks[:train].mean(axis=(1, 2)), *np.full(test, np.nan)],
        }
    )
    return Competition(images[:train], masks[:train], images[train:], tiles, masks[train:] if truth else None, [])


def guess(masks: np.ndarray, seed: int = 1) -> np.ndarray:
    """float16 probabilities as of a middling network: shifted masks with soft edges, some missed, some invented."""
    rng = np.random.default_rng(seed)
    probs = np.empty(masks.shape, np.float16)
    for i, mask in enumerate(masks):
        soft = np.roll(mask, rng.integers(-4, 5, 2), axis=(0, 1)).astype(np.float32)
        for axis in (0, 1, 0, 1):
            soft = sum(np.roll(soft, step, axis) for step in (-2, -1, 0, 1, 2)) / 5
        if rng.random() < 0.15:
            soft = np.zeros_like(soft) if mask.any() else soft + np.tri(SIDE, k=-70)
        probs[i] = np.clip(0.05 + 0.85 * soft + rng.normal(0, 0.02, soft.shape), 0, 1)
    return probs


def history(epochs: int, best: float, seed: int) -> pd.DataFrame:
    """What callbacks.EpochLog keeps of a training that comes near `best`."""
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


def make(tiles: Competition, argv: list[str]) -> command.Run:
    """Everything before the report: cache, folds, made-up trainings and predictions, and the submission."""
    run, _ = command.parse("", argv)
    files = run.files
    cache.write(tiles, files, artifacts.origin({}))
    make_folds.main(argv)
    fold_of = pd.read_csv(files.folds)["fold"]
    for fold in run.folds:
        for name in ("tiles.csv", "masks.npy"):
            artifacts.publish(files.pseudo(fold, name), artifacts.origin({}), lambda tmp: tmp.write_bytes(b""))
        for step in [stage.size for stage in run.profile.train.stages] + [PSEUDO] * run.profile.pseudo.use:
            stage, _ = run.profile.stage(step)
            rows = history(stage.epochs, 0.8 + stage.size / 5000, 10 * fold + stage.size)
            publish = partial(
                artifacts.publish,
                origin=lineage.checkpoint(run, fold, step),
                fold=fold,
                device="2 CPU threads, AVX512",
                seconds=rows["seconds"].sum(),
            )
            for which in ("best", "last"):
                publish(files.checkpoint(fold, step, which), write=lambda tmp: tmp.write_bytes(b""))
            publish(files.history(fold, step), write=lambda tmp, rows=rows: rows.to_csv(tmp, index=False))
    oof = guess(tiles.masks)
    oof[~fold_of.isin(run.folds)] = np.nan
    truth = tiles.truth if tiles.truth is not None else tiles.test > 120
    origin = lineage.predictions(run)
    for path, probs in [(files.oof(), oof), (files.result("test.npy"), guess(truth, 2))]:
        artifacts.publish(path, origin, lambda tmp, probs=probs: np.save(tmp, probs))
    submit.main(argv)
    return run


def scores_of(run: command.Run) -> dict:
    return json.loads(run.files.result("scores.json").read_text())


def page_of(run: command.Run) -> "Page":
    parsed = Page()
    parsed.feed(run.files.result("report.html").read_text(encoding="utf-8"))
    parsed.close()
    return parsed


class Page(HTMLParser):
    """Checks what any page must keep to, and gathers what the tests ask for."""

    VOID = {"meta", "img", "br", "link", "hr", "input"}

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.loads, self.pictures, self.rows, self.words = [], [], [], [], [], ""

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert tag not in {"script", "link", "iframe", "object", "embed"}
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

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"th", "td"} & {*self.open}:
            self.rows[-1][-1] += data.strip()
        if "style" not in self.open:
            self.words += " " + " ".join(data.split())

    def close(self):
        super().close()
        assert not self.open


# ---- the demo: two sizes, three folds, truth known for the test tiles


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[command.Run, Competition, list[str]]:
    argv = ["--data", "sample", "--out", str(tmp_path_factory.mktemp("demo")), "--profile", "demo"]
    tiles = competition()
    run = make(tiles, argv)
    report.main(argv)
    return run, tiles, argv


def by_definition(probs: np.ndarray, truth: np.ndarray, threshold: float) -> float:
    """Kaggle's score of one tile, in the competition's words; a full mask is left empty, as profile demo has it."""
    mask = probs > np.float16(threshold)
    mask &= not mask.all()
    if not mask.any() and not truth.any():
        return 1.0
    ratio = np.sum(mask & truth) / np.sum(mask | truth)
    return sum(ratio > cut / 100 for cut in range(50, 100, 5)) / 10


def test_scores_are_those_of_a_direct_computation(demo):
    run, tiles, _ = demo
    found, oof, test = scores_of(run), np.load(run.files.oof()), np.load(run.files.result("test.npy"))
    folds = pd.read_csv(run.files.folds)["fold"]
    each = np.array([by_definition(p, t, 0.5) for p, t in zip(oof, tiles.masks, strict=True)])
    assert found["threshold"] == 0.5 and found["out_of_fold"]["tiles"] == 40
    assert found["out_of_fold"]["score"] == about(each.mean())
    assert found["out_of_fold"]["at_half"] == found["thresholds"]["0.5"] == found["out_of_fold"]["score"]
    assert [fold["score"] for fold in found["folds"]] == about([each[folds == k].mean() for k in run.folds])
    assert [fold["tiles"] for fold in found["folds"]] == folds.value_counts().sort_index().tolist()
    at_04 = [by_definition(p, t, 0.4) for p, t in zip(oof, tiles.masks, strict=True)]
    assert found["thresholds"]["0.4"] == about(np.mean(at_04))
    on_test = [by_definition(p, t, 0.5) for p, t in zip(test, tiles.truth, strict=True)]
    assert found["test"]["score"] == about(np.mean(on_test))

    empty = ~tiles.masks.any(axis=(1, 2))
    assert found["out_of_fold"]["all_empty"] == found["empty"]["labelled"] == about(empty.mean())
    assert found["test"]["all_empty"] == about((~tiles.truth.any(axis=(1, 2))).mean())
    assert found["classes"][0] == {"class": "none", "tiles": empty.sum(), "score": about(each[empty].mean())}
    assert sum(row["tiles"] for row in found["classes"]) == 40
    lowest = [row for row in found["classes"] if row["class"] == "to 10 %"][0]
    few = ~empty & (tiles.masks.mean(axis=(1, 2)) <= 0.1)
    assert (lowest["tiles"], lowest["score"]) == (few.sum(), about(each[few].mean()))
    submitted = pd.read_csv(run.files.result("submission.csv.gz"))["rle_mask"]
    assert found["empty"]["submission"] == about(submitted.isna().mean())


def test_epochs_are_those_of_the_histories(demo):
    run, _, _ = demo
    found = scores_of(run)
    total, best = 0, []
    for fold in found["folds"]:
        assert list(fold["sizes"]) == [str(stage.size) for stage in run.profile.train.stages]
        for size, epochs in fold["sizes"].items():
            rows = pd.read_csv(run.files.history(fold["fold"], int(size)))
            top = rows["meanap"].max()
            assert epochs["best"] == {"epoch": rows["epoch"][rows["meanap"] == top].iloc[0], "score": top}
            assert epochs["last"] == {"epoch": len(rows), "score": rows["meanap"].iloc[-1]}
            assert epochs["seconds"] == pytest.approx(rows["seconds"].sum(), abs=0.1)
            total += rows["seconds"].sum()
            best += [top] if size == list(fold["sizes"])[-1] else []
    assert found["seconds"] == pytest.approx(total, abs=0.2)
    ends = list(found["sizes"].values())[-1]
    assert ends["best"] == {"mean": about(np.mean(best)), "sd": about(np.std(best, ddof=1))}
    assert found["device"] == "2 CPU threads, AVX512" and found["versions"]["python"]


def test_the_page_loads_nothing_and_can_be_read_aloud(demo):
    page = page_of(demo[0])
    assert page.loads and all(load.startswith(("data:image/png;base64,", "#")) for load in page.loads)
    assert "url(http" not in demo[0].files.result("report.html").read_text() and "@import" not in page.words
    assert len(set(page.ids)) == len(page.ids)
    assert page.pictures and all(picture["alt"] for picture in page.pictures)


def test_the_page_shows_every_fold_and_the_numbers_of_scores_json(demo):
    run, _, _ = demo
    found, page = scores_of(run), page_of(run)
    for fold in found["folds"]:
        row = next(row for row in page.rows if row[:2] == [str(fold["fold"]), str(fold["tiles"])])
        assert row[2] == f"{fold['score']:.4f}"
        for size in fold["sizes"].values():
            assert {f"{end['score']:.4f} ({end['epoch']})" for end in (size["best"], size["last"])} <= {*row}
    together = found["out_of_fold"]
    for number in (together["score"], together["mean"], together["sd"], found["test"]["score"]):
        assert f"{number:.4f}" in page.words
    assert ["submit.threshold", "0.5"] in page.rows and "generated tiles" in page.words
    assert "gold" not in page.words and "flatters" not in page.words  # made-up tiles; the last epoch predicts


def test_what_is_up_to_date_is_said_and_told_again(demo, capsys):
    run, _, argv = demo
    before = run.files.result("report.html").stat().st_mtime_ns
    report.main(argv)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("fresh") and run.files.result("report.html").stat().st_mtime_ns == before
    assert [line[:13].strip() for line in lines[1:]] == ["out of fold", "test", "submission", "report"]
    assert f"{scores_of(run)['out_of_fold']['score']:.4f}" in lines[1] and lines[4].endswith("report.html")


def test_a_submission_made_otherwise_is_refused_in_words(demo):
    _, _, argv = demo
    with pytest.raises(InputError, match=r"submission.csv.gz was made otherwise \(submit.threshold 0.5 -> 0.4\)"):
        report.main([*argv, "--set", "submit.threshold=0.4"])
    with pytest.raises(InputError, match=r"oof.npy was made otherwise .*; run .*predict"):
        report.main([*argv, "--fold", "0"])


# ---- other runs


def test_one_fold_of_five_of_real_tiles_and_no_truth(tmp_path):
    (tmp_path / "tiles" / "train" / "images").mkdir(parents=True)
    argv = [
        "--data",
        str(tmp_path / "tiles"),
        "--out",
        str(tmp_path),
        "--profile",
        "cpu",
        "--fold",
        "3",
        "--set",
        "model.encoder=<i>",
        "--set",
        "predict.checkpoint=best",
        "--set",
        "train.epochs=1",
        "--set",
        "pseudo.use=true",
    ]
    run = make(competition(truth=False), argv)
    report.main(argv)
    found, page = scores_of(run), page_of(run)
    assert found["folds_ran"] == [3] and found["out_of_fold"]["tiles"] == 8 and found["test"] is None
    assert found["out_of_fold"]["sd"] is None and found["folds"][0]["score"] == found["out_of_fold"]["score"]
    assert np.isnan(np.load(run.files.oof())).any()
    assert list(found["sizes"]) == [*(str(stage.size) for stage in run.profile.train.stages), PSEUDO]
    assert "of pseudo." in page.words
    assert "fold 3 of 5" in page.words and "flatters" in page.words and "silver" in page.words
    assert ["model.encoder", f"<i>(was {PROFILES['cpu'].model.encoder})"] in page.rows  # text, no tag


def test_tiles_without_any_salt(tmp_path):
    argv = ["--data", "sample", "--out", str(tmp_path), "--profile", "demo"]
    run = make(competition(empty=True), argv)
    report.main(argv)
    found, page = scores_of(run), page_of(run)
    assert found["out_of_fold"]["all_empty"] == 1 and [row["class"] for row in found["classes"]] == ["none"]
    assert "There is none." in page.words


# ---- small cases by hand


def test_spread_has_the_deviation_of_a_sample():
    # The article's ten folds: mean .8540, sd .0090 with n - 1.
    folds = [0.8454, 0.8586, 0.8548, 0.8651, 0.8449, 0.8606, 0.8584, 0.8648, 0.8474, 0.8400]
    found = scores.spread(folds)
    assert (round(found["mean"], 4), round(found["sd"], 3)) == (scores.ARTICLE["mean"], scores.ARTICLE["sd"])
    assert scores.spread([0.5]) == {"mean": 0.5, "sd": None}


def test_examples_are_of_their_kind_and_the_most_telling_come_first():
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


def test_names_of_settings_are_those_that_set_takes():
    tree = {
        "name": "x",
        "about": "y",
        "run_folds": 2,
        "model": {"options": {"width": 8}, "extra": {}},
        "train": {"stages": ({"size": 128, "epochs": 5},), "wd": 0.1},
    }
    assert flat(tree) == {
        "run_folds": 2,
        "model.options.width": 8,
        "model.extra": {},
        "train.128.epochs": 5,
        "train.wd": 0.1,
    }


def test_outline_goes_along_the_edges_of_the_pixels():
    mask = np.zeros((4, 5), bool)
    mask[1:3, 2] = True
    assert outline(mask) == "M2 1H3M2 3H3M2 1V3M3 1V3"
    assert outline(np.ones((4, 5), bool)) == "M0 0H5M0 4H5M0 0V4M5 0V4"  # a full mask is framed
    assert outline(np.zeros((4, 5), bool)) == ""


def test_a_png_is_the_tile():
    grey = np.random.default_rng(0).integers(0, 256, (101, 101), np.uint8)
    kind, data = png(grey).split(",")
    assert kind == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), grey)
