"""What a fold's training starts with: weights, tiles, settings and seeds."""

import pytest
import torch
from safetensors.torch import load_file

from pipeline.salt.models.encoders.build import build_classifier
from pipeline.salt.training.fold import set_up_fold


def test_a_phase_begins_with_the_weights_of_the_one_before(finished):
    run = finished[0].parse()
    start = set_up_fold(run, 1, run.profile.train.last)
    before = load_file(run.files.weights(1, run.profile.train.phases[0]))
    ours = start.model.state_dict()
    assert ours.keys() == before.keys() and all(torch.equal(ours[name], before[name]) for name in before)
    assert start.init_from == "32.safetensors"


def test_the_first_phase_begins_with_imagenets_weights_in_its_encoder(finished, tmp_path):
    whole = build_classifier("test_resnet").state_dict()
    torch.save(whole, tmp_path / "w.pth")
    run = finished[0].parse("--set=model.weights=imagenet", f"--weights={tmp_path / 'w.pth'}")
    start = set_up_fold(run, 0, run.profile.train.phases[0])
    ours = start.model.encoder.body.state_dict()
    assert len(ours) > 20 and all(torch.equal(ours[name], whole[name]) for name in ours)
    assert start.init_from == "w.pth"


@pytest.mark.parametrize("name, value", [("zoom", 1.7), ("rotate", 5.0), ("flip_p", 0.25)])
def test_training_tiles_are_augmented_as_the_profile_says(finished, name, value):
    run = finished[0].parse(f"--set=augment.{name}={value}")
    dls = set_up_fold(run, 0, run.profile.train.phases[0]).dls
    assert getattr(dls.train.augment, name) == value and dls.valid.augment is None


def test_each_fold_begins_with_weights_and_a_seed_of_its_own(finished):
    run = finished[0].parse("--set=train.seed=5")
    one, other = (set_up_fold(run, fold, run.profile.train.phases[0]) for fold in (0, 1))
    assert (one.seed, other.seed) == (5, 6)
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert not {*one.dls.valid.ids} & {*other.dls.valid.ids}
