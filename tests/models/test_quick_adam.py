"""Adam with less overhead, against torch's own."""

from __future__ import annotations

import copy
import itertools
import operator

import pytest
import torch
from torch import nn

from fewer.models.quick_adam import QuickAdam, adam_step, step_sizes

SHAPES = ((3, 4), (4,), (2, 3, 5), ())


def pair(**settings):
    """The same parameters twice, each with an optimiser."""
    mine = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    theirs = copy.deepcopy(mine)
    return (mine, QuickAdam(mine, **settings)), (theirs, torch.optim.Adam(theirs, fused=True, **settings))


def give(*both, without=()):
    """Gradients, equal for both."""
    for number, parameters in enumerate(zip(*both, strict=True)):
        gradient = None if number in without else torch.randn(parameters[0].shape)
        for parameter in parameters:
            parameter.grad = None if gradient is None else gradient.clone()


def same(mine, theirs):
    return all(map(torch.equal, mine, theirs))


@pytest.mark.parametrize(
    "settings", [{"lr": 0.01}, {"lr": 0.1, "weight_decay": 0.3}, {"betas": (0.5, 0.7), "eps": 0.1}, {"maximize": True},
                 {"amsgrad": True}, {"lr": torch.tensor(0.01)}]
)  # fmt: skip
def test_steps_equal_torchs_to_the_bit(settings):
    (mine, quick), (theirs, plain) = pair(**settings)
    for number in range(12):
        give(mine, theirs)
        if number == 6 and not isinstance(settings.get("lr"), torch.Tensor):  # what was collected knows no settings
            for each in (quick, plain):
                each.param_groups[0]["lr"] = 0.05
        quick.step()
        plain.step()
        assert same(mine, theirs)
    for one, two in zip(quick.state.values(), plain.state.values(), strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_shortcut_is_taken_and_noticed_to_be(monkeypatch):
    (mine, quick), _ = pair()
    give(mine)
    quick.step()
    monkeypatch.setattr(torch.optim.Adam, "step", None)
    quick.step()


def test_parameters_without_gradients_stay_where_they_are():
    (mine, quick), (theirs, plain) = pair()
    for without in ((), (1,), (), (0, 3), ()):
        give(mine, theirs, without=without)
        quick.step()
        plain.step()
        assert same(mine, theirs)


def test_states_are_exchanged_with_torchs():
    (mine, quick), (theirs, plain) = pair()
    for _ in range(3):
        give(mine, theirs)
        quick.step()
        plain.step()
    saved = copy.deepcopy(quick.state_dict())
    quick.load_state_dict(copy.deepcopy(plain.state_dict()))
    plain.load_state_dict(saved)
    for _ in range(3):
        give(mine, theirs)
        quick.step()
        plain.step()
        assert same(mine, theirs)
    quick.state.clear()
    plain.state.clear()
    for _ in range(2):
        give(mine, theirs)
        quick.step()
        plain.step()
    assert same(mine, theirs)


def test_what_was_loaded_is_gone_on_with():
    """Not what was there before: an earlier state, in the middle of a run."""
    (mine, quick), (theirs, plain) = pair()
    for number in range(8):
        give(mine, theirs)
        quick.step()
        plain.step()
        if number == 1:
            early = copy.deepcopy(plain.state_dict())
        if number == 5:
            quick.load_state_dict(copy.deepcopy(early))
            plain.load_state_dict(copy.deepcopy(early))
    assert same(mine, theirs)
    assert quick.state[mine[0]]["step"] == 4


def test_a_copy_moves_alone():
    (mine, quick), _ = pair()
    give(mine)
    quick.step()
    before = [each.detach().clone() for each in mine]
    other, its = copy.deepcopy((mine, quick))
    give(other)
    its.step()
    assert same(mine, before)
    assert quick.state[mine[0]]["step"] == 1
    assert not same(other, before)


def test_hooks_schedules_groups_and_closures_work():
    (mine, quick), (theirs, plain) = pair()
    called = []
    for each in (quick, plain):
        each.add_param_group({"params": [nn.Parameter(torch.ones(2))], "lr": 0.1})
    extra = [each.param_groups[1]["params"] for each in (quick, plain)]
    schedules = [torch.optim.lr_scheduler.StepLR(each, 2, 0.5) for each in (quick, plain)]
    hook = quick.register_step_post_hook(lambda *given: called.append("after"))
    for number in range(5):
        give(mine + extra[0], theirs + extra[1])
        assert quick.step(lambda: 7.0) == plain.step(lambda: 7.0) == 7.0
        for each in schedules:
            each.step()
        if number == 2:
            hook.remove()
    assert same(mine + extra[0], theirs + extra[1])
    assert called == ["after"] * 3


def test_an_injected_parameter_is_seen():
    """Other parameters in the group than were collected are moved too."""
    (mine, quick), (theirs, plain) = pair()
    give(mine, theirs)
    quick.step()
    plain.step()
    added = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    for each, parameter in zip((quick, plain), added, strict=True):
        each.param_groups[0]["params"].append(parameter)
    for parameters in itertools.repeat((mine + added[:1], theirs + added[1:]), 3):
        give(*parameters)
        quick.step()
        plain.step()
    assert same(mine + added[:1], theirs + added[1:])
    assert not torch.equal(added[0], torch.ones(2))


@pytest.mark.parametrize("settings", [{"lr": 0.01}, {"lr": 0.1, "betas": (0.5, 0.7), "eps": 0.1}])
def test_a_step_as_tensor_operations_is_torchs_but_for_rounding(settings):
    mine = pair()[0][0]
    theirs = [nn.Parameter(each.detach().double()) for each in mine]
    mine = [each.detach().double() for each in mine]
    other = torch.optim.Adam(theirs, **settings)
    averages, squares = ([torch.zeros_like(each) for each in mine] for _ in range(2))
    for count in range(1, 8):
        gradients = [torch.randn(each.shape, dtype=each.dtype) for each in theirs]
        for each, gradient in zip(theirs, gradients, strict=True):
            each.grad = gradient.clone()
        adam_step(
            mine, averages, squares, gradients, step_sizes(count, **settings), settings.get("betas", (0.9, 0.999))
        )
        other.step()
    for one, two in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, two.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("settings", [{"weight_decay": 0.1}, {"amsgrad": True}, {"maximize": True}])
def test_only_plain_steps_are_collected(settings):
    (mine, optimiser), (others, plain) = pair(**settings)[:1] + pair()[:1]
    assert plain.collected(others) is None  # before there is any memory
    for parameters, each in ((mine, optimiser), (others, plain)):
        give(parameters)
        each.step()
    assert optimiser.collected(mine) is None
    found = plain.collected(others)
    assert found is not None
    assert all(map(operator.is_, found.averages, [plain.state[each]["exp_avg"] for each in others]))
    assert found.count.tolist() == [1.0] * len(SHAPES) == [float(plain.state[each]["step"]) for each in others]
    assert plain.collected(others[1:]) is None
    assert plain.collected([*others[1:], others[0]]) is None


def test_steps_that_differ_are_not_collected():
    (mine, optimiser), _ = pair()
    give(mine)
    optimiser.step()
    give(mine, without=(1,))
    optimiser.step()
    assert [float(optimiser.state[each]["step"]) for each in mine] == [2, 1, 2, 2]
    assert optimiser.collected(mine) is None
