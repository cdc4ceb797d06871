"""UnetAttention against a second implementation of the article's second notebook, from its description."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet34

from pipeline.salt.losses import LOSSES, composite
from pipeline.salt.models import build_model
from pipeline.salt.models.blocks import BAM, Heads


class ReferenceBAM(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        h = c // 16
        self.fc1, self.fc_bn, self.fc2 = nn.Linear(c, h), nn.BatchNorm1d(h), nn.Linear(h, c)
        self.conv1, self.bn1 = nn.Conv2d(c, h, 1), nn.BatchNorm2d(h)
        self.conv2, self.bn2 = nn.Conv2d(h, h, 3, padding=4, dilation=4), nn.BatchNorm2d(h)
        self.conv3, self.bn3 = nn.Conv2d(h, h, 3, padding=4, dilation=4), nn.BatchNorm2d(h)
        self.conv4 = nn.Conv2d(h, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        channel = self.fc2(F.relu(self.fc_bn(self.fc1(x.mean(dim=(2, 3))))))[:, :, None, None]
        space = F.relu(self.bn1(self.conv1(x)))
        space = F.relu(self.bn2(self.conv2(space)))
        space = self.conv4(F.relu(self.bn3(self.conv3(space))))
        return x * (1 + torch.sigmoid(channel * space))


class ReferenceBlock(nn.Module):
    def __init__(self, up_in: int, x_in: int):
        super().__init__()
        self.tr_conv, self.x_conv = nn.ConvTranspose2d(up_in, 8, 2, stride=2), nn.Conv2d(x_in, 8, 1)
        self.bn, self.bam = nn.BatchNorm2d(16), ReferenceBAM(16)

    def forward(self, up: Tensor, x: Tensor) -> Tensor:
        return self.bam(self.bn(F.relu(torch.cat([self.tr_conv(up), self.x_conv(x)], 1))))


class ReferenceDeep(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn, self.conv2 = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 1, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.bn(F.relu(self.conv1(x))))


class Reference(nn.Module):
    """-> (B, 1, H, W) logits, four deep maps from coarse to fine, (B, 1) probability that the tile has salt."""

    def __init__(self):
        super().__init__()
        self.resnet = resnet34()
        self.resnet.conv1.stride = (1, 1)
        del self.resnet.fc
        self.bam1, self.bam2, self.bam3, self.bam4 = (ReferenceBAM(c) for c in (64, 128, 256, 512))
        self.up1, self.up2, self.up3 = ReferenceBlock(512, 256), ReferenceBlock(16, 128), ReferenceBlock(16, 64)
        self.up4 = nn.ConvTranspose2d(16, 16, 2, 2)
        self.deep = nn.ModuleList([ReferenceDeep() for _ in range(4)])
        self.fc1, self.fc_bn, self.fc2 = nn.Linear(512, 256), nn.BatchNorm1d(256), nn.Linear(256, 1)
        self.head1, self.head2 = nn.Conv2d(69, 69, 3, padding=1), nn.Conv2d(69, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        r, size = self.resnet, x.shape[2:]
        e0 = r.maxpool(r.relu(r.bn1(r.conv1(x))))
        e1 = self.bam1(r.layer1(e0))
        e2 = self.bam2(r.layer2(e1))
        e3 = self.bam3(r.layer3(e2))
        e4 = self.bam4(r.layer4(e3))
        side = size[0]
        assert [e.shape[2] for e in (e0, e1, e2, e3, e4)] == [side // s for s in (2, 2, 4, 8, 16)]
        d1 = self.up1(e4, e3)
        d2 = self.up2(d1, e2)
        d3 = self.up3(d2, e1)
        d4 = self.up4(d3)
        deep = [head(d) for head, d in zip(self.deep, (d1, d2, d3, d4), strict=True)]
        z = F.dropout(e4.mean(dim=(2, 3)), 0.3, self.training)
        z = F.dropout(self.fc_bn(F.relu(self.fc1(z))), 0.3, self.training)
        probability = self.fc2(z).sigmoid()
        full = [F.interpolate(m, size, mode="bilinear", align_corners=False) for m in (d1, d2, d3, d4, *deep)]
        fused = torch.cat([*full, probability[:, :, None, None] * torch.ones_like(x[:, :1])], 1)
        assert fused.shape[1] == 69
        return self.head2(F.relu(self.head1(fused))), deep, probability


def reference_lovasz(logits: Tensor, masks: Tensor) -> Tensor:
    """Berman's lovasz_hinge of each image of (B, 1, h, w), with the article's elu(error) + 1."""
    losses = []
    for o, t in zip(logits.flatten(1), masks.flatten(1), strict=True):
        errors, order = torch.sort(1 - o * (2 * t - 1), descending=True)
        ranked = t[order]
        jaccard = 1 - (t.sum() - ranked.cumsum(0)) / (t.sum() + (1 - ranked).cumsum(0))
        losses.append((F.elu(errors) + 1) @ torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]]))
    return torch.stack(losses).mean()


def reference_loss(logits: Tensor, deep: list[Tensor], probability: Tensor, masks: Tensor) -> Tensor:
    has_salt = (masks.sum(dim=(1, 2, 3)) > 0).float()
    loss = reference_lovasz(logits, masks) + 0.05 * F.binary_cross_entropy(probability[:, 0], has_salt)
    for m in deep:
        small = F.interpolate(masks, m.shape[2:], mode="bilinear", align_corners=False)
        loss = loss + reference_lovasz(m * has_salt[:, None, None, None], small)
    return loss


BAM_KEYS = {
    **{"fc1": "channel.2", "fc_bn": "channel.3", "fc2": "channel.5"},
    **{"conv1": "place.0", "bn1": "place.1", "conv2": "place.3", "bn2": "place.4"},
    **{"conv3": "place.6", "bn3": "place.7", "conv4": "place.9"},
}
BLOCK_KEYS = {"tr_conv": "up", "x_conv": "skip", "bn": "norm"} | {
    f"bam.{k}": f"attention.{v}" for k, v in BAM_KEYS.items()
}
KEYS = {
    **{f"resnet.{part}": f"encoder.{part}" for part in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")},
    **{f"bam{i}.{k}": f"attention.{i}.{v}" for i in (1, 2, 3, 4) for k, v in BAM_KEYS.items()},
    **{f"up{i}.{k}": f"decoder{s}.{v}" for i, s in ((1, 8), (2, 4), (3, 2)) for k, v in BLOCK_KEYS.items()},
    "up4": "decoder1",
    **{f"deep.{i}.{k}": f"deep.{i}.{v}" for i in range(4) for k, v in {"conv1": 0, "bn": 2, "conv2": 3}.items()},
    **{"fc1": "classifier.3", "fc_bn": "classifier.5", "fc2": "classifier.7", "head1": "logit.0", "head2": "logit.2"},
}


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, Reference]:
    """Our model and the reference with the same random weights."""
    torch.manual_seed(0)
    reference, ours = Reference(), build_model("unet_attention", "resnet34")
    with torch.no_grad():
        for p in reference.parameters():  # no weight of 1, no bias of 0, so that none is left out unseen
            p.add_(0.05 * torch.randn_like(p))
    state = {}
    for key, value in reference.state_dict().items():
        [prefix] = [k for k in KEYS if key.startswith(f"{k}.")]
        state[f"{KEYS[prefix]}{key.removeprefix(prefix)}"] = value
    ours.load_state_dict(state)
    return ours, reference


def test_logits_equal_the_references(pair):
    ours, reference = pair
    x = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), reference.eval()(x)[0], rtol=1e-4, atol=1e-5)


def test_heads_loss_and_every_gradient_equal_the_references(pair):
    ours, reference = pair
    x, masks = torch.rand(4, 3, 64, 64), (torch.rand(4, 1, 64, 64) > 0.6).float()
    masks[0] = 0
    masks[1, ..., 20:] = 0
    torch.manual_seed(1)  # of the dropout
    heads = ours.train()(x)
    torch.manual_seed(1)
    logits, deep, probability = reference.train()(x)
    assert isinstance(heads, Heads) and heads.any_salt.shape == (4, 1)
    assert [m.shape for m in heads.deep] == [(4, 1, side, side) for side in (8, 16, 32, 64)]
    for a, b in zip([heads.logits, *heads.deep, heads.any_salt.sigmoid()], [logits, *deep, probability], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    loss, expected = composite(LOSSES["lovasz_hinge"])(heads, masks), reference_loss(logits, deep, probability, masks)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    loss.backward()
    expected.backward()
    theirs = dict(reference.named_parameters())
    for key, p in theirs.items():
        [prefix] = [k for k in KEYS if key.startswith(f"{k}.")]
        mine = ours.get_parameter(f"{KEYS[prefix]}{key.removeprefix(prefix)}").grad
        # 1e-6: a bias just before BatchNorm has no gradient but rounding
        assert (mine - p.grad).norm() <= 5e-4 * p.grad.norm() + 1e-6, key
    assert len(theirs) == sum(1 for _ in ours.parameters())


def test_number_of_parameters_by_arithmetic():
    with torch.device("meta"):
        model = build_model("unet_attention", "resnet34")
    linear = lambda a, b: a * b + b  # noqa: E731
    conv = lambda a, b, k: k * k * a * b + b  # noqa: E731
    norm = lambda c: 2 * c  # noqa: E731

    def bam(c: int) -> int:
        h = c // 16
        channel = linear(c, h) + norm(h) + linear(h, c)
        return channel + conv(c, h, 1) + norm(h) + 2 * (conv(h, h, 3) + norm(h)) + conv(h, 1, 1)

    block = lambda up_in, x_in: conv(up_in, 8, 2) + conv(x_in, 8, 1) + norm(16) + bam(16)  # noqa: E731
    encoder = 21_797_672 - 513_000  # resnet34 less its classifier
    attention = bam(64) + bam(128) + bam(256) + bam(512)
    decoder = block(512, 256) + block(16, 128) + block(16, 64) + conv(16, 16, 2)
    deep = 4 * (conv(16, 16, 3) + norm(16) + conv(16, 1, 3))
    classifier = linear(512, 256) + norm(256) + linear(256, 1)
    head = conv(69, 69, 3) + conv(69, 1, 1)
    total = encoder + attention + decoder + deep + classifier + head
    assert sum(p.numel() for p in model.parameters()) == total == 21_583_713
    # The notebook also builds a fifth deep head that it never uses: about 21.59 M.
    assert total + deep // 4 == 21_586_210


def test_the_image_is_not_normalised():
    encoder = build_model("unet_attention", "test_resnet").encoder
    assert encoder.mean == (0, 0, 0) and encoder.std == (1, 1, 1)


def test_attention_works_within_the_encoder():
    model = build_model("unet_attention", "test_resnet").eval()
    x = torch.randn(1, 3, 64, 64)
    seen = []
    model.encoder.layer2.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(x)
        nn.init.constant_(model.attention[1].place[-1].bias, 1e4)
        model(x)
    assert not torch.equal(*seen)


def test_bam_is_a_product():
    # 0 channel-wise: sigmoid(0 * space) is 1/2 whatever space says; a sum would follow space
    bam = BAM(16).eval()
    nn.init.zeros_(bam.channel[5].weight)
    nn.init.zeros_(bam.channel[5].bias)
    nn.init.constant_(bam.place[-1].bias, 50.0)
    x = torch.rand(2, 16, 5, 6)
    torch.testing.assert_close(bam(x), 1.5 * x)
