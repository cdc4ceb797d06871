"""The table of products: what each artifact of a run is called, where it lies, which stage makes it, and from what.

Freshness, "run X first" and the state of a run are read from it. To add a stage, add its file and its line in `table`.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from pipeline.salt import artifacts
from pipeline.salt.artifacts import Origin, display_path
from pipeline.salt.config import Phase, Submit, profile_from
from pipeline.salt.errors import InputError
from pipeline.salt.run import Run
from pipeline.salt.tiles import competition, folder


@dataclass(frozen=True)
class Product:
    """One artifact of a run.

    name      what it is called among the inputs of others: 'fold_0/128.safetensors'
    maker     the command that makes it, after `python -m pipeline.`
    settings  gives what of the run's settings it depends on, as JSON values
    inputs    the artifacts it is made from
    state     the state of an unfinished training
    """

    name: str
    path: Path
    maker: str
    settings: Callable[[], dict]
    inputs: "tuple[Product, ...]" = ()
    state: Path | None = None

    def origin(self) -> Origin:
        """What it is to be made from. InputError if an input has not been made, or was made with other settings."""
        for product in self.inputs:
            product.require()
        return artifacts.origin(self.settings(), {product.name: product.path for product in self.inputs})

    def require(self) -> None:
        """InputError that names the command to run first, unless the artifact exists and has this run's settings."""
        if artifacts.read_sidecar(self.path) is None:
            raise InputError(
                f"{display_path(self.path)} has not been made yet; run python -m pipeline.{self.maker} first, "
                "with the same flags" + " (or name the folds to use with --fold)" * ("--fold" in self.maker)
            )
        # The tiles follow from their files alone, which may be on another machine: what was decoded counts.
        if self.inputs and (changes := artifacts.differences(self.path, self.origin())):
            raise InputError(
                f"{display_path(self.path)} was made with other settings ({'; '.join(changes)}); run python -m "
                f"pipeline.{self.maker} first, or give the same flags as then"
            )

    def is_fresh(self) -> bool:
        """Whether the artifact exists and was made from what this run would use; raises InputError as `origin` does."""
        return artifacts.is_fresh(self.path, self.origin())

    def status(self) -> str:
        """'done', 'waits' for an input, 'under way', 'out of date' or 'to do'."""
        try:
            if self.is_fresh():
                return "done"
        except InputError:
            return "waits"
        if self.state and self.state.exists():
            return "under way"
        return "out of date" if artifacts.read_sidecar(self.path) else "to do"


def up_to_date(products: Sequence[Product], force: bool) -> bool:
    """Whether a stage has nothing to do, which it then prints. InputError if an input is missing, with --force too."""
    fresh = all([product.is_fresh() for product in products])
    if force or not fresh:
        return False
    artifacts.print_fresh(products[-1].path)
    return True


def keep(products: Iterable[Product], force: bool) -> None:
    """InputError where a finished artifact that was made with other settings would be replaced without --force."""
    for product in [] if force else products:
        try:
            changes = artifacts.differences(product.path, product.origin())
        except InputError:  # what it is made from has to be made first
            continue
        if changes:
            raise InputError(
                f"{display_path(product.path)} was made with other settings ({'; '.join(changes)}); --run NAME keeps "
                "it and works beside it, --force replaces it"
            )


# ---- products, in the order in which they are made


def tiles(run: Run) -> dict[str, Product]:
    """The decoded tiles by the names of their files."""

    @cache  # the products share it, and a folder may have 22,000 files
    def settings() -> dict:
        if run.data is None:  # the sample follows from its numbers alone
            return {"sample": asdict(run.profile.sample)}
        if run.own_data:
            return {"files": artifacts.hash_of(folder.inputs(run.data)), "tiles": asdict(run.profile.tiles)}
        return {"files": artifacts.hash_of(competition.inputs(run.data))}

    names = ("images.npy", "masks.npy", "test.npy", "tiles.csv", "truth.npy")
    return {name: Product(f"cache/{name}", run.files.cache(name), "prepare", settings) for name in names}


