"""The products of a run: the name, path and inputs of each artifact, and the stage that makes it.

Freshness, "run X first" and the state of a run follow from them. To add a stage, add its file and a line in `table`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from pipeline.salt import artifacts
from pipeline.salt.config import Phase, Profile, Submit, section_from
from pipeline.salt.disk import display_path
from pipeline.salt.errors import InputError
from pipeline.salt.product import Product
from pipeline.salt.run import Run, joined, source_name
from pipeline.salt.tiles import cache, competition, folder

per_run = lru_cache(1000)  # a Run lasts for one command, and its products depend on nothing else


@per_run
def tiles(run: Run) -> Mapping[str, Product]:
    """The decoded tiles, by file name."""

    @lru_cache(1)  # shared by all these products: a folder may have 22,000 files to list
    def settings() -> dict:
        if run.data is None:  # the sample is generated from its settings alone
            return {"sample": asdict(run.profile.sample)}
        if run.own_data:
            return {"files": artifacts.hash_of(folder.inputs(run.data)), "tiles": asdict(run.profile.tiles)}
        return {"files": artifacts.hash_of(competition.inputs(run.data))}

    names = (*cache.NAMES, cache.TRUTH)
    products = {name: Product(f"cache/{name}", run.files.cache(name), "prepare", settings) for name in names}
    return MappingProxyType(products)


def decoded(run: Run) -> list[Product]:
    """The products of `tiles` that this data set has, the table last; Kaggle's test tiles have no known truth."""
    products = tiles(run)
    return [products[name] for name in ([cache.TRUTH] if cache.has_truth(run.files) else []) + [*cache.NAMES]]


@per_run
def folds(run: Run) -> Product:
    """folds.csv."""

    def settings() -> dict:
        section = asdict(run.profile.folds)
        if file := section.pop("file"):  # its content counts, not its path
            if not Path(file).is_file():
                raise InputError(f"folds.file={file}: there is no such file")
            section["file"] = artifacts.hash_of(Path(file).read_bytes().hex())
        return {"folds": section}

    cached, names = tiles(run), ["tiles.csv", *["images.npy", "test.npy"] * _looks_for_neighbours(run)]
    return Product("folds.csv", run.files.folds, "make_folds", settings, tuple(cached[name] for name in names))


def _looks_for_neighbours(run: Run) -> bool:
    """Whether make_folds searches for neighbours. Tiles cut from the user's own images are grouped by image anyway."""
    section = run.profile.folds
    return section.scheme == "mosaic" and not section.file and run.profile.tiles.side == "whole"


def neighbours(run: Run) -> list[Product]:
    """neighbours.csv and neighbours.png, made along with folds.csv; [] unless the scheme is mosaic."""
    if not _looks_for_neighbours(run):
        return []
    paths = [run.files.neighbours(kind) for kind in ("csv", "png")]
    return [replace(folds(run), name=path.name, path=path) for path in paths]


@per_run
def trained(run: Run, fold: int, phase: Phase) -> Mapping[str, Product]:
    """What the training of fold k in this phase leaves: weights by epoch ('best', 'last', 'average'), and 'history'.

    Settings: the sections model, augment and train, without the other phases. Inputs: the tiles, the weights of the
    phase before, if any, and fold k's pseudo-labels if the phase learns from them.
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
    maker, state = f"train --fold {fold} --phase {phase.name}", files.resume(fold, phase)
    products = {
        kind: Product(f"fold_{fold}/{path.name}", path, maker, lambda: settings, tuple(inputs), state)
        for kind, path in paths.items()
    }
    return MappingProxyType(products)


@per_run
def pseudo_labels(run: Run, fold: int) -> tuple[Product, ...]:
    """Table and masks of fold k's pseudo-labels.

    Only fold k's own model makes them: all others have learned from fold k's tiles. With the mosaic scheme, neighbours
    of fold k's tiles are left out.
    """
    profile = run.profile
    settings = asdict(profile.pseudo) | {"flip": profile.predict.flip, "scale": profile.predict.scale}
    labeller = trained(run, fold, profile.train.labeller)[profile.predict.checkpoint]
    inputs = (labeller, tiles(run)["test.npy"], *neighbours(run)[:1])
    paths = [run.files.pseudo(fold, name) for name in ("tiles.csv", "masks.npy")]
    maker = f"pseudo_label --fold {fold}"
    state = run.files.resume_of(paths[-1])
    return tuple(Product(f"fold_{fold}/{path.name}", path, maker, lambda: settings, inputs, state) for path in paths)


@per_run
def predictions(run: Run) -> tuple[Product, ...]:
    """oof.npy and test.npy, predicted by run.folds."""
    train, cached = run.profile.train, tiles(run)
    weights = [trained(run, fold, train.last)[run.profile.predict.checkpoint] for fold in run.folds]
    predict = asdict(run.profile.predict)
    del predict["batch"]  # set by memory: it changes probabilities by rounding only
    settings = {"predict": predict, "folds": list(run.folds)}
    inputs = (folds(run), cached["images.npy"], cached["test.npy"], *weights)
    paths = [run.files.oof, run.files.result("test.npy")]
    return tuple(
        Product(path.name, path, "predict", lambda: settings, inputs, run.files.resume_of(path)) for path in paths
    )


@per_run
def disagreement(run: Run) -> Product:
    """disagreement.csv, made together with test.npy."""
    path = run.files.result("disagreement.csv")
    return replace(predictions(run)[1], name=path.name, path=path)


@per_run
def submitted(run: Run) -> tuple[Product, ...]:
    """masks.zip if the images are the user's own, then submission.csv.gz."""
    settings = {"submit": asdict(run.profile.submit)}
    inputs = (*predictions(run), tiles(run)["tiles.csv"], tiles(run)["masks.npy"])
    paths = [run.files.result(name) for name in _names(run)]
    return tuple(Product(path.name, path, "submit", lambda: settings, inputs) for path in paths)


