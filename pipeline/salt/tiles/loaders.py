"""fastai DataLoaders over the decoded tiles: resized once, augmented a batch at a time on the model's device.

fastai's own methods work with them: dls.test_dl, and learn.predict, get_preds, validate, show_results and export. An
item is one tile at the size of the data set, (H, W) uint8 grey or (H, W, 3) RGB.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from torch import Tensor

from pipeline.salt.config import Augment
from pipeline.salt.errors import InputError
from pipeline.salt.tiles import Tiles
from pipeline.salt.tiles.augment import augment_batch
from pipeline.salt.tiles.cutting import sharing_pixels
from pipeline.salt.tiles.geometry import channels_first, mask_to_square, to_model_input, to_square

Stats = tuple[Sequence[float], Sequence[float]]  # mean and std of the three channels, in units of [0, 1]


class TileDataset:
    """Tiles at the size of the model's input, as tensors that stay on one device.

    images  (N, H, W) or (N, H, W, 3) uint8; become (N, C, size, size);  ids  (N,)
    masks   (N, H, W) bool, None if unknown; become (N, 1, H, W), the size at which tiles are scored, or with
            resize_masks (N, 1, size, size)
    shape   of one image: (H, W) or (H, W, 3)
    """

    def __init__(self, images, masks, ids, size: int, *, resize_masks: bool = False, device=None):
        self.size, self.ids, self.shape = size, list(ids), images.shape[1:]
        self.images = to_square(_tensor(images), size, device)
        self.masks = None
        if masks is not None:
            self.masks = mask_to_square(_tensor(masks), size, device) if resize_masks else _tensor(masks).to(device)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Tensor | int) -> tuple[Tensor, ...]:
        """The images at these rows, and their masks if they are known."""
        return (self.images[rows],) if self.masks is None else (self.images[rows], self.masks[rows])

    def of(self, tiles: Sequence[np.ndarray], device) -> "TileDataset":
        """A dataset of other tiles, without masks, with the same input size."""
        images = np.stack(tiles) if len(tiles) else np.zeros((0, *self.shape), np.uint8)
        return TileDataset(images, None, map(str, range(len(images))), self.size, device=device)

    def new_empty(self) -> "TileDataset":
        """The empty dataset that learn.export saves in place of this one."""
        return self.of([], None)


class TileLoader(DataLoader):
    """Batches of normalised images (B, 3, size, size) and masks (B, 1, h, w) float in {0, 1}, made on the device.

    stats    mean and std from the encoder's ImageNet training
    augment  random changes, for training: tiles are shuffled, an incomplete last batch is dropped;  None: validation
    kwargs   passed on to fastai's DataLoader
    """

    n_inp = 1

    def __init__(self, dataset: TileDataset, bs: int, stats: Stats, augment: Augment | None = None, **kwargs):
        self.stats, self.augment = stats, augment
        self.begin: int = 0
        self.then: Callable[[], object] | None = None
        self.mean, self.std = (torch.tensor(s, device=dataset.images.device) for s in stats)
        training = augment is not None
        # drop_last, because BatchNorm has no statistics for a last batch of one tile.
        defaults = {"shuffle": training, "drop_last": training and len(dataset) > bs, "device": dataset.images.device}
        super().__init__(dataset, bs=bs, **defaults | kwargs)

    def new(self, dataset: TileDataset | Sequence[np.ndarray] | None = None, cls=None, **kwargs) -> "TileLoader":
        """A loader with the same settings, except for `kwargs`, and with other tiles of the same shape if given."""
        if dataset is not None and not isinstance(dataset, TileDataset):
            dataset = self.dataset.of(dataset, self.device)
        return super().new(dataset, cls, **{"stats": self.stats, "augment": self.augment} | kwargs)

    def begin_at(self, batch: int, then: Callable[[], object]) -> None:
        """Let the next pass skip the batches before number `batch`, and call `then` before it makes its first one."""
        self.begin, self.then = batch, then

    def get_idxs(self) -> list[int]:
        idxs = super().get_idxs()
        begin, self.begin = self.begin, 0
        return idxs[begin * self.bs :]

    def create_batches(self, samps):
        then, self.then = self.then, None
        if then is not None:
            then()
        yield from super().create_batches(samps)

    def do_item(self, s: int) -> int:
        return s

    def do_batch(self, b: list[int]) -> tuple[Tensor, ...]:
        rows = torch.tensor(b).to(self.dataset.images.device, non_blocking=True)
        images, *masks = self.dataset[rows]
        if self.augment and masks:
            images, *masks = augment_batch(images, masks[0], self.augment)
        return to_model_input(images, self.mean, self.std), *(mask.float() for mask in masks)

    def decode_batch(self, b: Sequence[Tensor], max_n: int = 9, full: bool = True) -> list[tuple[np.ndarray, ...]]:
        """A batch as (image, mask) pairs for display: (S, S) grey or (S, S, 3) RGB in [0, 1], (h, w) bool.

        If the batch has logits in place of masks, those above 0 are salt.
        """
        mean, std = self.mean.to(b[0].device), self.std.to(b[0].device)
        images = b[0][:max_n].float().permute(0, 2, 3, 1) * std + mean
        parts = [images if len(self.dataset.shape) == 3 else images[..., 0], *(y[:max_n, 0] > 0 for y in b[1:])]
        return list(zip(*(part.cpu().numpy() for part in parts), strict=True))

    def show_batch(self, b: Sequence[Tensor] | None = None, max_n: int = 12, columns: int = 6):
        """A matplotlib figure of a batch as the model sees it, with the salt outlined."""
        return _draw(self.decode_batch(self.one_batch() if b is None else b, max_n), columns)

    def show_results(self, b: Sequence[Tensor], out: Tensor, max_n: int = 12, columns: int = 6):
        """A matplotlib figure of a batch, with true salt and predicted salt outlined in two colours.

        out  (B, 1, S, S) decoded predictions or logits
        """
        predicted = [mask for _, mask in self.decode_batch((b[0], out), max_n)]
        return _draw(self.decode_batch(b, max_n), columns, predicted)


def get_data(
    fold_id: int,
    folds: pd.DataFrame,
    size: int,
    bs: int,
    *,
    tiles: Tiles,
    stats: Stats,
    augment: Augment = Augment(),
    device=None,
    extra: tuple[np.ndarray, np.ndarray, list[str]] | None = None,
) -> DataLoaders:
    """DataLoaders that train on every fold but `fold_id` and validate on it; `dls.show_batch()` draws a batch.

    Tiles that share a pixel with a tile of `fold_id`, being cut from the same image, are left out of training.
    folds    id, fold: the rows of tiles.train_table, in the same order
    size     px, side of the model's input;  bs  tiles per training batch (validation takes twice as many)
    stats    mean and std of the three channels that the model's encoder was trained with, in units of [0, 1]
    extra    n more images, their masks and ids, used in training only: pseudo-labelled tiles
    """
    inside = (folds["fold"] == fold_id).to_numpy()
    outside = ~inside
    if "image" in tiles.table:
        held_out = np.concatenate([inside, np.zeros(len(tiles.test_table), bool)])
        shared = sharing_pixels(tiles.table, held_out, tiles.train_masks.shape[1])
        outside &= ~shared[: len(outside)]
        if extra is not None:
            apart = ~np.isin(extra[2], tiles.table["id"][shared])
            extra = extra[0][apart], extra[1][apart], [name for name, kept in zip(extra[2], apart, strict=True) if kept]
    if not outside.any():
        raise InputError(
            f"fold {fold_id} leaves no tile to train on: all other tiles share pixels with its own; lower folds.k, or "
            "raise tiles.stride"
        )
    ids = folds["id"].to_numpy()
    images, masks, names = tiles.train_images[outside], tiles.train_masks[outside], ids[outside]
    if extra is not None:
        more = cast(Sequence[Any], extra)  # for mypy, to which the items of a mixed tuple are plain objects
        images, masks, names = (np.concatenate(pair) for pair in zip((images, masks, names), more, strict=True))
    train = TileDataset(images, masks, names, size, resize_masks=True, device=device)
    valid = TileDataset(tiles.train_images[inside], tiles.train_masks[inside], ids[inside], size, device=device)
    return DataLoaders(
        TileLoader(train, bs, stats, augment), TileLoader(valid, 2 * bs, stats), device=train.images.device
    )


def _tensor(tiles: np.ndarray) -> Tensor:
    """Array (N, H, W) or (N, H, W, 3) -> tensor (N, C, H, W) in main memory."""
    return channels_first(torch.from_numpy(np.ascontiguousarray(tiles)))


def _draw(samples: Sequence[tuple[np.ndarray, ...]], columns: int, predicted: Sequence[np.ndarray] = ()):
    """A grid of images (S, S) or (S, S, 3), with the outlines of their masks (h, w) and of the predicted masks."""
    from matplotlib import pyplot as plt

    rows = -(-len(samples) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2 * columns, 2.1 * rows), squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.axis("off")
    for i, (image, *masks) in enumerate(samples):
        ax, size = axes.flat[i], len(image)
        ax.imshow(image.clip(0, 1), cmap="gray", vmin=0, vmax=1, extent=(0, size, size, 0))
        outlines = [(mask, "#ff9f1c") for mask in masks] + [(mask, "#35c8ff") for mask in predicted[i : i + 1]]
        for mask, colour in outlines:
            if mask.any() and not mask.all():
                y, x = ((np.arange(n) + 0.5) * size / n for n in mask.shape)
                ax.contourf(x, y, mask, levels=[0.5, 1.5], colors=colour, alpha=0.2)
                ax.contour(x, y, mask, levels=[0.5], colors=colour, linewidths=1.5)
        if masks:
            ax.set_title(f"salt {masks[0].mean():.0%}", fontsize=8)
    return figure
