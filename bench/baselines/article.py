"""The article's training and prediction in plain fastai, as one of its readers would write them.

One PNG file per tile, three equal channels, random changes one after another; fp32, channels first, eager; two passes
for flip TTA, added up in one float64 array. Where the article's own code is wrong (its flip pass also switches on the
other random changes, and does not always flip back), this does what was meant.
"""

from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import Learner
from fastai.callback.tracker import SaveModelCallback
from fastai.data.block import DataBlock
from fastai.data.core import DataLoaders
from fastai.data.transforms import FuncSplitter, IntToFloatTensor, Normalize, get_image_files
from fastai.torch_core import TensorBase
from fastai.vision.augment import Brightness, Flip, Resize, Zoom
from fastai.vision.core import imagenet_stats
from fastai.vision.data import ImageBlock, MaskBlock
from PIL import Image
from torch import Tensor, nn

from bench.baselines.losses import symmetric_lovasz
from bench.baselines.metric import meanap_by_histogram


def get_data(
    folder: Path, held_out: set[str], size: int, bs: int, device: torch.device, only: set[str] | None = None, **kwargs
) -> DataLoaders:
    """DataLoaders over folder/images and folder/masks; `held_out` ids are for validation.

    only    ids to use; None: all
    kwargs  for fastai's DataLoader, such as num_workers, by default one process per core
    """
    block = DataBlock(
        blocks=(ImageBlock, MaskBlock),
        get_items=lambda source: [f for f in get_image_files(source) if only is None or f.stem in only],
        get_y=lambda image: folder / "masks" / image.name,
        splitter=FuncSplitter(lambda image: image.stem in held_out),
        item_tfms=Resize(size),
        batch_tfms=[
            IntToFloatTensor(div_mask=255),
            Flip(),
            Brightness(0.1, p=0.25),
            Zoom(max_zoom=1.1, p=0.25),
            Normalize.from_stats(*imagenet_stats, cuda=False),
        ],
    )  # Normalize goes where the batches are
    return block.dataloaders(folder / "images", bs=bs, device=device, **kwargs)


def get_learner(dls: DataLoaders, model: nn.Module, path: Path) -> Learner:
    """fastai's Learner with the article's loss, rate and score; saves the best epoch in `path`."""
    return Learner(
        dls,
        model,
        loss_func=loss,
        lr=1e-3,
        wd=1e-7,
        metrics=[meanapv1],
        path=path,
        cbs=SaveModelCallback(monitor="meanapv1", comp=np.greater),
    )


def loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Symmetric Lovász loss of (B, 1, S, S) logits against (B, S, S) masks."""
    return symmetric_lovasz(TensorBase(logits)[:, 0], TensorBase(masks).float())


def meanapv1(logits: Tensor, masks: Tensor) -> float:
    """Mean score at the model's size, not at Kaggle's 101 px."""
    return meanap_by_histogram((logits[:, 0] > 0).cpu().numpy(), masks.cpu().numpy() > 0)


def predict(learn: Learner, files: list[Path], size: int) -> np.ndarray:
    """(N, 101, 101) probabilities from a model's two passes over N PNG files."""
    tiles = learn.dls.test_dl(files)
    logits = np.zeros((len(files), size, size))
    with learn.no_bar():
        plain, _ = learn.get_preds(dl=tiles)
        logits += plain[:, 0].numpy()
        mirrored, _ = learn.get_preds(dl=tiles, cbs=Mirror())
        logits += mirrored[:, 0].flip(-1).numpy()
    probs = 1 / (1 + np.exp(-logits / 2))
    return np.stack(
        [np.asarray(Image.fromarray(p.astype(np.float32)).resize((101, 101), Image.Resampling.BILINEAR)) for p in probs]
    )


class Mirror(Callback):
    """Mirror every batch left to right."""

    def before_batch(self):
        self.learn.xb = (self.xb[0].flip(-1),)
