"""Inference: flip test-time augmentation, the mean over folds, back to the tiles' size."""

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.salt import artifacts, environment
from pipeline.salt.config import Phase, Profile
from pipeline.salt.device import autocast, move_, pick_devices, resolve_precision
from pipeline.salt.errors import InputError, Stopped
from pipeline.salt.progress import progress_bar
from pipeline.salt.tiles.geometry import channels_first, to_model_input, to_square, to_tile

TILES_AT_ONCE = 256  # 10 MB of logits

T = TypeVar("T")


def flip_tta(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Mean of model(images) and of model(mirror images) mirrored back: (B, 3, S, S) -> (B, 1, S, S) logits.

    Left-right only: a section has an up and a down. Both views go through the model in one batch.
    """
    plain, mirrored = model(torch.cat([images, images.flip(-1)])).chunk(2)
    return (plain + mirrored.flip(-1)) / 2


def prediction_arguments(profile: Profile, phase: Phase) -> dict:
    """How the models that this phase has trained predict on this machine: the keywords of `predict_to_file`."""
    devices, precision = pick_devices(), profile.train.precision
    if devices[0].type == "cpu" and precision == "fp16":  # trained on a T4; a CPU has no fp16
        precision = "auto"
    return {
        "size": phase.size,
        "batch": profile.predict.batch,
        "flip": profile.predict.flip,
        "precision": resolve_precision(precision, devices[0]),
        "devices": devices,
    }


@torch.no_grad()  # not inference_mode: a model moved to a GPU within it could not take the next fold's weights
def tile_logits(
    model: nn.Module,
    tiles: np.ndarray,
    rows: np.ndarray,
    *,
    size: int,
    batch: int,
    flip: bool,
    precision: str,
    device: torch.device,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, their logits) a batch at a time: (B,) int and (B, H, W) float32, of tiles (N, H, W) or (N, H, W, 3) uint8.

    size  px, side of the model's input;  flip  average with the mirror image
    """
    move_(model.eval(), device)
    mean, std = (torch.tensor(s, device=device) for s in (model.encoder.mean, model.encoder.std))
    for start in range(0, len(rows), batch):
        chosen = rows[start : start + batch]
        pixels = channels_first(torch.from_numpy(tiles[chosen])).to(device)
        images = to_model_input(to_square(pixels, size), mean, std)
        with autocast(precision, device):
            logits = flip_tta(model, images) if flip else model(images)
        yield chosen, to_tile(logits, tiles.shape[1:3])[:, 0].cpu().numpy()


def predict_to_file(
    path: Path,
    tiles: np.ndarray,
    jobs: Iterable[tuple[nn.Module, np.ndarray]],
    title: str,
    *,
    size: int,
    batch: int,
    flip: bool,
    precision: str,
    devices: list[torch.device],
    count_votes: bool = False,
    resume: Path | None = None,
    origin: artifacts.Origin = artifacts.Origin({}, {}),
    stop: Callable[[str], object] = lambda done: None,
) -> np.ndarray:
    """Probabilities of the tiles into a .npy file, (N, H, W) float16: sigmoid of the mean logit of the models.

    tiles  (N, H, W) or (N, H, W, 3) uint8
    jobs  each model with the rows of tiles that it predicts, taken one at a time
    devices  share the batches of a model; each has its own copy
    count_votes  keep in how many masks a pixel is salt, 2 bytes a pixel on disk
    stop  called after each batch with what is done; where it raises Stopped, sums and votes so far are kept in `resume`
    resume  is gone on from where a prediction of the same origin left it: on a CPU the result is the same, bit for bit
    return  `disagreement` (N,) of each tile's models; NaN where votes are not counted
    A tile that no model predicts gets NaN. Sums and votes lie in files too: memory does not grow with N.
    InputError where a model gives something else than numbers.
    """
    counts, shape = np.zeros(len(tiles), np.float32), tiles.shape[:3]
    disagreements = np.full(len(tiles), np.nan, np.float32)
    sums = artifacts.zeros_on_disk(shape, np.float32, path.parent)
    # models that find salt in a pixel
    votes = artifacts.zeros_on_disk(shape if count_votes else (0,), np.uint16, path.parent)
    reached = np.zeros(len(tiles), np.int32)  # the last job that has predicted a tile, counted from 1
    so_far = (sums, votes, counts, reached)
    if resume:
        _read_state(resume, origin, so_far)
    with contextlib.ExitStack() as stack:
        # A thread for each GPU from first to last: in a new one cuDNN would look for its fastest algorithms again.
        threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in devices]
        for job, (model, its_rows) in enumerate(jobs, start=1):
            rows = its_rows[reached[its_rows] < job]
            turns = np.arange(len(rows)) // batch % len(devices)
            batches = [
                tile_logits(
                    model if turn == 0 else copy.deepcopy(model),
                    tiles,
                    rows[turns == turn],
                    size=size,
                    batch=batch,
                    flip=flip,
                    precision=precision,
                    device=device,
                )
                for turn, device in enumerate(devices)
            ]
            with progress_bar(len(rows), title) as bar:
                for chosen, logits in side_by_side(batches, threads):
                    if not np.isfinite(logits).all():
                        raise InputError(
                            f"{title}: a model gives NaN or inf for tile {chosen[0]} (counted from 0) or its "
                            "neighbours; try --set train.precision=fp32, or train it again"
                        )
                    sums[chosen] += logits
                    if count_votes:
                        votes[chosen] += logits > 0
                    counts[chosen] += 1
                    reached[chosen] = job
                    bar.update(len(chosen))
                    try:
                        stop(f"{title}, model {job}, {(reached == job).sum()} tiles")
                    except Stopped:
                        if resume:
                            _write_state(resume, origin, so_far)
                        raise
        out = np.lib.format.open_memmap(path, "w+", np.float16, shape)
        with open(path, "r+b") as f:
            artifacts.reserve(f.fileno())
        for start in range(0, len(tiles), TILES_AT_ONCE):
            part = slice(start, start + TILES_AT_ONCE)
            with np.errstate(invalid="ignore"):  # 0 / 0 where no model predicted
                out[part] = probabilities(sums[part] / counts[part, None, None])
                if count_votes:
                    disagreements[part] = disagreement(votes[part], counts[part])
        out.flush()
    return disagreements


