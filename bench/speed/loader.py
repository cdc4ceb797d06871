"""One epoch of training batches, 128 px, 32 tiles each, every random change: decoded once, against PNG files.

python -m bench.speed.loader
"""

import torch

from bench.baselines import article
from bench.harness.compare import Result, compare
from bench.harness.tiles import tiles
from pipeline.salt.config import Augment
from pipeline.salt.device import pick_device
from pipeline.salt.tiles.loaders import TileLoader

SIZE, BATCH = 128, 32


def run(device: torch.device, batch: int = BATCH, repeats: int = 3, **kwargs) -> list[Result]:
    """kwargs  of fastai's DataLoader, for the article's side"""
    some = tiles()
    rest = len(some.ids) % batch or batch  # their side wants some to validate on; what stays is whole batches
    ours = TileLoader(some.images[rest:], some.masks[rest:], some.ids[rest:], SIZE, batch, how=Augment(), device=device)
    theirs = article.get_data(some.folder, set(some.ids[:rest]), SIZE, batch, device, **kwargs).train
    name = f"epoch of batches, {len(ours.ids):,} {some.kind} tiles, {SIZE} px; theirs: PNG files"
    return [compare(name, lambda: _pass(ours), lambda: _pass(theirs), repeats, device)]


def _pass(loader) -> None:
    for _ in loader:
        pass


if __name__ == "__main__":
    run(pick_device())
