"""Each model can overfit eight generated tiles."""

import pytest
import torch

from pipeline.salt.losses import LOSSES, composite
from pipeline.salt.metrics import tile_scores
from pipeline.salt.models import MODELS, build_model
from pipeline.salt.tiles import competition
from pipeline.salt.tiles.geometry import mask_to_square, to_model_input, to_square

SIZE, STEPS, LR = 32, 160, 3e-3  # px; the lowest score that counts comes after 60 to 80 steps
SMALL = {"unet_resnext50": {"width": 8}, "more_dynamic_unet": {"reduction": "eq_skip"}}


@pytest.fixture(scope="module")
def tiles(made_once) -> tuple[torch.Tensor, torch.Tensor]:
    """(8, 1, S, S) uint8 and bool, five of them with salt."""
    made, _ = competition.read(made_once)
    share = made.train_masks.mean((1, 2))
    rows = [*(share > 0.05).nonzero()[0][:5], *(share == 0).nonzero()[0][:3]]
    images, masks = (torch.from_numpy(part[rows]).unsqueeze(1) for part in (made.train_images, made.train_masks))
    return to_square(images, SIZE), mask_to_square(masks, SIZE)


@pytest.fixture(autouse=True)
def flush():
    """Without BatchNorm, as in resnet_unet, gradients become denormal numbers, which double a CPU's time."""
    torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("name", MODELS)
def test_overfits(name, tiles):
    torch.manual_seed(0)
    model = build_model(name, "test_resnet", SMALL.get(name))
    loss = composite(LOSSES["symmetric_lovasz"])
    images, masks = to_model_input(tiles[0], *map(torch.tensor, (model.encoder.mean, model.encoder.std))), tiles[1]
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=STEPS)
    for step in range(1, STEPS + 1):
        loss(model.train()(images), masks).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            with torch.no_grad():
                score = tile_scores(model.eval()(images)[:, 0] > 0, masks[:, 0]).mean()
            if score > 0.95:
                return
    pytest.fail(f"score {score:.3f} after {STEPS} steps")
