"""ImageNet weights: loaded completely or not at all, with a sentence that says why. All files are made by the tests."""

import hashlib
import io
import pickle
import re
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file

from pipeline.salt.config import PROFILES
from pipeline.salt.errors import InputError
from pipeline.salt.models import build_model
from pipeline.salt.models.encoders import weights
from pipeline.salt.models.encoders.build import build_classifier, build_encoder
from pipeline.salt.models.encoders.table import ENCODERS, SHA256
from pipeline.salt.models.encoders.weights import find_weights, load_imagenet
from tests.bad.builders import Bomb

DOWNLOAD = torch.hub.download_url_to_file
NAME = "test_resnet"
FILE = "test_resnet.r160_in1k.safetensors"  # its name on the hub


@pytest.fixture(scope="module")
def imagenet() -> dict[str, torch.Tensor]:
    """The state dict of a complete classifier."""
    return build_classifier(NAME).state_dict()


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """torch hub's cache, empty; there is no internet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", _no_network)
    return tmp_path / "hub" / "hub" / "checkpoints"


def _no_network(url, dst, **_):
    raise URLError("no internet")


def loaded(source, imagenet) -> str:
    encoder = build_encoder(NAME)
    said = load_imagenet(encoder, source)
    for key, tensor in encoder.body.state_dict().items():
        assert torch.equal(tensor, imagenet[key]), key
    return said


@pytest.mark.parametrize(
    "name, save",
    [
        ("any.pth", torch.save),
        ("any.safetensors", save_file),
        ("fastai.pth", lambda state, path: torch.save({"model": state}, path)),
    ],
)
def test_a_file_of_any_kind(name, save, imagenet, tmp_path):
    save(imagenet, tmp_path / name)
    assert loaded(tmp_path / name, imagenet) == str(tmp_path / name)


@pytest.mark.parametrize(
    "encoder, file",
    [
        ("tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k.safetensors"),
        ("se_resnext50_32x4d", "se_resnext50_32x4d-a260b3a4.pth"),
        ("se_resnext50_32x4d", "legacy_se_resnext50_32x4d-f3651bad.pth"),
        ("legacy_seresnext50_32x4d", "legacy_se_resnext50_32x4d-f3651bad.pth"),
        ("se_resnext50_32x4d", "se_resnext50_32x4d.imagenet.safetensors"),
        ("resnet34", "resnet34-b627a593.pth"),
        ("xresnet50", "xrn50_940.pth"),
        ("xresnet34", "xresnet34.pth"),
        ("resnet34", "resnet34-mine.pt"),
    ],
)
def test_a_folder_is_searched_for_the_encoders_name(encoder, file, tmp_path):
    for other in ("resnet3.pth", "resnet345.pth", "tf_efficientnet_lite02.pth", "resnet34.txt"):
        (tmp_path / other).touch()
    assert find_weights(encoder, tmp_path) is None
    (tmp_path / file).touch()
    assert find_weights(encoder, tmp_path) == tmp_path / file


def test_the_published_file_goes_before_others_and_the_folder_before_the_cache(cache, tmp_path):
    cache.mkdir(parents=True)
    (cache / FILE).touch()
    assert find_weights(NAME, tmp_path) == find_weights(NAME, None) == cache / FILE
    (tmp_path / "test_resnet-a.pth").touch()
    assert find_weights(NAME, tmp_path) == tmp_path / "test_resnet-a.pth"
    (tmp_path / FILE).touch()
    assert find_weights(NAME, tmp_path) == tmp_path / FILE


def test_what_the_encoder_does_not_have_may_be_missing(imagenet, tmp_path):
    wanted = {k: v for k, v in imagenet.items() if not k.startswith("fc.") and "num_batches" not in k}
    torch.save(wanted, tmp_path / "w.pth")
    encoder = build_encoder(NAME)
    load_imagenet(encoder, tmp_path / "w.pth")
    assert torch.equal(encoder.body.conv1[0].weight, imagenet["conv1.0.weight"])


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda w: w.pop("layer1.0.conv1.weight"), "1 keys are missing, first layer1.0.conv1.weight"),
        (lambda w: w.update({"layer9.weight": torch.zeros(1)}), "1 keys are unexpected, first layer9.weight"),
        (
            lambda w: w.update({"layer1.0.conv1.weight": torch.zeros(1)}),
            "of another shape, first layer1.0.conv1.weight",
        ),
    ],
)
def test_weights_of_another_architecture(change, says, imagenet, tmp_path):
    changed = dict(imagenet)
    change(changed)
    torch.save(changed, tmp_path / "w.pth")
    encoder = build_encoder(NAME)
    before = encoder.body.conv1[0].weight.clone()
    with pytest.raises(InputError, match=f"w.pth: weights of another architecture.*{says}"):
        load_imagenet(encoder, tmp_path / "w.pth")
    assert torch.equal(encoder.body.conv1[0].weight, before)


def _cut(path, imagenet):
    (torch.save if path.suffix == ".pth" else save_file)(imagenet, path)
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    "name, write",
    [
        ("w.pth", _cut),
        ("w.safetensors", _cut),
        ("w.pth", lambda path, _: path.touch()),
        ("w.safetensors", lambda path, _: path.touch()),
        ("w.pth", lambda path, _: path.write_text("<html>404</html>")),
        ("w.pth", lambda path, _: path.write_bytes(pickle.dumps(Bomb(), protocol=2))),
        ("w.pth", lambda path, _: torch.save(Bomb(), path)),
        ("w.pth", lambda path, _: torch.save({"conv1.weight": Bomb()}, path)),
        ("w.pth", lambda path, _: torch.save({"model": {}, "opt": Bomb()}, path)),  # as fastai's learn.save
        ("w.pkl", lambda path, _: torch.save(Bomb(), path)),  # as fastai's learn.export
        ("w.safetensors", lambda path, _: path.write_bytes(pickle.dumps(Bomb()))),
        ("w.safetensors", lambda path, _: path.write_bytes(b"\xff" * 8 + b"{}")),  # a header of 2**64 bytes
        ("w.pth", lambda path, _: torch.save([1, 2], path)),
    ],
)
def test_a_broken_file(name, write, imagenet, tmp_path):
    write(tmp_path / name, imagenet)
    with pytest.raises(InputError, match=name):
        load_imagenet(build_encoder(NAME), tmp_path / name)


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match="nowhere.pth: no such file or folder"):
        load_imagenet(build_encoder(NAME), tmp_path / "nowhere.pth")


def test_when_none_can_be_had(tmp_path):
    encoder = build_encoder("tf_efficientnet_lite0")
    with pytest.raises(InputError) as e:
        load_imagenet(encoder, tmp_path)
    said = str(e.value)
    for part in (
        str(tmp_path),
        "huggingface.co/timm/tf_efficientnet_lite0.in1k",
        "github.com/",
        "no internet",
        "--weights FILE",
        "--weights none",
    ):
        assert part in said
    with pytest.raises(InputError, match="no address is known"):
        load_imagenet(build_encoder("xresnet34"), None)
    with pytest.raises(InputError, match="xrn50_940.pth .SHA-256 not known here: download it yourself"):
        load_imagenet(build_encoder("xresnet50"), None)


def published(folder, monkeypatch, content: bytes, of: bytes) -> str:
    """A URL with this content, whose file name has the hash of `of`."""
    path = folder / f"w-{hashlib.sha256(of).hexdigest()[:8]}.pth"
    path.write_bytes(content)
    monkeypatch.setattr(torch.hub, "download_url_to_file", DOWNLOAD)
    monkeypatch.setattr(weights, "_addresses", lambda name: [path.as_uri()])
    return path.name


def test_a_download_of_another_file_is_refused_and_not_kept(cache, imagenet, tmp_path, monkeypatch):
    """Only its hash is wrong, of which the file's name has eight digits; the file itself could be loaded."""
    torch.save(imagenet, file := io.BytesIO())
    published(tmp_path, monkeypatch, file.getvalue(), of=b"what was published")
    with pytest.raises(InputError, match=r"w-\w+.pth \(invalid hash value \(expected .*--weights FILE"):
        load_imagenet(build_encoder(NAME), None)
    assert not list(cache.iterdir())
    name = published(tmp_path, monkeypatch, file.getvalue(), of=file.getvalue())
    load_imagenet(build_encoder(NAME), None)
    assert [path.name for path in cache.iterdir()] == [name]


