"""The table of products: which artifacts a change makes outdated, and what a stage refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import __main__ as overview
from pipeline import train
from pipeline.salt import artifacts, cli, stages
from pipeline.salt.errors import InputError
from pipeline.salt.product import Product, keep_finished, up_to_date
from pipeline.salt.run import Run
from pipeline.salt.tiles import competition

FLAGS = ["--profile", "demo", "--set", "folds.k=3", "--set", "run_folds=2"]
PSEUDO = "--add-phase=pseudo=true"


@pytest.fixture
def flags(tmp_path) -> list[str]:
    return ["--out", str(tmp_path), "--data", "sample", *FLAGS]


def run_of(flags: list[str]) -> Run:
    return cli.parse("doc", flags)[0]


def products_of(run: Run) -> list[Product]:
    """All products of a run, in the order in which they are made."""
    products = [*stages.tiles(run).values(), stages.folds(run)]
    for phase in run.profile.train.phases:
        for fold in run.folds:
            products += stages.pseudo_labels(run, fold) if phase.pseudo else []
            products += stages.trained(run, fold, phase).values()
    products += [*stages.predictions(run), stages.disagreement(run)]
    return [*products, stages.submission(run), *stages.report(run)]


def make(product: Product, content: str = "") -> None:
    with artifacts.publish(product.path, product.origin()) as tmp:
        tmp.write_text(content or str(product.path))


def make_all(run: Run) -> None:
    """Write every artifact that is not up to date, as a small text file."""
    for i, _ in enumerate(products_of(run)):
        product = products_of(run)[i]  # what a report is made from depends on what there is
        if not product.is_fresh():
            make(product)


def states(flags: list[str]) -> dict[str, set[str]]:
    """States of each stage's products."""
    return {stage: {product.status() for product in some} for stage, _, some in stages.table(run_of(flags))}


def stale(flags: list[str]) -> set[str]:
    """Stages whose products are not up to date, or that would refuse."""
    return {stage for stage, statuses in states(flags).items() if statuses != {"done"}}


ALL = ["prepare", "make_folds", "train --phase 64", "train --phase 96", "predict", "submit", "report"]


def test_stages_come_in_the_order_of_the_flow(flags):
    assert list(states(flags)) == ALL
    with_labels = [*flags, PSEUDO, "--add-phase=size=128"]
    later = ["pseudo_label", "train --phase pseudo", "train --phase 128"]
    assert list(states(with_labels)) == [*ALL[:4], *later, *ALL[4:]]


def test_the_table_has_every_product_of_a_stage_or_one_that_is_written_last(flags):
    run = run_of([*flags, PSEUDO])
    known = {product.name for _, _, some in stages.table(run) for product in some}
    for product in products_of(run):
        made_together = [other.name for other in products_of(run) if other.maker == product.maker]
        assert product.name in known or made_together[-1] in known or made_together[0] == "cache/images.npy"


def test_after_a_run_everything_is_fresh(flags):
    make_all(run_of([*flags, PSEUDO]))
    assert stale([*flags, PSEUDO]) == set()
    assert stale([*flags, PSEUDO, "--force", "--weights", flags[1]]) == set(), "flags that are no settings"
    assert stale([*flags, PSEUDO, "--engine=ray", "--workers=7"]) == set()


@pytest.mark.parametrize(
    "setting, first",
    [
        ("sample.train=30", "prepare"),
        ("sample.seed=8", "prepare"),
        ("folds.scheme=kfold", "make_folds"),
        ("folds.seed=1", "make_folds"),
        ("model.options.width=8", "train --phase 64"),
        ("augment.zoom=1.3", "train --phase 64"),
        ("train.wd=0.5", "train --phase 64"),
        ("train.loss=bce", "train --phase 64"),
        ("train.seed=1", "train --phase 64"),
        ("train.64.epochs=1", "train --phase 64"),
        ("train.96.epochs=1", "train --phase 96"),
        ("train.96.lr=0.5", "train --phase 96"),
        ("train.96.name=fine", "train --phase fine"),
        ("predict.flip=False", "predict"),
        ("predict.batch=3", "report"),  # it lists all settings; the probabilities are the same
        ("submit.threshold=0.4", "submit"),
        ("submit.black_empty=False", "submit"),
        ("workers=2", "report"),
    ],
)
def test_a_setting_makes_its_own_stage_stale_and_none_before(flags, setting, first):
    make_all(run_of(flags))
    changed = [*flags, "--set", setting]
    order, changed_stages = list(states(changed)), stale(changed)
    assert first in changed_stages and not set(order[: order.index(first)]) & changed_stages
    assert set(order[order.index(first) :]) == changed_stages, "all that follows"


