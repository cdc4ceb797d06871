"""Inference: test-time augmentation (flips, a second size), mean over folds, resizing back to the tiles' size."""

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.salt import artifacts
from pipeline.salt.config import Phase, Profile
from pipeline.salt.device import autocast, move_, pick_devices, resolve_precision
from pipeline.salt.errors import InputError, Stopped
from pipeline.salt.logit_sums import LogitSums
from pipeline.salt.progress import progress_bar
from pipeline.salt.tiles.geometry import channels_first, to_model_input, to_square, to_tile

T = TypeVar("T")


def flip_tta(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Mean of model(images) and of model(mirror images) mirrored back: (B, 3, S, S) -> (B, 1, S, S) logits.

    Left-right only: a section has an up and a down. Both views go through the model in one batch.
    """
    plain, mirrored = model(torch.cat([images, images.flip(-1)])).chunk(2)
    return (plain + mirrored.flip(-1)) / 2


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """Settings of prediction.

    sizes  px, sides of the model's input, over which logits are averaged
    batch  tiles per forward pass;  flip  average with the mirror image
    precision  of the forward pass: fp32, bf16, fp16
    devices  they share the batches of a model, of which each has a copy
    """

    sizes: tuple[int, ...]
    batch: int
    flip: bool
    precision: str
    devices: tuple[torch.device, ...]


def inference_settings(profile: Profile, phase: Phase) -> InferenceSettings:
    """Settings with which the models trained in this phase predict on this machine.

    A tile that is zoomed in training looks larger than in prediction; a second, larger size makes up for it:
    Touvron et al. 2019, https://arxiv.org/abs/1906.06423
    """
    devices, precision = pick_devices(), profile.train.precision
    if devices[0].type == "cpu" and precision == "fp16":  # trained on a T4; a CPU has no fp16
        precision = "auto"
    return InferenceSettings(
        sizes=tuple(sorted({phase.size, round(phase.size * profile.predict.scale)})),
        batch=profile.predict.batch,
        flip=profile.predict.flip,
        precision=resolve_precision(precision, devices[0]),
        devices=tuple(devices),
    )


@torch.no_grad()  # not inference_mode: a model moved to a GPU within it could not take the next fold's weights
def tile_logits(
    model: nn.Module,
    tiles: np.ndarray,
    rows: np.ndarray,
    settings: InferenceSettings,
    device: torch.device | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows (B,) int and their logits (B, H, W) float32 by batches; tiles (N, H, W) or (N, H, W, 3) uint8.

    device  to compute on; None: the first of the settings
    """
    device = device or settings.devices[0]
    move_(model.eval(), device)
    mean, std = (torch.tensor(s, device=device) for s in (model.encoder.mean, model.encoder.std))
    for start in range(0, len(rows), settings.batch):
        chosen = rows[start : start + settings.batch]
        pixels = channels_first(torch.from_numpy(tiles[chosen])).to(device)
        total = torch.zeros(len(chosen), 1, *tiles.shape[1:3], device=device)
        for size in settings.sizes:
            images = to_model_input(to_square(pixels, size), mean, std)
            with autocast(settings.precision, device):
                logits = flip_tta(model, images) if settings.flip else model(images)
            total += to_tile(logits, tiles.shape[1:3])
        yield chosen, total.div_(len(settings.sizes))[:, 0].cpu().numpy()


def predict_to_file(
    path: Path,
    tiles: np.ndarray,
    jobs: Iterable[tuple[nn.Module, np.ndarray]],
    title: str,
    settings: InferenceSettings,
    *,
    count_votes: bool = False,
    resume: Path | None = None,
    origin: artifacts.Origin = artifacts.Origin({}, {}),
    stop: Callable[[str], object] = lambda done: None,
) -> np.ndarray:
    """Write the tiles' probabilities to a .npy file, (N, H, W) float16: sigmoid of the models' mean logit.

    tiles  (N, H, W) or (N, H, W, 3) uint8
    jobs  each model with the rows of tiles that it predicts, taken one at a time
    count_votes  count the masks in which a pixel is salt, 2 bytes per pixel on disk
    stop  called after each batch with what is done; if it raises Stopped, sums and votes so far are kept in `resume`
    resume  file to resume from, if of the same origin: on a CPU the result is the same as without a stop, bit for bit
    return  `disagreement` (N,) of each tile's models; NaN if votes are not counted
    A tile that no model predicts gets NaN. InputError if a model gives NaN or inf.
    """
    sums, devices = LogitSums(tiles.shape[:3], path.parent, count_votes), settings.devices
    if resume:
        sums.load(resume, origin)
    with contextlib.ExitStack() as stack:
        # One thread per GPU throughout: in a new one cuDNN would search for its fastest algorithms again.
        threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in devices]
        for job, (model, its_rows) in enumerate(jobs, start=1):
            rows = sums.left(its_rows, job)
            turns = np.arange(len(rows)) // settings.batch % len(devices)
            batches = [
                tile_logits(model if turn == 0 else copy.deepcopy(model), tiles, rows[turns == turn], settings, device)
                for turn, device in enumerate(devices)
            ]
            with progress_bar(len(rows), title) as bar:
                for chosen, logits in side_by_side(batches, threads):
                    if not np.isfinite(logits).all():
                        raise InputError(
                            f"{title}: a model gives NaN or inf for tile {chosen[0]} (counted from 0) or its "
                            "neighbours; try --set train.precision=fp32, or train it again"
                        )
                    sums.add(chosen, logits, job)
                    bar.update(len(chosen))
                    try:
                        stop(f"{title}, model {job}, {sums.done(job)} tiles")
                    except Stopped:
                        if resume:
                            sums.save(resume, origin)
                        raise
    return sums.write(path)


def mean_logits(
    models: Sequence[nn.Module], tiles: np.ndarray, settings: InferenceSettings, title: str = ""
) -> np.ndarray:
    """Mean logit of the models, (N, H, W) float32, for tiles in memory, as `tile_logits` takes them, on one device.

    title  of the progress bar; '': none
    InputError if a model gives NaN or inf.
    """
    sums, rows = np.zeros(tiles.shape[:3], np.float32), np.arange(len(tiles))
    with progress_bar(len(models) * len(tiles), title, hidden=not title) as bar:
        for model in models:
            for chosen, logits in tile_logits(model, tiles, rows, settings):
                sums[chosen] += logits
                bar.update(len(chosen))
    if not np.isfinite(sums).all():
        raise InputError("a model gives NaN or inf: bad weights, or values too large for fp16; train it again in fp32")
    return sums / np.float32(len(models))


def side_by_side(streams: list[Iterator[T]], threads: list[ThreadPoolExecutor]) -> Iterator[T]:
    """Merge iterators, in the order in which their results are ready: each runs in its own thread, so no GPU waits.

    A single iterator stays in this thread, the only one in which keep_freed_memory has its full effect.
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