def folds(run: Run) -> Product:
    """folds.csv."""

    def settings() -> dict:
        section = asdict(run.profile.folds)
        if file := section.pop("file"):  # what is in it counts, not where it lies
            if not Path(file).is_file():
                raise InputError(f"folds.file={file}: there is no such file")
            section["file"] = artifacts.hash_of(Path(file).read_bytes().hex())
        return {"folds": section}

    return Product("folds.csv", run.files.folds, "make_folds", settings, (tiles(run)["tiles.csv"],))


def trained(run: Run, fold: int, phase: Phase) -> dict[str, Product]:
    """What the training of fold k leaves: weights by epoch ('best', 'last', 'average'), and 'history'.

    Made from the sections model, augment and train, without the other phases; from the tiles, the weights of the phase
    before, if any, and fold k's pseudo-labels in a phase that learns from them.
    """
    profile, files = run.profile, run.files
    train = asdict(profile.train) | {"phase": asdict(phase)}
    del train["phases"]
    settings = {"fold": fold, "model": asdict(profile.model), "augment": asdict(profile.augment), "train": train}
    cached = tiles(run)
    inputs = [folds(run), cached["images.npy"], cached["masks.npy"]]
    if before := profile.train.before(phase):
        inputs.append(trained(run, fold, before)["best"])
    if phase.pseudo:
        inputs += [*pseudo_labels(run, fold), cached["test.npy"]]
    paths = {epoch: files.weights(fold, phase, epoch) for epoch in profile.train.epochs_kept(phase)}
    paths["history"] = files.history(fold, phase)
    return {
        kind: Product(
            f"fold_{fold}/{path.name}",
            path,
            f"train --fold {fold} --phase {phase.name}",
            lambda: settings,
            tuple(inputs),
            files.resume(fold, phase),
        )
        for kind, path in paths.items()
    }


def pseudo_labels(run: Run, fold: int) -> list[Product]:
    """Table and masks of fold k's pseudo-labels.

    Made by fold k's own model alone: every other one has learned from fold k's tiles.
    """
    profile = run.profile
    settings = asdict(profile.pseudo) | {"flip": profile.predict.flip}
    inputs = (trained(run, fold, profile.train.labeller)[profile.predict.checkpoint], tiles(run)["test.npy"])
    paths = [run.files.pseudo(fold, name) for name in ("tiles.csv", "masks.npy")]
    maker = f"pseudo_label --fold {fold}"
    return [Product(f"fold_{fold}/{path.name}", path, maker, lambda: settings, inputs) for path in paths]


def predictions(run: Run) -> list[Product]:
    """oof.npy and test.npy, of run.folds."""
    train, cached = run.profile.train, tiles(run)
    weights = [trained(run, fold, train.last)[run.profile.predict.checkpoint] for fold in run.folds]
    settings = {"predict": asdict(run.profile.predict), "folds": list(run.folds)}
    inputs = (folds(run), cached["images.npy"], cached["test.npy"], *weights)
    paths = [run.files.oof, run.files.result("test.npy")]
    return [Product(path.name, path, "predict", lambda: settings, inputs) for path in paths]


def disagreement(run: Run) -> Product:
    """disagreement.csv, made together with test.npy."""
    path = run.files.result("disagreement.csv")
    return replace(predictions(run)[1], name=path.name, path=path)


def submission(run: Run) -> Product:
    """submission.csv.gz."""
    return _submitted(run, "submission.csv.gz")


def masks(run: Run) -> Product:
    """masks.zip: of images of one's own."""
    return _submitted(run, "masks.zip")


def _submitted(run: Run, name: str) -> Product:
    settings = {"submit": asdict(run.profile.submit)}
    inputs = (*predictions(run), tiles(run)["tiles.csv"], tiles(run)["masks.npy"])
    return Product(name, run.files.result(name), "submit", lambda: settings, inputs)