@pytest.mark.parametrize(
    "setting, first",
    [
        ("pseudo.share=0.5", "pseudo_label"),
        ("predict.flip=False", "pseudo_label"),
        ("predict.checkpoint=best", "pseudo_label"),
    ],
)
def test_a_setting_of_the_labels_leaves_the_phases_before_alone(flags, setting, first):
    make_all(run_of([*flags, PSEUDO]))
    changed = [*flags, PSEUDO, "--set", setting]
    order = list(states(changed))
    assert stale(changed) == set(order[order.index(first) :])
    longer = [*flags, f"{PSEUDO},epochs=1"]
    assert stale(longer) == set(order[order.index("train --phase pseudo") :])


@pytest.mark.parametrize(
    "remade, after",
    [
        ("images.npy", ["train --phase 64", "predict"]),
        ("masks.npy", ["train --phase 64", "submit"]),
        ("tiles.csv", ["make_folds", "submit"]),
        ("test.npy", ["predict"]),
    ],
)
def test_other_tiles_make_stale_what_reads_them(flags, remade, after):
    run = run_of(flags)
    make_all(run)
    make(stages.tiles(run)[remade], "other tiles")
    assert set(after) <= stale(flags) and "prepare" not in stale(flags)


def test_one_fold_trained_anew_leaves_the_other_alone(flags):
    run = run_of(flags)
    make_all(run)
    make(stages.trained(run, 0, run.profile.train.phases[0])["best"], "other weights")
    assert stale([*flags, "--fold", "1"]) == {"predict", "submit", "report"}, "other folds are asked for"
    assert "train --phase 96" in stale([*flags, "--fold", "0"]) and "train --phase 64" not in stale(flags)


def test_the_checkpoint_that_is_not_used_does_not_matter(flags):
    run = run_of(flags)
    make_all(run)
    assert run.profile.predict.checkpoint == "last"
    make(stages.trained(run, 1, run.profile.train.last)["best"], "other weights")
    assert stale(flags) == set()
    assert "predict" in stale([*flags, "--set", "predict.checkpoint=best"])


def test_a_phase_is_made_from_the_one_before_it_and_from_no_other(flags):
    run = run_of([*flags, PSEUDO, "--add-phase=size=128"])
    make_all(run)
    origins = [stages.trained(run, 0, phase)["history"].origin() for phase in run.profile.train.phases]
    weights = [[name for name in origin.inputs if "safetensors" in name] for origin in origins]
    assert weights == [[], ["fold_0/64.safetensors"], ["fold_0/96.safetensors"], ["fold_0/pseudo.safetensors"]]
    assert all("phases" not in origin.settings["train"] for origin in origins), "the other phases do not matter"
    labels = ["fold_0/pseudo_tiles.csv", "fold_0/pseudo_masks.npy", "cache/test.npy"]
    assert [set(labels) <= set(origin.inputs) for origin in origins] == [False, False, True, False]
    assert stages.trained(run, 0, run.profile.train.phases[0])["best"].inputs[0].name == "folds.csv"


def test_a_phase_that_is_added_needs_nothing_before_it_anew(flags):
    make_all(run_of(flags))
    assert stale([*flags, "--add-phase=size=128"]) == {"train --phase 128", "predict", "submit", "report"}


def test_labels_of_a_fold_come_from_its_own_model_alone(flags):
    run = run_of([*flags, PSEUDO])
    make_all(run)
    for fold in (0, 1):
        for product in stages.pseudo_labels(run, fold):
            assert set(product.origin().inputs) == {f"fold_{fold}/96.last.safetensors", "cache/test.npy"}
        trained = stages.trained(run, fold, run.profile.train.last)["history"].origin().inputs
        assert not any(name.startswith(f"fold_{1 - fold}") for name in trained)


def test_a_fold_that_was_not_trained_names_the_command(flags):
    make_all(run_of(flags))
    wanted = run_of([*flags, "--fold", "0", "--fold", "2"])
    for product in stages.predictions(wanted):
        with pytest.raises(InputError) as e:
            product.origin()
        assert "fold_2/96.last.safetensors has not been made yet" in str(e.value)
        assert "run python -m pipeline.train --fold 2 --phase 96 first, with the same flags" in str(e.value)
        assert "(or name the folds to use with --fold)" in str(e.value)