def test_a_download_that_is_killed_leaves_nothing_that_is_taken_for_weights(cache, imagenet, tmp_path, monkeypatch):
    torch.save(imagenet, file := io.BytesIO())
    published(tmp_path, monkeypatch, file.getvalue(), of=file.getvalue())
    seen = []

    def killed(*_):
        seen.extend(path.name for path in cache.iterdir())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.move", killed)  # all bytes are there, and it is not renamed yet
        load_imagenet(build_encoder(NAME), None)
    assert len(seen) == 1 and seen[0].endswith(".partial") and not list(cache.iterdir())
    (cache / seen[0]).write_bytes(file.getvalue())  # as kill -9 leaves it
    assert find_weights(NAME, None) is None


def test_every_sha256_is_of_an_address_and_agrees_with_its_name():
    names = {url.rpartition("/")[2] for encoder in ENCODERS.values() for url in encoder.urls}
    for name, digits in SHA256.items():
        assert name in names and re.fullmatch("[0-9a-f]{64}", digits) and f"-{digits[:8]}." in name
        assert weights.sha256_of(name) == digits
    assert weights.sha256_of("tf_efficientnet_lite0-0aa007d2.pth") == "0aa007d2"
    assert weights.sha256_of("resnet34-mine.pth") is weights.sha256_of("model.safetensors") is None


