"""A trained run as a library: from its folder to masks and probabilities of any image.

    from pipeline import load_run

    run = load_run("folds/demo")
    masks, probs = run.predict("tile.png")

The folder is folds/<run>, or a copy of it with at least fold_<k>/<phase>*.safetensors and their .json files, which say
what the model is and how it was trained. The weights that predict are those of

phase  as in oof.npy; without oof.npy the last phase, from which no other was trained
epoch  as in oof.npy; without oof.npy that of the profile named in the weights' .json ('best' if it no longer exists)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from pipeline.salt import artifacts
from pipeline.salt.config import PROFILES, Augment, Model, Predict, Profile, Train, section_from
from pipeline.salt.device import OUT_OF_MEMORY, is_out_of_memory
from pipeline.salt.disk import display_path
from pipeline.salt.errors import InputError
from pipeline.salt.inference import InferenceSettings, inference_settings, mean_logits
from pipeline.salt.logit_sums import probabilities
from pipeline.salt.overrides import named_settings
from pipeline.salt.run import RunFolder, Weights
from pipeline.salt.tiles.folder import read_image, with_channels
from pipeline.salt.training import checkpoints

Source = str | Path | np.ndarray


@dataclass(eq=False)
class TrainedRun:
    """The models of a run's folds, ready to predict on the first GPU, or on the CPU.

    name       of its folder
    profile    from the weights' sidecars: sections model, augment, train with the phase of the weights, predict
    models     by fold
    weights    'fold_0/96.safetensors' -> hash of its content
    tile       (H, W) or (H, W, 3), px, of the tiles that it was trained on
    threshold  on the probability: the submission's if there is one, else 0.5
    settings   how it predicts on this machine; its batch shrinks when memory runs out
    """

    name: str
    profile: Profile
    models: dict[int, nn.Module]
    weights: dict[str, str]
    tile: tuple[int, ...]
    threshold: float
    settings: InferenceSettings

    def predict(self, images: Source | Sequence[Source], threshold: float | None = None) -> tuple[Any, Any]:
        """Masks and probabilities of salt, as arrays (masks bool, probs float16 in [0, 1]).

        images     a file or an array (H, W) or (H, W, 3): both results are (H, W)
                   an array (N, H, W) or (N, H, W, 3), or a list of files and arrays: both are (N, H, W), or lists of
                   arrays (H, W) if the images differ in size
                   grey or RGB, converted to what it was trained on: RGB to grey as Pillow's "L", grey to 3 channels
                   arrays are uint8; files are PNG, JPG, TIFF or .npy, read as `prepare` reads images of your own
        threshold  a pixel is salt if its probability is above it; None: the run's

        Images may have any size: each is resized to the square that the models were trained on, and its logits back.
        What counts is the mean logit of all folds and of both mirror images, as in the stage `predict`. A picture much
        larger than the tiles would lose its detail: use tools.segment. The submission's rules for black tiles and full
        masks are not applied. InputError for anything that is not such an image.
        """
        if isinstance(images, str | Path) or (isinstance(images, np.ndarray) and _is_one(images)):
            masks, probs = self.predict([images], threshold)
            return masks[0], probs[0]
        arrays = [self.with_channels(image) for image in _arrays(images)]
        shapes = [array.shape for array in arrays]
        results: list[np.ndarray] = [np.empty(0)] * len(arrays)
        for shape in dict.fromkeys(shapes):
            rows = [row for row, other in enumerate(shapes) if other == shape]
            predicted = probabilities(self.logits(np.stack([arrays[row] for row in rows]), self.name))
            for row, probs in zip(rows, predicted, strict=True):
                results[row] = probs
        masks = [probs > (self.threshold if threshold is None else threshold) for probs in results]
        return (np.stack(masks), np.stack(results)) if len({*shapes}) == 1 else (masks, results)

    def logits(self, images: np.ndarray, title: str = "") -> np.ndarray:
        """Mean logit of all folds and views, (N, H, W) float32, of uint8 images (N, *tile) with any H and W.

        title  of a progress bar; '': none
        When memory runs out, batches are halved for good. InputError if a single image is too much.
        """
        while True:
            try:
                return mean_logits([*self.models.values()], images, self.settings, title)
            except OUT_OF_MEMORY as e:
                if not is_out_of_memory(e):
                    raise
                if self.settings.batch == 1:
                    raise InputError(f"{self.name}: there is too little memory to predict a single image") from e
            self.settings = replace(self.settings, batch=self.settings.batch // 2)
            print(f"note     too little memory: batches of {self.settings.batch} images from here on")

    def with_channels(self, image: np.ndarray) -> np.ndarray:
        """Convert (H, W) grey or (H, W, 3) RGB, uint8, to whichever the models were trained on."""
        return with_channels(image, colour=len(self.tile) == 3)


def load_run(folder: str | Path, folds: Sequence[int] | None = None) -> TrainedRun:
    """Load the trained run in a folder: folds/<run>, or a copy of it.

    folds  those to use; None: all that are there
    The models stay in memory, each as large as its file. InputError if there are no weights, a file is damaged, the
    folds' models differ, or a newer version of the code made them.
    """
    place = RunFolder(Path(folder).expanduser())
    files = place.weights()
    if not files:
        raise InputError(_no_weights(place.path))
    there = sorted({weights.fold for weights in files})
    chosen = there if folds is None else sorted({*folds})
    if not chosen or (missing := [fold for fold in chosen if fold not in there]):
        which = f"no fold {missing[0]}" if chosen else "no fold in folds=[]"
        raise InputError(f"{display_path(place.path)}: there is {which}; choose from {_listed(there)}")
    sidecars = {weights: sidecar for weights, path in files.items() if (sidecar := artifacts.read_sidecar(path))}
    phase, predict = _how_to_predict(place, sidecars)
    profiles: dict[int, Profile] = {}
    models: dict[int, nn.Module] = {}
    hashes: dict[str, str] = {}
    tile: tuple[int, ...] = ()
    for fold in chosen:
        weights = Weights(fold, phase, predict.checkpoint)
        if weights not in sidecars:
            file = f"{weights.name}.json" if weights in files else weights.name
            raise InputError(
                f"{display_path(place.path)}: fold {fold} has no {file}; train it to the end, copy that file too, "
                "or choose other folds with folds=[...]"
            )
        if damage := artifacts.damage_of(files[weights], hashed=True):
            raise InputError(f"{damage}; copy it again, or train fold {fold} again with --force")
        sidecar = sidecars[weights]
        if (of_fold := sidecar["settings"]["fold"]) != fold:
            raise InputError(f"{display_path(files[weights])} holds the weights of fold {of_fold}; copy it again")
        profiles[fold], hashes[str(weights)] = _profile(files[weights], sidecar, predict), sidecar["sha256"]
        _check_same(place.path, profiles)
        tile = tuple(sidecar["tile"])
        models[fold] = checkpoints.load(files[weights], checkpoints.build(profiles[fold].model))
    profile = profiles[chosen[0]]
    settings = inference_settings(profile, profile.train.last)
    return TrainedRun(place.path.resolve().name, profile, models, hashes, tile, _threshold(place), settings)


# ---- what the folder says


def _no_weights(folder: Path) -> str:
    if not folder.is_dir():
        return f"{display_path(folder)}: there is no such folder; name folds/<run>, or a copy of it"
    below = (path for depth in ("*", "*/*") for path in sorted(folder.glob(f"{depth}/fold_*/*.safetensors")))
    near = next(below, None)
    hint = f"{display_path(near.parents[1])} has some" if near else "train the run first, or copy its fold_<k>/ here"
    return f"{display_path(folder)} has no trained weights (fold_<k>/<phase>.safetensors); {hint}"


def _how_to_predict(place: RunFolder, sidecars: dict[Weights, dict]) -> tuple[str, Predict]:
    """Name of the phase whose weights predict, and the profile's section predict."""
    if oof := artifacts.read_sidecar(place.oof):
        settings = oof["settings"]["predict"] | {"batch": oof["batch"]}  # the same batch gives the same bits
        predict = section_from(Predict, settings, display_path(place.oof))
        [phase] = {used.phase for name in oof["inputs"] if (used := Weights.parse(name))}
        return phase, predict
    earlier = {
        used.phase for sidecar in sidecars.values() for name in sidecar["inputs"] if (used := Weights.parse(name))
    }
    phases = sorted({weights.phase for weights in sidecars} - earlier)
    if not phases:
        raise InputError(f"{display_path(place.path)}: no weights have their .json beside them; copy these files too")
    if len(phases) > 1:
        raise InputError(
            f"{display_path(place.path)} has weights of the phases {_listed(phases)}, none of which was trained from "
            "the other; keep those of one phase"
        )
    names = {sidecar["profile"] for weights, sidecar in sidecars.items() if weights.phase == phases[0]}
    [name] = names if len(names) == 1 else [""]  # folds of several profiles are refused later, if they differ
    predict = PROFILES[name].predict if name in PROFILES else Predict()
    if not any((weights.phase, weights.epoch) == (phases[0], predict.checkpoint) for weights in sidecars):
        predict = replace(predict, checkpoint="best")
    return phases[0], predict