def test_folds_must_not_be_mixed(flags):
    run, other = run_of(flags), run_of([*flags, "--set", "train.96.lr=0.5"])
    make_all(run)
    make(stages.trained(other, 1, other.profile.train.last)["last"])
    for asked, fold, change in [(run, 1, "0.5 -> 0.0008"), (other, 0, "0.0008 -> 0.5")]:
        with pytest.raises(InputError) as e:
            stages.predictions(asked)[0].origin()
        assert f"fold_{fold}/96.last.safetensors was made with other settings (train.phase.lr {change})" in str(e.value)
        assert f"run python -m pipeline.train --fold {fold} --phase 96 first, or give the same flags" in str(e.value)


def test_an_outdated_input_several_stages_back_is_refused(flags):
    """Phase 96 was trained from other weights of phase 64 than those there now, whose settings are right."""
    run = run_of(flags)
    make_all(run)
    make(stages.trained(run, 0, run.profile.train.phases[0])["best"], "other weights")
    with pytest.raises(InputError, match=r"96\.last\.safetensors was .* \(fold_0/64\.safetensors changed\); run"):
        stages.predictions(run)[1].require()
    assert states(flags)["report"] == states(flags)["submit"] == {"waits"}


@pytest.mark.parametrize(
    "lost, maker",
    [
        (lambda run: stages.tiles(run)["tiles.csv"], "prepare"),
        (lambda run: stages.tiles(run)["images.npy"], "prepare"),
        (stages.folds, "make_folds"),
        (lambda run: stages.trained(run, 0, run.profile.train.phases[0])["best"], "train --fold 0 --phase 64"),
        (lambda run: stages.pseudo_labels(run, 0)[0], "pseudo_label --fold 0"),
        (lambda run: stages.trained(run, 1, run.profile.train.last)["last"], "train --fold 1 --phase pseudo"),
        (lambda run: stages.predictions(run)[0], "predict"),
        (lambda run: stages.predictions(run)[1], "predict"),
        (stages.submission, "submit"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_makes_it(flags, lost, maker):
    run = run_of([*flags, PSEUDO])
    make_all(run)
    product = lost(run)
    not_finished = rf"is not finished \({product.path.name}\.json, which is written last, is missing\)"
    for file, fault in ((artifacts.sidecar_of(product.path), not_finished), (product.path, "has not been made yet")):
        file.unlink()
        for needs in (product.require, stages.report(run)[0].origin):
            with pytest.raises(InputError, match=rf"{product.path.name} {fault}; run .*pipeline\.{maker} first"):
                needs()
    make(product)
    assert stale([*flags, PSEUDO]) == set(), "the same bytes: nothing else to redo"


def test_where_nothing_is_made_everything_waits_for_the_first(flags):
    statuses = states(flags)
    assert statuses.pop("prepare") == {"to do"} and [*statuses] == ALL[1:]
    assert all(state == {"waits"} for state in statuses.values())


def test_the_state_of_a_stage_says_whether_it_can_go_on(flags):
    run = run_of(flags)
    make_all(run)
    first, last = run.profile.train.phases
    history = stages.trained(run, 0, last)["history"]
    artifacts.discard(history.path)
    assert states(flags)["train --phase 96"] == {"to do", "done"}
    history.state.write_text("")
    assert states(flags)["train --phase 96"] == {"under way", "done"}
    history.state.unlink()
    assert states([*flags, "--set=train.96.lr=0.5"])["train --phase 96"] == {"to do", "out of date"}
    artifacts.discard(stages.trained(run, 0, first)["best"].path)
    assert states(flags)["train --phase 96"] == {"waits", "done"}


def test_a_damaged_sidecar_is_no_traceback_of_the_overview(flags):
    run = run_of(flags)
    make_all(run)
    last = stages.trained(run, 0, run.profile.train.last)
    artifacts.sidecar_of(last["last"].path).write_text("{")
    assert states(flags)["predict"] == {"waits"}
    artifacts.sidecar_of(last["history"].path).write_text("{")
    assert states(flags)["train --phase 96"] == {"damaged", "done"}


def test_damaged_weights_are_kept_until_it_is_said_that_they_may_go(flags):
    run = run_of(flags)
    make_all(run)
    product = stages.trained(run, 0, run.profile.train.last)["last"]
    product.path.write_text("x")
    with pytest.raises(InputError, match=r"last\.safetensors is damaged: .*train --fold 0 --phase 96 --force to make"):
        keep_finished([product], force=False)
    keep_finished([product], force=True)
    artifacts.discard(product.path)
    keep_finished([product], force=False)


def test_one_look_sees_each_artifact_once_and_the_next_look_sees_what_has_changed(flags, monkeypatch):
    run = run_of(flags)
    make_all(run)
    looks, damage_of = [], artifacts.damage_of
    monkeypatch.setattr(artifacts, "damage_of", lambda path, **how: looks.append(path) or damage_of(path, **how))
    stages.report(run)[0].origin()
    assert len(looks) == len({*looks}) > 10
    make(stages.trained(run, 0, run.profile.train.phases[0])["best"], "other weights")
    with pytest.raises(InputError, match="changed"):
        stages.report(run)[0].origin()


# ---- what is kept


def test_finished_weights_are_kept_from_another_recipe(flags):
    run = run_of(flags)
    make_all(run)
    other = run_of([*flags, "--set", "train.96.lr=0.5"])
    for kind in ("best", "last", "history"):
        keep_finished([stages.trained(run, 0, run.profile.train.last)[kind]], force=False)
        product = stages.trained(other, 0, other.profile.train.last)[kind]
        with pytest.raises(InputError) as e:
            keep_finished([product], force=False)
        text = str(e.value)
        assert f"{product.path.name} was made with other settings (train.phase.lr 0.0008 -> 0.5)" in text
        assert (
            "--run NAME keeps it" in text and "--force, with the same flags, replaces it" in text and "\n" not in text
        )
        keep_finished([product], force=True)


def test_one_of_several_that_would_be_replaced_is_enough_to_refuse(flags):
    run, other = run_of(flags), run_of([*flags, "--set", "train.96.lr=0.5"])
    make_all(run)
    products = [*stages.trained(other, 0, other.profile.train.last).values()]
    artifacts.discard(products[0].path)  # nothing to keep
    with pytest.raises(InputError, match=products[1].path.name):
        keep_finished(products, force=False)
    for product in products[1:]:
        artifacts.sidecar_of(product.path).unlink()  # not finished
    keep_finished(products, force=False)


def test_a_training_of_before_a_setting_came_is_not_refused_for_it(flags):
    """For any setting: of the training, its augmentation, its model or its phase."""
    run = run_of(flags)
    make_all(run)
    product = stages.trained(run, 0, run.profile.train.last)["best"]
    now = product.origin()
    for section, settings in [*now.settings.items(), ("phase", now.settings["train"]["phase"])]:
        for name, value in settings.items() if isinstance(settings, dict) else []:
            before = json.loads(json.dumps(now.settings))
            del (before["train"]["phase"] if section == "phase" else before[section])[name]
            with artifacts.publish(product.path, replace(now, settings=before)) as tmp:
                tmp.write_text("weights")
            needed = isinstance(value, dict) or name in ("size", "batch", "epochs", "lr", "name")  # it always had them
            changes = artifacts.differences(product.path, now)
            assert needed or all("unset" not in change for change in changes), (section, name)


def test_a_report_made_before_a_setting_existed_is_not_made_anew(flags):
    run = run_of(flags)
    make_all(run)
    scores = stages.report(run)[0].origin()
    settings = json.loads(json.dumps(scores.settings))
    del settings["profile"]["train"]["compile"], settings["profile"]["predict"]["flip"]
    assert artifacts.changes(replace(scores, settings=settings), scores) == []
    settings["profile"]["predict"]["checkpoint"] = "average"
    assert artifacts.changes(replace(scores, settings=settings), scores) == [
        "profile.predict.checkpoint average -> last"
    ]


def test_a_result_names_the_code_as_its_stage_began(flags, monkeypatch, tmp_path):
    """Code that is changed during a training of hours must not be recorded as the code that trained."""
    run, code = run_of(flags), tmp_path / "code"
    code.mkdir()
    (code / "a.py").write_text("1")
    monkeypatch.setattr(artifacts, "CODE", code)
    caches = artifacts.code_version, artifacts.commit
    try:
        for cached in caches:
            cached.cache_clear()
        product = stages.decoded(run)[0]
        assert not up_to_date([product], force=False)
        (code / "a.py").write_text("2")
        make(product)
        of_its_stage = product.sidecar()["code"]
        artifacts.code_version.cache_clear()
        assert of_its_stage != artifacts.code_version()
    finally:
        for cached in caches:
            cached.cache_clear()


def test_another_run_keeps_both(flags):
    make_all(run_of(flags))
    other = [*flags, "--run", "b", "--set", "train.wd=0.5"]
    assert stale(other) == set(ALL) - {"prepare"}, "the tiles are the same"
    make_all(run_of(other))
    assert stale(flags) == stale(other) == set()


@pytest.mark.parametrize("phase, gone", [("64", {"96", "pseudo"}), ("96", {"pseudo"}), ("pseudo", set())])
def test_phases_trained_from_replaced_weights_are_removed_in_that_fold_alone(flags, phase, gone):
    run = run_of([*flags, PSEUDO])
    make_all(run)
    before = {path for path in Path(flags[1]).rglob("*") if path.is_file()}
    train.discard_outdated_phases(run, 0, run.profile.train.phase(phase))
    assert before == {path for path in Path(flags[1]).rglob("*") if path.is_file()}, "it belongs to these weights still"
    for product in stages.trained(run, 0, run.profile.train.phase(phase)).values():
        make(product, "other weights")
    train.discard_outdated_phases(run, 0, run.profile.train.phase(phase))
    lost = before - {path for path in Path(flags[1]).rglob("*")}
    assert {path.parent.name for path in lost} <= {"fold_0"}
    assert {path.name.split(".")[0] for path in lost} == gone
    for name in gone:
        left = stages.trained(run, 0, run.profile.train.phase(name)).values()
        assert not any(product.path.exists() or artifacts.sidecar_of(product.path).exists() for product in left)


# ---- tiles


def test_the_sample_follows_from_its_numbers_and_real_tiles_from_their_files(flags, tiny_competition):
    run = run_of(flags)
    of_sample, of_files = (
        stages.tiles(replace(run, data=data))["images.npy"].origin() for data in (None, tiny_competition)
    )
    assert stages.tiles(replace(run, data=tiny_competition))["images.npy"].origin() == of_files != of_sample
    (tiny_competition / "train.csv").write_text((tiny_competition / "train.csv").read_text() + "\n")
    assert stages.tiles(replace(run, data=tiny_competition))["images.npy"].origin() != of_files


def test_the_files_of_the_tiles_are_looked_at_once_a_command(flags, tiny_competition, monkeypatch):
    looked, inputs = [], competition.inputs
    monkeypatch.setattr(competition, "inputs", lambda folder: looked.append(folder) or inputs(folder))
    run = replace(run_of(flags), data=tiny_competition)
    make_all(run)
    assert len(looked) == 1


def test_tiles_of_other_files_are_refused_until_they_are_decoded(flags, tiny_competition):
    """Two folders of one name share a cache; the sentence comes before anything is trained on the wrong tiles."""
    make_all(replace(run_of(flags), data=tiny_competition))
    (tiny_competition / "train.csv").write_text((tiny_competition / "train.csv").read_text() + "\n")
    other = replace(run_of(flags), data=tiny_competition)
    assert [product.status() for product in (*stages.decoded(other), stages.folds(other))] == ["out of date"] * 5 + [
        "waits"
    ]
    with pytest.raises(
        InputError, match=r"tiles\.csv was made from other tiles than this command's \(files .*prepare first"
    ):
        stages.folds(other).origin()
    for product in stages.decoded(other):
        make(product)
    assert {product.status() for product in products_of(other)} == {"done"}, "the same bytes: nothing else to redo"


# ---- the overview


def test_the_overview_sums_up_the_states_of_a_stage(flags):
    run = run_of(flags)
    make_all(run)
    last = run.profile.train.last
    trained = [stages.trained(run, fold, last)["history"] for fold in run.folds]
    assert overview.summarize(trained) == "done"
    artifacts.discard(trained[1].path)
    assert overview.summarize(trained) == "1 done, of 2"
    trained[1].state.write_text("")
    assert overview.summarize(trained) == "1 done, 1 under way, of 2"
    artifacts.discard(trained[0].path)
    trained[1].state.unlink()
    assert overview.summarize(trained) == "to do"
