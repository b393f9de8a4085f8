"""Teachers: what they say, when they learn, that they stay as they are, and who is refused."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fewer.core.errors import FewerError
from fewer.models.optimisers import Constant
from fewer.models.tokens import TokenEncoder, TokenPredictor, TokenTransformer, gathered, patches
from fewer.pretrain.masked import Absolute, MaskedModelling, Pixels, RandomMask, masked_losses
from fewer.pretrain.multi_block import MultiBlock
from fewer.pretrain.teachers import FrozenTeacher, GivenTeacher, MovingAverage, normalised
from fewer.tasks.representation import Representation

SHAPE = (1, 4, 8, 8)
MASKS = MultiBlock(((2, 0.2), (1, 0.5)))
RNG = np.random.default_rng(0)
TASK = Representation("noise", RNG.normal(size=(60, *SHAPE)).astype(np.float32), {"side": np.arange(60) % 2}, test=20)


def student(width=16, seed=0):
    torch.manual_seed(seed)
    return TokenEncoder(SHAPE, (2, 4, 4), width, depth=1, heads=2)


def loop(target, **more):
    settings = {"batch": 8, "points": 3, "predictor": (16, 1, 2), "masking": MASKS, "distance": Absolute()} | more
    return MaskedModelling(TokenTransformer(16, 1, 2, 4), target=target, **settings)


def frozen(**more):
    return FrozenTeacher(**{"share": 0.5, "masking": MASKS, "decoder": (16, 1, 2)} | more)


def clip_rows(rows=5, seed=0):
    return torch.randn(rows, *SHAPE, generator=torch.Generator().manual_seed(seed))


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# --- what teachers say -----------------------------------------------------------------------------------------------


def test_latents_are_normalised_over_the_numbers_of_each_token():
    for target in (frozen(), MovingAverage(), GivenTeacher(student().requires_grad_(False))):
        said = target.build(SHAPE, student())(3 * clip_rows())
        assert said.shape == (5, 8, 16)
        assert torch.allclose(said.mean(-1), torch.zeros(5, 8), atol=1e-5)
        assert torch.allclose(said.std(-1, correction=0), torch.ones(5, 8), atol=1e-2)
    tokens = torch.randn(2, 3, 8, dtype=torch.float64)
    by_hand = (tokens - tokens.mean(-1, keepdim=True)) / (tokens.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    assert torch.allclose(normalised(tokens), by_hand)


def test_a_lesson_is_the_mean_absolute_error_at_masked_patches_by_hand():
    targets, x = frozen().build(SHAPE, student()), clip_rows()
    found = targets.lesson(x, torch.Generator().manual_seed(3))
    cut = patches(x, (2, 4, 4))
    true = (cut - cut.mean(-1, keepdim=True)) / (cut.var(-1, keepdim=True) + 1e-6).sqrt()
    expected = torch.zeros(5)
    for kind, mask in enumerate(MASKS.draw(5, (2, 2, 2), torch.Generator().manual_seed(3))):
        said = targets.decoder(targets.encoder.tokens(x, mask.kept), mask.kept, mask.asked, kind)
        for row in range(5):
            for place, at in enumerate(mask.asked[row].tolist()):
                expected[row] += (said[row, place] - true[row, at]).abs().mean() / mask.asked.shape[1] / 2
    assert torch.allclose(found, expected, atol=1e-6)


def test_what_is_seen_costs_nothing():
    # pixels of seen patches change what the network knows, not what it is asked: with a constant answer they do not count
    targets, x = frozen(masking=RandomMask(0.5)).build(SHAPE, student()), clip_rows()
    nn.init.zeros_(targets.decoder.leave.weight)
    mask = RandomMask(0.5).draw(5, (2, 2, 2), torch.Generator().manual_seed(3))[0]
    before = targets.lesson(x, torch.Generator().manual_seed(3))
    cut = torch.zeros(5, 8, dtype=torch.bool).scatter(1, mask.kept, True).view(5, 1, 2, 2, 2)
    seen = cut.repeat_interleave(2, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)
    assert torch.allclose(targets.lesson(torch.where(seen, 7.0, x), torch.Generator().manual_seed(3)), before)
    assert not torch.allclose(targets.lesson(torch.where(seen, x, 7.0), torch.Generator().manual_seed(3)), before)


def test_the_first_stage_is_the_loop_that_says_pixels_to_the_bit():
    targets = frozen().build(SHAPE, student())
    plain = loop(Pixels())
    state = plain.start(TASK, 80, 0)
    state.encoder, state.predictor = targets.encoder, targets.decoder
    state.draws.manual_seed(5)
    x = clip_rows()
    assert torch.equal(plain.losses(state, x)["masked"], targets.lesson(x, torch.Generator().manual_seed(5)))


# --- frozen means frozen ---------------------------------------------------------------------------------------------


def test_the_teacher_learns_first_then_the_student_and_then_the_teacher_is_the_same_to_the_bit():
    method = loop(frozen(), schedule=Constant())
    state = method.start(TASK, 80, 0)
    snapshots = []
    for _ in range(10):
        method._step(state)
        snapshots.append(
            [[each.detach().clone() for each in network.parameters()] for network in (state.targets, state.encoder)]
        )
    for step in range(1, 10):
        assert same(snapshots[step][0], snapshots[step - 1][0]) == (step >= 5)
        assert same(snapshots[step][1], snapshots[step - 1][1]) == (step < 5)


def test_only_the_student_gets_a_gradient():
    for target in (frozen(), MovingAverage(), GivenTeacher(student(seed=1).requires_grad_(False))):
        method = loop(target)
        state = method.start(TASK, 80, 0)
        method.losses(state, clip_rows())["masked"].mean().backward()
        assert all(each.grad is None for each in state.targets.parameters())
        assert sum(float(each.grad.abs().sum()) for each in state.encoder.parameters()) > 0


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7])
def test_a_run_taken_up_again_is_the_same_to_the_bit_on_either_side_of_the_border(tmp_path, share):
    method, file = loop(frozen(share=share)), tmp_path / "run.safetensors"
    whole = list(method.run(TASK, 80, 3))
    assert [each.extras["stage"] for each in whole] == [float(each.spent > share * 80) for each in whole]
    for stop in (1, 2):
        file.unlink(missing_ok=True)
        points = method.run(TASK, 80, 3, checkpoint=file)
        for _ in range(stop):
            next(points)
        points.close()
        again = list(method.run(TASK, 80, 3, checkpoint=file))
        for one, other in zip(whole, again, strict=True):
            left, right = ({k: v for k, v in each.extras.items() if k != "seconds"} for each in (one, other))
            assert (one.spent, one.score, left) == (other.spent, other.score, right)


def test_views_are_counted_in_both_stages():
    learned = loop(frozen()).learn(TASK, 80)
    assert learned.ledger["views"] == 2 * learned.ledger["rows_seen"] == 160
    assert learned.result.embed(TASK.x[:3]).shape == (3, 16)
    # two masks of one kind are two views as well
    twice = loop(frozen(masking=RandomMask(0.5, masks=2)), masking=RandomMask(0.5)).learn(TASK, 80)
    assert twice.ledger["views"] == 2 * 40 + 40


def test_while_the_teacher_learns_the_score_is_the_teachers():
    method = loop(frozen(), points=2)
    state = method.start(TASK, 80, 0)
    untrained = copy.deepcopy(state.encoder.state_dict())
    method.advance(state)
    assert all(torch.equal(value, untrained[name]) for name, value in state.encoder.state_dict().items())


def test_a_teacher_may_be_of_another_width_and_depth():
    method = loop(frozen(size=(24, 2, 3)))
    state = method.start(TASK, 80, 0)
    assert state.targets(clip_rows()).shape == (5, 8, 24)
    assert state.predictor.leave.out_features == 24
    assert method.learn(TASK, 80).result.embed(TASK.x[:3]).shape == (3, 16)


def test_a_teacher_starts_elsewhere_than_its_student():
    targets = frozen().build(SHAPE, student())
    assert not torch.equal(targets.encoder.project.weight, student().project.weight)


# --- slow copies -----------------------------------------------------------------------------------------------------


def test_the_copy_follows_by_the_formula_and_its_momentum_rises():
    online = student()
    targets = MovingAverage(0.6, 1.0).build(SHAPE, online)
    assert same(targets.parameters(), online.parameters())
    before = targets.average.project.weight.clone()
    with torch.no_grad():
        online.project.weight += 1
    for progress in (0.0, 0.5):
        targets.follow(online, progress)
        momentum = 0.6 + 0.4 * progress
        before = momentum * before + (1 - momentum) * online.project.weight
        assert torch.allclose(targets.average.project.weight, before, atol=1e-6)
    targets.follow(online, 1.0)
    assert torch.allclose(targets.average.project.weight, before, atol=1e-6)


def test_without_momentum_the_copy_is_the_student_after_every_step():
    method = loop(MovingAverage(0.0, 0.0))
    state = method.start(TASK, 80, 0)
    for _ in range(3):
        method._step(state)
        assert same(state.targets.parameters(), state.encoder.parameters())


def test_a_copy_that_never_moves_is_a_given_teacher():
    network = student(seed=7)
    given = loop(GivenTeacher(copy.deepcopy(network).requires_grad_(False)))
    average = loop(MovingAverage(1.0, 1.0))
    states = [each.start(TASK, 80, 0) for each in (given, average)]
    states[1].targets.average.load_state_dict(network.state_dict())
    states[1] = replace(
        states[1], encoder=copy.deepcopy(states[0].encoder), predictor=copy.deepcopy(states[0].predictor)
    )
    gradients = []
    for method, state in zip((given, average), states, strict=True):
        state.draws.manual_seed(1)
        loss = method.losses(state, clip_rows())["masked"].mean()
        gradients.append([loss.detach(), *torch.autograd.grad(loss, list(state.encoder.parameters()))])
        state.targets.follow(state.encoder, 0.3)
    assert same(*gradients)
    assert same(states[1].targets.parameters(), network.parameters())


# --- regressions that can be solved ----------------------------------------------------------------------------------


def test_a_student_learns_a_frozen_teachers_latents_of_one_batch():
    torch.manual_seed(0)
    targets, x = frozen().build(SHAPE, student()), clip_rows(4)
    encoder = copy.deepcopy(targets.encoder)
    predictor = TokenPredictor(encoder.grid, 16, 32, 16, 1, 2)
    masks = RandomMask(0.5).draw(4, encoder.grid, torch.Generator().manual_seed(0))
    optimiser = torch.optim.Adam([*encoder.parameters(), *predictor.parameters()], lr=3e-3)
    losses = []
    for step in range(500):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * (1 - step / 500)
        loss = masked_losses(x, masks, encoder, predictor, targets, Absolute())["masked"].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]


def test_where_all_is_seen_the_teachers_own_tokens_have_no_error():
    targets, x = frozen().build(SHAPE, student()), clip_rows()
    places = torch.randperm(8).expand(5, -1)
    own = normalised(targets.encoder.tokens(x, places))
    assert torch.allclose(Absolute()(own, gathered(targets(x), places)), torch.zeros(5, 8), atol=1e-5)


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_leaves_something_for_both(share):
    with pytest.raises(FewerError, match="its share of the run is"):
        FrozenTeacher(share)


def test_momentum_lies_between_none_and_all():
    with pytest.raises(FewerError, match="momentum and until lie in"):
        MovingAverage(1.2)


def test_a_budget_has_a_step_for_the_student():
    with pytest.raises(FewerError, match="the first round, which takes 16"):
        loop(frozen()).run(TASK, 15, 0)
    assert loop(frozen(share=0.8)).least(TASK) == 40
    assert loop(Pixels()).least(TASK) == 8


@pytest.mark.parametrize("target", [frozen(), MovingAverage(), GivenTeacher(student().requires_grad_(False))])
def test_clips_are_whole_patches_long(target):
    with pytest.raises(FewerError, match="clips of 5 frames cannot be cut into patches of 2 frames"):
        target.build((1, 5, 8, 8), TokenEncoder((1, 5, 8, 8), (2, 4, 4), 16, 1, 2))


def test_images_have_teachers_too():
    task = Representation("noise", RNG.normal(size=(40, 1, 8, 8)).astype(np.float32), {}, test=10)
    method = MaskedModelling(TokenTransformer(16, 1, 2, 2), target=frozen(), masking=MASKS, batch=8, points=2)
    assert method.learn(task, 32).result.embed(task.x[:3]).shape == (3, 16)
