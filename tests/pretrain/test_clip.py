"""CLIP: its scale, its loss in the loop, its composition with other objectives, its claim's arms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fewer import compose
from fewer.core.errors import FewerError
from fewer.models.optimisers import parameter_groups
from fewer.pretrain.clip import CLIP, TwoTowerJoint, TwoTowers, clip_training
from fewer.pretrain.clip_towers import TextTransformer
from fewer.pretrain.contrast import InfoNCE
from fewer.pretrain.dcl import DecoupledContrastiveLoss
from fewer.pretrain.loop import Contrastive
from fewer.tasks.digits import digits
from fewer.tasks.scenes import scenes


def model():
    torch.manual_seed(0)
    return scenes_joint().model


def scenes_joint() -> TwoTowerJoint:
    task = scenes(test=4)
    return TwoTowers().build(task, task.pairing(0))


def test_its_logits_are_scaled_cosines_and_both_directions_agree():
    clip, pairing = model().eval(), scenes(test=4).pairing(0)
    images, texts = pairing.draw(5)
    per_image, per_text = clip(images, texts)
    first, second = (
        nn.functional.normalize(each, dim=1) for each in (clip.encode_image(images), clip.encode_text(texts))
    )
    assert torch.allclose(per_image, first @ second.T / 0.07, atol=1e-4)
    assert torch.equal(per_image, per_text.T)


def test_the_loops_loss_is_the_symmetric_cross_entropy_with_the_learned_scale():
    joint = scenes_joint()
    images, texts = scenes(test=4).pairing(0).draw(16)
    one, other, temperature = joint(images, texts)
    found = InfoNCE()(one, other, temperature, joint.negatives).mean()
    torch.manual_seed(0)
    per_image, per_text = joint.model(images, texts)
    expected = sum(nn.functional.cross_entropy(each, torch.arange(16)) for each in (per_image, per_text)) / 2
    assert torch.allclose(found, expected, atol=1e-4)
    found.backward()
    assert joint.model.logit_scale.grad.abs() > 0


def test_the_scale_stays_below_a_hundred_and_can_come_back():
    clip = model().train()
    assert clip.scale.item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        clip.logit_scale.fill_(7.0)
    assert clip.scale.item() == pytest.approx(100)
    assert clip.logit_scale.item() == pytest.approx(math.log(100))
    (gradient,) = torch.autograd.grad(clip.scale, clip.logit_scale)
    assert gradient > 0


def test_the_scale_and_gains_do_not_decay():
    clip = model()
    spared = {
        id(each) for group in parameter_groups(clip) if group.get("weight_decay") == 0 for each in group["params"]
    }
    assert id(clip.logit_scale) in spared
    assert id(clip.text_projection.weight) not in spared


def test_clip_and_dcl_compose_and_the_negatives_are_the_other_views():
    loop = compose.loop("clip + dcl + contrastive(batch=32, points=1)")
    assert isinstance(loop.objective, DecoupledContrastiveLoss)
    joint = scenes_joint()
    images, texts = scenes(test=4).pairing(0).draw(6)
    one, other, temperature = joint.eval()(images, texts)
    found = loop.objective(one, other, temperature, joint.negatives)
    table = joint.model(images, texts)[0].masked_fill(torch.eye(6, dtype=torch.bool), -torch.inf)
    pair = torch.diag(joint.model(images, texts)[0])
    expected = (table.logsumexp(1) + table.logsumexp(0)) / 2 - pair
    assert torch.allclose(found, expected, atol=1e-4)
    curve = loop.learn(scenes(test=10), budget=64).curve
    assert 0 <= curve.final <= 1


def test_dcl_learns_scenes_as_objective_of_clip():
    loop = Contrastive(**clip_training(), objective=DecoupledContrastiveLoss(), batch=64, points=1)
    point = next(iter(loop.run(scenes(test=100), 64 * 80, 0)))
    assert point.extras["seen"] > 0.15  # chance is 0.02


def test_a_run_resumes_to_the_bit_and_hands_on_the_model(tmp_path):
    loop = Contrastive(**clip_training(), batch=16, points=2)
    task = scenes(test=8)
    whole = [point.score for point in loop.run(task, 64, 1)]
    file = tmp_path / "run.ckpt"
    half = loop.run(task, 64, 1, checkpoint=file)
    next(half)
    half.close()
    points = list(loop.run(task, 64, 1, checkpoint=file))
    assert [point.score for point in points] == whole
    learned = loop.learn(task, 64, 1)
    assert learned.curve.final == whole[-1]
    images, texts = task.pairing(0).draw(3)
    assert learned.result.model(images, texts)[0].shape == (3, 3)
    assert learned.result.embed(images.numpy()).shape == (3, 128 * 9)


def test_the_vit_tower_runs():
    loop = compose.loop("clip(tower='vit', width=16, text=[32, 1, 2]) + contrastive(batch=8, points=1)")
    assert len(loop.learn(scenes(test=4), budget=8).curve.points) == 1


def test_baselines_are_raced_by_name():
    for name in ("bow", "lm"):
        curve = compose.loop(f"{name} + contrastive(batch=8, points=1)").learn(scenes(test=4), budget=16).curve
        assert 0 <= curve.final <= 1


def test_a_row_of_one_side_has_no_caption():
    with pytest.raises(FewerError, match="this tower reads captions and the task has none; try scenes"):
        compose.loop("clip").learn(digits(), budget=256)


def test_captions_need_a_tower_each():
    with pytest.raises(FewerError, match="its two sides are of different kinds and need a tower each; use clip"):
        Contrastive().learn(scenes(test=4), budget=256)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CLIP(nn.Linear(2, 3), TextTransformer(5, 8, 1, 2, 4, 2), 4), "the tower Linear does not say how many"),
        (
            lambda: CLIP(TextTransformer(5, 8, 1, 2, 4, 2), TextTransformer(5, 8, 1, 2, 4, 2), 0),
            "a space of 0 dimensions",
        ),
        (lambda: clip_training(tower="resnet"), "tower is 'conv' or 'vit'; it is 'resnet'"),
        (lambda: clip_training(text=[32, 1]), r"text is channels, blocks and heads of the text tower"),
        (
            lambda: CLIP(TextTransformer(5, 8, 1, 2, 4, 2), TextTransformer(5, 8, 1, 2, 4, 2), 4).encode_text(["a"]),
            "made without a tokenizer",
        ),
    ],
)
def test_errors(make, message):
    with pytest.raises(FewerError, match=message):
        make()


def test_a_batch_of_one_is_refused():
    with pytest.raises(FewerError, match="a batch of 1 has nothing to tell it apart from"):
        Contrastive(**clip_training(), batch=1)