def report(run: Run) -> list[Product]:
    """scores.json and report.html."""
    settings = {"profile": asdict(run.profile), "folds": list(run.folds)}
    histories = [trained(run, fold, phase)["history"] for fold in run.folds for phase in run.profile.train.phases]
    cached = [tiles(run)[name] for name in ("tiles.csv", "masks.npy", "truth.npy")]
    known = [product for product in cached if product.path.exists()]  # nobody has Kaggle's truth
    inputs = (folds(run), *known, *histories, *predictions(run), submission(run))
    paths = [run.files.result(name) for name in ("scores.json", "report.html")]
    return [Product(path.name, path, "report", lambda: settings, inputs) for path in paths]


def recorded(run: Run, name: str) -> Run:
    """The finished run of this name, on the same tiles below the same --out, with the settings that its report records.

    InputError where it has no report, or one that is out of date.
    """
    files = replace(run.files, run=name)
    sidecar = artifacts.read_sidecar(files.result("scores.json"))
    if sidecar is None:
        raise InputError(
            f"run {name} has no report below {display_path(files.out)}; finish it first, with its flags: ./run_all.sh "
            f"--run {name} (python -m pipeline lists the runs)"
        )
    decoded = artifacts.read_sidecar(run.files.cache("tiles.csv")) or {}
    if sidecar["inputs"]["cache/tiles.csv"] != decoded.get("sha256"):
        raise InputError(
            f"run {name} is of other tiles than {run.files.source}'s; --data names a run's folder, and only runs of "
            "the same tiles can be compared or joined"
        )
    profile, folds = profile_from(sidecar["settings"]["profile"]), tuple(sidecar["settings"]["folds"])
    run = replace(run, profile=profile, files=files, folds=folds)
    report(run)[0].require()
    return run


def same_folds(runs: Sequence[Run]) -> bool:
    """Whether each fold of these finished runs holds out the same tiles in all of them."""
    return len({(artifacts.read_sidecar(run.files.folds) or {})["sha256"] for run in runs}) == 1


def ensemble(runs: Sequence[Run], rules: Submit) -> Product:
    """submission.csv.gz of several runs together."""
    name, first = "+".join(run.files.run for run in runs), runs[0]
    settings = {"submit": asdict(rules)}
    parts = [
        replace(product, name=f"{run.files.run}/{product.name}")
        for run in runs
        for product in (*predictions(run), submission(run))
    ]
    inputs = (*parts, folds(first), tiles(first)["tiles.csv"], tiles(first)["masks.npy"])
    path = replace(first.files, run=name).result("submission.csv.gz")
    return Product(path.name, path, "submit", lambda: settings, inputs)


def comparison(runs: Sequence[Run]) -> Product:
    """The page about several finished runs."""
    parts = [
        replace(product, name=f"{run.files.run}/{product.name}")
        for run in runs
        for product in (report(run)[0], *predictions(run), folds(run))
    ]
    path = runs[0].files.comparison([run.files.run for run in runs])
    return Product(path.name, path, "tools.compare", dict, tuple(parts))


def scores(run: Run) -> dict:
    """What scores.json holds."""
    return json.loads(report(run)[0].path.read_text())


def table(run: Run) -> Iterator[tuple[str, str, list[Product]]]:
    """(command, what it does, its products) of every stage, in order."""
    chosen = ", ".join(map(str, run.folds))
    yield "prepare", "decode every tile once, and check it", [tiles(run)["tiles.csv"]]
    yield "make_folds", f"split the tiles into {run.profile.folds.k} folds", [folds(run)]
    for phase in run.profile.train.phases:
        if phase.pseudo:
            yield "pseudo_label", "the test tiles each fold is sure of", [pseudo_labels(run, k)[-1] for k in run.folds]
        about = f"{phase.epochs} epochs at {phase.size} px, folds {chosen}"
        yield f"train --phase {phase.name}", about, [trained(run, k, phase)["history"] for k in run.folds]
    yield "predict", "every tile, flip TTA, mean of the folds", [disagreement(run), *predictions(run)]
    yield "submit", "threshold, rules, run lengths", [submission(run), *[masks(run)] * run.own_data]
    yield "report", "one page with scores, curves and tiles", report(run)