def submission(run: Run) -> Product:
    """submission.csv.gz."""
    return submitted(run)[-1]


def _names(run: Run) -> list[str]:
    return [*["masks.zip"] * run.own_data, "submission.csv.gz"]


def report(run: Run) -> list[Product]:
    """scores.json and report.html."""
    settings = {"profile": asdict(run.profile), "folds": list(run.folds)}
    histories = [trained(run, fold, phase)["history"] for fold in run.folds for phase in run.profile.train.phases]
    cached = [
        product for product in decoded(run) if product.name in ("cache/tiles.csv", "cache/masks.npy", "cache/truth.npy")
    ]
    inputs = (folds(run), *cached, *histories, *predictions(run), submission(run))
    paths = [run.files.result(name) for name in ("scores.json", "report.html")]
    return [Product(path.name, path, "report", lambda: settings, inputs) for path in paths]


def recorded(run: Run, names: Sequence[str]) -> list[Run]:
    """The finished runs of these names, on the same tiles below the same --out, with the settings their reports record.

    InputError if one has no report, an outdated report, or other tiles than the first.
    """
    runs: list[Run] = []
    for name in names:
        files = replace(run.files, run=name)
        scores = files.result("scores.json")
        sidecar = artifacts.read_sidecar(scores)
        if sidecar is None:
            raise InputError(
                f"run {name} has no report below {display_path(files.out)}; finish it first, with its flags: "
                f"./run_all.sh --run {name} (python -m pipeline lists the runs)"
            )
        profile = section_from(Profile, sidecar["settings"]["profile"], display_path(scores))
        folds = tuple(sidecar["settings"]["folds"])
        files = replace(files, source=runs[0].files.source if runs else source_name(run.data, profile.tiles))
        decoded = artifacts.read_sidecar(files.cache("tiles.csv")) or {}
        if sidecar["inputs"]["cache/tiles.csv"] != decoded.get("sha256"):
            raise InputError(
                f"run {name} used other tiles than {files.source}; name its tiles with --data: only runs on the same "
                "tiles can be compared or joined"
            )
        runs.append(replace(run, profile=profile, files=files, folds=folds))
        try:
            report(runs[-1])[0].require()
        except InputError as e:
            raise InputError(
                f"run {name} has changed since its report: {e.args[0].partition('; run python -m')[0]}; give it its "
                f"report again, with the flags of the run: ./run_all.sh --run {name} ..."
            ) from e
    return runs


def same_folds(runs: Sequence[Run]) -> bool:
    """Whether each fold of these finished runs holds out the same tiles in all of them."""
    return len({folds(run).sidecar()["sha256"] for run in runs}) == 1


def ensemble(runs: Sequence[Run], rules: Submit) -> tuple[Product, ...]:
    """The products of an ensemble: what `submitted` is for one run, for several together."""
    together, first = joined(run.files.run for run in runs), runs[0]
    settings = {"submit": asdict(rules)}
    parts = _of_each(runs, lambda run: (*predictions(run), submission(run)))
    inputs = (*parts, folds(first), tiles(first)["tiles.csv"], tiles(first)["masks.npy"])
    paths = [replace(first.files, run=together).result(name) for name in _names(first)]
    return tuple(Product(path.name, path, "submit", lambda: settings, inputs) for path in paths)


def comparison(runs: Sequence[Run]) -> Product:
    """The page that compares several finished runs."""
    parts = _of_each(runs, lambda run: (report(run)[0], *predictions(run), folds(run)))
    path = runs[0].files.comparison([run.files.run for run in runs])
    return Product(path.name, path, "tools.compare", dict, parts)


def _of_each(runs: Sequence[Run], products: Callable[[Run], Iterable[Product]]) -> tuple[Product, ...]:
    """Products of several runs, each named after its run."""
    return tuple(replace(each, name=f"{run.files.run}/{each.name}") for run in runs for each in products(run))


def everything(run: Run) -> list[Product]:
    """Every product of the run, in the order in which they are made."""
    products = [*decoded(run), *neighbours(run), folds(run)]
    for phase in run.profile.train.phases:
        for fold in run.folds:
            products += pseudo_labels(run, fold) if phase.pseudo else []
            products += trained(run, fold, phase).values()
    return [*products, disagreement(run), *predictions(run), *submitted(run), *report(run)]


def table(run: Run) -> Iterator[tuple[str, str, Sequence[Product]]]:
    """(command, what it does, its products) of every stage, in order."""
    chosen = ", ".join(map(str, run.folds))
    yield "prepare", "decode every tile once, and check it", decoded(run)
    yield "make_folds", f"split the tiles into {run.profile.folds.k} folds", [*neighbours(run), folds(run)]
    for phase in run.profile.train.phases:
        if phase.pseudo:
            yield "pseudo_label", "the test tiles each fold is sure of", [pseudo_labels(run, k)[-1] for k in run.folds]
        about = f"{phase.epochs} epochs at {phase.size} px, folds {chosen}"
        yield f"train --phase {phase.name}", about, [trained(run, k, phase)["history"] for k in run.folds]
    yield "predict", "every tile, flip TTA, mean of the folds", [disagreement(run), *predictions(run)]
    yield "submit", "threshold, rules, run lengths", submitted(run)
    yield "report", "one page with scores, curves and tiles", report(run)