def _profile(path: Path, sidecar: dict, predict: Predict) -> Profile:
    """Profile of a training, from the sidecar of its weights."""
    settings, source = sidecar["settings"], display_path(path)
    train = {key: value for key, value in settings["train"].items() if key != "phase"}
    return Profile(
        name=sidecar["profile"],
        run_folds=1,
        model=section_from(Model, settings["model"], source),
        augment=section_from(Augment, settings["augment"], source),
        train=section_from(Train, train | {"phases": [settings["train"]["phase"]]}, source),
        predict=predict,
    )


def _check_same(folder: Path, profiles: dict[int, Profile]) -> None:
    """InputError if the last of the folds was trained with other settings than the first."""
    first, last = next(iter(profiles)), next(reversed(profiles))
    one, other = named_settings(profiles[first]), named_settings(profiles[last])
    if changes := [name for name in {**one, **other} if one.get(name) != other.get(name)]:
        name = changes[0]
        raise InputError(
            f"{display_path(folder)} mixes models: {name} is {one.get(name)!r} in fold {first} and "
            f"{other.get(name)!r} in fold {last}; choose folds of one kind with folds=[...]"
        )


def _threshold(place: RunFolder) -> float:
    """Threshold of the submission made from this folder's oof.npy; 0.5 if there is none."""
    oof, submission = artifacts.read_sidecar(place.oof), artifacts.read_sidecar(place.submission)
    same = oof and submission and submission["inputs"].get(place.oof.name) == oof["sha256"]
    return float(submission["threshold"]) if submission and same else 0.5


def _listed(values: Sequence) -> str:
    return ", ".join(map(str, values))


# ---- images


def _is_one(array: np.ndarray) -> bool:
    """Whether this is one image, (H, W) or (H, W, 3), rather than several."""
    return array.ndim == 2 or (array.ndim == 3 and array.shape[-1] == 3)


def _arrays(images: Sequence[str | Path | np.ndarray] | np.ndarray) -> list[np.ndarray]:
    """The images as arrays, each (H, W) or (H, W, 3) uint8."""
    if isinstance(images, np.ndarray) and not images.ndim:
        raise InputError("an image is (H, W) grey or (H, W, 3) RGB, but this is a single number")
    if not len(images):
        raise InputError("there is no image to predict")
    arrays = [read_image(Path(image)) if isinstance(image, str | Path) else np.asarray(image) for image in images]
    for array in arrays:
        if array.dtype != np.uint8:
            raise InputError(f"an image is uint8, 0 to 255, but this one is {array.dtype}; scale and convert it first")
        if not _is_one(array) or 0 in array.shape:
            raise InputError(f"an image is (H, W) grey or (H, W, 3) RGB, but this one is {array.shape}")
    return arrays
