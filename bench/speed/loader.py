"""One epoch of training batches, 128 px, 32 tiles each, all random changes: tiles decoded once against PNG files.

python -m bench.speed.loader
"""

import torch
from fastai.vision.core import imagenet_stats

from bench.baselines import article
from bench.harness.compare import Result, compare
from bench.harness.tiles import load_tiles
from pipeline.salt.config import Augment
from pipeline.salt.device import pick_device
from pipeline.salt.tiles.loaders import TileDataset, TileLoader

SIZE, BATCH = 128, 32


def run(device: torch.device, batch: int = BATCH, repeats: int = 3, **kwargs) -> list[Result]:
    """kwargs  for fastai's DataLoader, on the article's side"""
    tiles = load_tiles()
    odd = len(tiles.ids) % batch or batch  # the article's side must validate on some; the rest is whole batches
    images, masks, ids = (part[odd:] for part in (tiles.images, tiles.masks, tiles.ids))
    dataset = TileDataset(images, masks, ids, SIZE, resize_masks=True, device=device)
    ours = TileLoader(dataset, batch, imagenet_stats, Augment())
    theirs = article.get_data(tiles.folder, set(tiles.ids[:odd]), SIZE, batch, device, **kwargs).train
    name = f"epoch of batches, {len(ours.ids):,} {tiles.kind} tiles, {SIZE} px; theirs: PNG files"
    return [compare(name, lambda: _iterate(ours), lambda: _iterate(theirs), repeats, device)]


def _iterate(loader) -> None:
    for _ in loader:
        pass


if __name__ == "__main__":
    run(pick_device())
