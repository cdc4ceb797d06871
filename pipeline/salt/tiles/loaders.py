"""fastai DataLoaders over the cached arrays: decoded once, resized once, augmented per batch where the network is."""

import numpy as np
import pandas as pd
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from torch import Tensor

from pipeline.salt.config import Augment
from pipeline.salt.tiles.augment import augment
from pipeline.salt.tiles.cache import Cache
from pipeline.salt.tiles.geometry import mask_to_square, to_network, to_square

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class TileLoader(DataLoader):
    """Batches of (B, 3, size, size) normalised images and masks, from uint8 tensors that stay on the device.

    images  (N, 101, 101) uint8, masks (N, 101, 101) bool, ids (N,)
    how     the random changes, for training: masks come as (B, 1, size, size).
            None for validation: masks stay at (B, 1, 101, 101), where Kaggle scores; the loss and the metric bring
            the logits to the mask's size.
    """

    n_inp = 1

    def __init__(self, images, masks, ids, size, bs, stats=IMAGENET, how: Augment | None = None, device=None):
        self.size, self.how, self.ids = size, how, list(ids)
        device = torch.device(device or "cpu")
        self.images = to_square(_tensor(images, device), size)
        self.masks = _tensor(masks, device) if how is None else mask_to_square(_tensor(masks, device), size)
        self.mean, self.std = (torch.tensor(s, device=device) for s in stats)
        drop_last = how is not None and len(self.ids) > bs  # a last batch of one tile has no BatchNorm statistics
        super().__init__(range(len(self.ids)), bs=bs, shuffle=how is not None, drop_last=drop_last, device=device)

    def do_item(self, s: int) -> int:
        return s

    def do_batch(self, b: list[int]) -> tuple[Tensor, Tensor]:
        chosen = torch.tensor(b).to(self.images.device, non_blocking=True)
        images, masks = self.images[chosen], self.masks[chosen]
        if self.how is None:
            return to_network(images, self.mean, self.std), masks.float()
        images, masks = augment(images, masks, self.how)
        return to_network(images, self.mean, self.std), masks

    def show_batch(self, b=None, max_n: int = 12, columns: int = 6):
        """A matplotlib figure of a batch as the network sees it, the outline of the salt drawn over it."""
        from matplotlib import pyplot as plt

        x, y = self.one_batch() if b is None else b
        n = min(max_n, len(x))
        rows = -(-n // columns)
        figure, axes = plt.subplots(
            rows, columns, figsize=(2 * columns, 2.1 * rows), squeeze=False, layout="constrained"
        )
        grey = (x[:, 0] * self.std[0] + self.mean[0]).float().cpu().numpy()
        for i, ax in enumerate(axes.flat):
            ax.axis("off")
            if i < n:
                size, mask = x.shape[-1], y[i, 0].cpu().numpy()
                ax.imshow(grey[i], cmap="gray", vmin=0, vmax=1, extent=(0, size, size, 0))
                if 0 < mask.mean() < 1:
                    centres = (np.arange(len(mask)) + 0.5) * size / len(mask)
                    ax.contourf(centres, centres, mask, levels=[0.5, 1.5], colors="#ff9f1c", alpha=0.2)
                    ax.contour(centres, centres, mask, levels=[0.5], colors="#ff9f1c", linewidths=1.5)
                ax.set_title(f"salt {mask.mean():.0%}", fontsize=8)
        return figure


def get_data(
    fold_id: int,
    folds: pd.DataFrame,
    size: int,
    bs: int,
    *,
    cache: Cache,
    how: Augment = Augment(),
    stats=IMAGENET,
    device=None,
    more: tuple[np.ndarray, np.ndarray, list[str]] | None = None,
) -> DataLoaders:
    """DataLoaders that train on every fold but `fold_id` and validate on it; `dls.show_batch()` draws a batch.

    folds    id, fold: the rows of cache.train_tiles, in their order
    size     px, side of the network's input;  bs  tiles per training batch (validation takes twice as many)
    stats    mean and std of the three channels, in units of [0, 1]
    more     (n, 101, 101) images, their masks and ids to train on as well, never to validate on: pseudo-labelled tiles
    """
    inside = (folds["fold"] == fold_id).to_numpy()
    ids = folds["id"].to_numpy()
    own = (cache.images[~inside], cache.masks[~inside], ids[~inside])
    images, masks, names = own if more is None else (np.concatenate(pair) for pair in zip(own, more, strict=True))
    train = TileLoader(images, masks, names, size, bs, stats, how, device)
    valid = TileLoader(cache.images[inside], cache.masks[inside], ids[inside], size, 2 * bs, stats, None, device)
    return DataLoaders(train, valid, device=train.device)


def _tensor(tiles: np.ndarray, device: torch.device) -> Tensor:
    """(N, 101, 101) -> (N, 1, 101, 101) on the device."""
    return torch.from_numpy(np.ascontiguousarray(tiles)).unsqueeze(1).to(device)
