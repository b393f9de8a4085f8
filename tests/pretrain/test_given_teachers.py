"""Teachers that are given: modules, what runs learned, files; frozen where they stand, and who is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from fewer.core.errors import FewerError
from fewer.models.tokens import TokenEncoder, TokenTransformer, patches
from fewer.pretrain.encoder import PretrainedEncoder
from fewer.pretrain.masked import Absolute, MaskedModelling, Pixels
from fewer.pretrain.multi_block import MultiBlock
from fewer.pretrain.teachers import GivenTeacher, normalised
from fewer.tasks.representation import Representation

SHAPE = (1, 4, 8, 8)
MASKS = MultiBlock(((2, 0.2), (1, 0.5)))
RNG = np.random.default_rng(0)
TASK = Representation("noise", RNG.normal(size=(60, *SHAPE)).astype(np.float32), {"side": np.arange(60) % 2}, test=20)


def student(width=16, seed=0):
    torch.manual_seed(seed)
    return TokenEncoder(SHAPE, (2, 4, 4), width, depth=1, heads=2)


def loop(target):
    return MaskedModelling(
        *(TokenTransformer(16, 1, 2, 4), None, MASKS, target, Absolute()), predictor=(16, 1, 2), batch=8, points=3
    )


def clip_rows(rows=5, seed=0):
    return torch.randn(rows, *SHAPE, generator=torch.Generator().manual_seed(seed))


class Grid(nn.Module):
    """Another library's network: tokens in an object, with dropout."""

    def __init__(self, places=8, wrapped=True):
        super().__init__()
        self.project, self.drop, self.places, self.wrapped = nn.Linear(32, 12), nn.Dropout(0.5), places, wrapped

    def forward(self, x):
        said = self.drop(self.project(patches(x, (2, 4, 4))))[:, : self.places]
        return SimpleNamespace(last_hidden_state=said) if self.wrapped else said


def test_a_given_teacher_is_frozen_with_a_warning_and_says_the_same_each_time():
    network = Grid()
    with pytest.warns(UserWarning, match="they are frozen now"):
        targets = GivenTeacher(network).build(SHAPE, student())
    targets.train()
    assert not any(each.requires_grad for each in network.parameters())
    assert targets.width == 12
    assert torch.equal(targets(clip_rows()), targets(clip_rows()))
    assert loop(GivenTeacher(network)).learn(TASK, 24).result.embed(TASK.x[:3]).shape == (3, 16)


def test_what_a_run_learned_teaches_the_next_one_as_it_is_and_from_its_file(tmp_path):
    learned = loop(Pixels()).learn(TASK, 24).result
    file = tmp_path / "teacher.safetensors"
    learned.save(file)
    learned.network.requires_grad_(False)
    direct, saved = GivenTeacher(learned), GivenTeacher(file)
    assert direct.weights == saved.weights
    x = clip_rows()
    expected = normalised(learned.network.tokens(x))
    assert torch.equal(direct.build(SHAPE, student())(x), expected)
    assert torch.equal(saved.build(SHAPE, student(seed=4))(x), expected)
    before = {name: value.clone() for name, value in learned.network.state_dict().items()}
    scores = [loop(each).learn(TASK, 40).curve.final for each in (direct, saved)]
    assert scores[0] == scores[1]
    assert all(torch.equal(value, before[name]) for name, value in learned.network.state_dict().items())


def test_a_run_is_not_taken_up_with_other_weights(tmp_path):
    file = tmp_path / "run.safetensors"
    teachers = [GivenTeacher(student(seed=seed).requires_grad_(False)) for seed in (1, 2)]
    assert repr(teachers[0]) != repr(teachers[1])
    points = loop(teachers[0]).run(TASK, 80, 0, checkpoint=file)
    next(points)
    points.close()
    with pytest.raises(FewerError, match="belongs to another run"):
        list(loop(teachers[1]).run(TASK, 80, 0, checkpoint=file))
    assert len(list(loop(teachers[0]).run(TASK, 80, 0, checkpoint=file))) == 3


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Grid(places=6, wrapped=False), r"it says 6 tokens of a row and the student has 8 places \(2 by 2 by 2\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(256, 4)), r"it gives a tensor of shape \(1, 4\)"),
    ],
)
def test_teachers_that_do_not_fit_are_refused(network, message):
    with pytest.raises(FewerError, match=message):
        GivenTeacher(network.requires_grad_(False)).build(SHAPE, student())


def test_files_that_do_not_fit_are_refused(tmp_path):
    file = tmp_path / "teacher.safetensors"
    with pytest.raises(FewerError, match="cannot read the weights in"):
        GivenTeacher(file)
    file.write_bytes(b"no weights")
    with pytest.raises(FewerError, match="cannot read the weights in"):
        GivenTeacher(str(file))
    PretrainedEncoder(student(width=8)).save(file)
    with pytest.raises(FewerError, match=r"do not fit .*; give size=\(width, blocks, heads\)"):
        GivenTeacher(file).build(SHAPE, student())
    assert GivenTeacher(file, size=(8, 1, 2)).build(SHAPE, student()).width == 8