@pytest.mark.parametrize("name", sorted({p.model.encoder for p in PROFILES.values() if p.model.weights == "imagenet"}))
def test_the_weights_of_a_profile_come_first_from_where_they_can_be_verified(name):
    known = [bool(weights.sha256_of(file_name)) for file_name in weights.addresses(name).values()]
    assert known[0] and known == sorted(known, reverse=True)


def test_addresses_are_tried_in_turn_and_what_was_cut_short_is_not_kept(cache, monkeypatch):
    whole = build_classifier("resnet18").state_dict()
    tried = []

    def download(url, dst, **_):
        tried.append(url)
        if len(tried) == 1:
            raise URLError("host down")
        torch.save(whole, dst)
        if len(tried) == 2:
            with open(dst, "r+b") as file:
                file.truncate(1000)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setattr(weights, "_addresses", lambda name: [f"https://x/{i}-01234567.pth" for i in "abc"])
    assert load_imagenet(build_encoder("resnet18"), None) == str(cache / "c-01234567.pth")
    assert [url[10] for url in tried] == ["a", "b", "c"]
    assert [file.name for file in cache.iterdir()] == ["c-01234567.pth"]


def test_a_model_that_changes_its_encoder_still_takes_imagenets_weights(tmp_path):
    whole = build_classifier("resnet18").state_dict()
    torch.save(whole, tmp_path / "w.pth")
    for name, options in [("unet_attention", {}), ("unet_resnext50", {"half_skip": True}), ("dynamic_unet", {})]:
        encoder = build_model(name, "resnet18", options).encoder
        load_imagenet(encoder, tmp_path / "w.pth")
        assert all(torch.equal(tensor, whole[key]) for key, tensor in encoder.state_dict().items()), name


def test_published_weights(salt_weights):
    encoder = build_encoder("tf_efficientnet_lite0").eval()
    said = load_imagenet(encoder, salt_weights)
    assert said.endswith("tf_efficientnet_lite0.in1k.safetensors")
    with pytest.raises(InputError, match="of another architecture than 'tf_efficientnet_lite2'"):
        load_imagenet(build_encoder("tf_efficientnet_lite2"), find_weights("tf_efficientnet_lite0", salt_weights))