def _write_state(path: Path, origin: artifacts.Origin, arrays: Sequence[np.ndarray]) -> None:
    with artifacts.publish(path, origin) as tmp, open(tmp, "wb") as file:
        for array in arrays:
            file.write(array.data)


def _read_state(path: Path, origin: artifacts.Origin, arrays_: Sequence[np.ndarray]) -> None:
    """Fill the arrays with what `_write_state` has kept, if it is whole and of this origin."""
    if damage := artifacts.damage_of(path, hashed=True):
        print(f"restart  {damage}: this prediction begins anew")
    elif artifacts.is_fresh(path, origin):
        print(f"resume   {artifacts.display_path(path)}")
        made_with = (artifacts.read_sidecar(path) or {})["versions"]
        if others := environment.differences(made_with, environment.versions()):
            print(f"note     it was made with {others}: the result may differ from that of one environment")
        with open(path, "rb") as file:
            for array in arrays_:
                file.readinto(array.data)  # type: ignore[attr-defined]
    elif path.exists():
        print(f"restart  {artifacts.display_path(path)} was made with other settings, which are given up")


def disagreement(votes: np.ndarray, models: np.ndarray) -> np.ndarray:
    """(N,) share of pixels, in [0, 1], in which the masks of two of a tile's models differ: mean over all their pairs.

    votes   (N, H, W) how many of the models find salt in a pixel (logit above 0);  models  (N,) how many there are
    NaN for a tile with fewer than two models.
    """
    votes, models = votes.astype(np.float32), models.astype(np.float32)
    differing = (votes * (models[:, None, None] - votes)).mean(axis=(1, 2))  # pairs of models, mean over the pixels
    return np.where(models > 1, differing / np.maximum(models * (models - 1) / 2, 1), np.nan)


def mean_logits(
    models: Sequence[nn.Module],
    tiles: np.ndarray,
    title: str = "",
    *,
    size: int,
    batch: int,
    flip: bool,
    precision: str,
    device: torch.device,
) -> np.ndarray:
    """Mean logit of the models, (N, H, W) float32, of tiles in memory, as `tile_logits` takes them.

    title  of the progress bar; '': none
    InputError where a model gives something else than numbers.
    """
    sums, rows = np.zeros(tiles.shape[:3], np.float32), np.arange(len(tiles))
    with progress_bar(len(models) * len(tiles), title, hidden=not title) as bar:
        for model in models:
            for chosen, logits in tile_logits(
                model, tiles, rows, size=size, batch=batch, flip=flip, precision=precision, device=device
            ):
                sums[chosen] += logits
                bar.update(len(chosen))
    if not np.isfinite(sums).all():
        raise InputError("a model gives NaN or inf: its weights are no good, or its numbers are too large for fp16")
    return sums / np.float32(len(models))


def side_by_side(streams: list[Iterator[T]], threads: list[ThreadPoolExecutor]) -> Iterator[T]:
    """Merge iterators, in the order in which their results are ready: each runs in its own thread, so no GPU waits.

    A single one stays in this thread, the only one in which keep_freed_memory has its full effect.
    """
    if len(streams) == 1:
        yield from streams[0]
        return
    pending = {
        thread.submit(next, stream, None): (thread, stream) for thread, stream in zip(threads, streams, strict=True)
    }
    while pending:
        for done in wait(pending, return_when=FIRST_COMPLETED).done:
            thread, stream = pending.pop(done)
            if (result := done.result()) is not None:
                pending[thread.submit(next, stream, None)] = thread, stream
                yield result


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Logits -> float16 probabilities in [0, 1]; 0 becomes exactly 0.5."""
    return torch.from_numpy(logits).sigmoid().half().numpy()
