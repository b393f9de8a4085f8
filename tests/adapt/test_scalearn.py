"""ScaLearn: limits in omega, its four variants, gradients, counts, start, frozen parts, the table, reductions, errors."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.adapt.adapters import HIDDEN, LAYERS, WIDTH, adapter, encoder, sources
from torch import nn

from fewer import compose
from fewer.adapt.adapter_files import save_adapters
from fewer.adapt.adapter_fusion import AdapterFusion, fusion_parameters
from fewer.adapt.bottleneck_adapter import Bottleneck, built_in_compositions
from fewer.adapt.loop import Adaptation
from fewer.adapt.meter import trainable
from fewer.adapt.scalearn import (
    VARIANTS,
    Coefficients,
    ScaLearn,
    coefficient_table,
    scaling_coefficients,
    scaling_parameters,
)
from fewer.adapt.source_adapters import AdapterSoup
from fewer.adapt.template_sentences import TemplateSentences
from fewer.core.errors import FewerError
from fewer.models.optimisers import parameter_groups


def tokens():
    return encoder().tokens(["a b c", "d e", "f a b c d"])


def scaled(variant="vector", count=3, **settings):
    torch.manual_seed(1)
    return ScaLearn(variant, sources(count), **settings).attach(encoder()).eval()


def omegas(model):
    return [each.coefficients.omega for each in built_in_compositions(model)]


def with_omega(model, value):
    with torch.no_grad():
        for each in omegas(model):
            each.copy_(torch.as_tensor(value).expand_as(each))
    return model


def alone(adapter):
    """A model with one adapter as it was trained."""
    model = Bottleneck(WIDTH / HIDDEN).attach(encoder())
    with torch.no_grad():
        for composed, layer in zip(built_in_compositions(model), adapter.layers, strict=True):
            for mine, part in zip(composed.adapters.parameters_in_order(), layer.values(), strict=True):
                mine[0].copy_(part)
    return model.eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_task_with_omega_one_is_that_tasks_own_network(variant):
    with pytest.warns(UserWarning, match=r"one source adapter \(task 0\)"):
        model = scaled(variant, count=1)
    assert torch.equal(with_omega(model, 1.0)(tokens()), alone(sources(1)["task 0"])(tokens()))


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_of_several_tasks_can_be_chosen(variant):
    chosen = torch.tensor([[0.0], [1.0], [0.0]])
    torch.testing.assert_close(
        with_omega(scaled(variant), chosen)(tokens()), alone(sources()["task 1"])(tokens()), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_omega_zero_is_the_frozen_model(variant):
    assert torch.equal(with_omega(scaled(variant), 0.0)(tokens()), encoder()(tokens()))


def test_what_is_added_is_linear_in_omega():
    x = torch.randn(4, 5, WIDTH)
    composed = built_in_compositions(scaled())[0]
    once = composed.added(x)
    first = composed.coefficients.omega.detach().clone()
    composed.coefficients.omega.data.mul_(2)
    torch.testing.assert_close(composed.added(x), 2 * once)
    other = torch.randn_like(first)
    composed.coefficients.omega.data.copy_(other)
    alone = composed.added(x)
    composed.coefficients.omega.data.copy_(0.3 * first - 2 * other)
    torch.testing.assert_close(composed.added(x), 0.3 * once - 2 * alone, rtol=1e-4, atol=1e-5)


def test_shared_coefficients_are_equal_ones_in_each_layer():
    shared, own = scaled("++"), scaled("vector")
    assert omegas(shared)[0] is omegas(shared)[1]
    for each in omegas(own):
        each.data.copy_(omegas(shared)[0])
    assert torch.equal(shared(tokens()), own(tokens()))


def test_a_number_is_a_constant_vector():
    uniform, vector = scaled("uniform"), scaled("vector")
    for one, other in zip(omegas(uniform), omegas(vector), strict=True):
        other.data.copy_(one.expand_as(other))
    torch.testing.assert_close(uniform(tokens()), vector(tokens()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_reach_omega_alone(variant):
    model = scaled(variant)
    (model(tokens()) * torch.randn(3, WIDTH)).sum().backward()
    moved = {name for name, each in model.named_parameters() if each.grad is not None}
    assert all(name.endswith("coefficients.omega") for name in moved)
    assert (
        trainable(model)
        == scaling_parameters(variant, 3, WIDTH, LAYERS)
        == sum(each.numel() for each in {id(o): o for o in omegas(model)}.values())
    )
    assert all(bool(each.grad.any()) for each in omegas(model))


def test_gradients_of_omega_are_right():
    model = scaled("uniform").double()
    composed = built_in_compositions(model)[0]
    x = torch.randn(2, 3, WIDTH, dtype=torch.float64)

    def added(omega):
        return composed.adapters.mixed(x, omega)

    assert torch.autograd.gradcheck(added, (composed.coefficients.omega.detach().clone().requires_grad_(),))


def test_counts_at_roberta_base():
    counts = [scaling_parameters(each, 8, 768, 12) for each in VARIANTS]
    assert counts == [73_728, 96, 6_144, 8]
    assert counts[0] / fusion_parameters(768, 12) == pytest.approx(0.0035, abs=5e-5)


def test_the_start():
    torch.manual_seed(0)
    omega = Coefficients(8, 20_000).omega.detach()
    assert float(omega.mean()) == pytest.approx(2 / 8, abs=1e-5)
    assert float(omega.std()) == pytest.approx(1e-3, rel=0.02)


def test_dropout_falls_on_the_coefficients():
    torch.manual_seed(0)
    made = Coefficients(4, 10_000)
    made.omega.data.fill_(1.0)
    seen = made()
    assert seen.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert float((seen == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert torch.equal(made.eval()(), made.omega)
    rates = {each: built_in_compositions(scaled(each))[0].coefficients.dropout.p for each in VARIANTS}
    assert rates == {"vector": 0.3, "uniform": 0.3, "++": 0.3, "uniform++": 0.0}


def test_constraints():
    mean, soft = scaled(constraint="mean"), scaled(constraint="softmax")
    for model in (mean, soft):
        for each in omegas(model):
            each.data.copy_(torch.rand_like(each) + 0.5)
        torch.testing.assert_close(scaling_coefficients(model).sum(1), torch.ones(LAYERS, WIDTH))
    torch.testing.assert_close(scaling_coefficients(mean)[0], omegas(mean)[0] / omegas(mean)[0].sum(0))
    assert torch.equal(scaling_coefficients(soft)[1], omegas(soft)[1].softmax(0))


def test_a_soup_is_the_mean_with_nothing_to_learn():
    soup = AdapterSoup(sources()).attach(encoder()).eval()
    assert trainable(soup) == 0
    torch.testing.assert_close(soup(tokens()), with_omega(scaled(), 1 / 3)(tokens()), rtol=1e-6, atol=1e-6)


def test_the_table():
    own = coefficient_table(scaled("uniform"))
    assert list(own.index) == ["task 0", "task 1", "task 2"]
    assert list(own.columns) == ["layer 0", "layer 1"]
    model = scaled("vector")
    table = coefficient_table(model.train())
    assert model.training
    assert table.loc["task 1", "layer 1"] == pytest.approx(float(omegas(model)[1][1].detach().mean()))
    assert list(coefficient_table(scaled("uniform++")).columns) == ["all layers"]


def test_rates_are_its_own():
    groups = parameter_groups(scaled("++", lr=0.5))
    own = [group for group in groups if group.get("lr") == 0.5]
    assert [(len(group["params"]), group["weight_decay"]) for group in own] == [(1, 0.0)]


def test_sources_are_frozen_copies_to_the_bit(tmp_path):
    given = sources()
    for each in given.values():
        for layer in each.layers:
            for part in layer.values():
                part.requires_grad_(True)
    before = copy.deepcopy({task: each.layers for task, each in given.items()})
    model = ScaLearn("vector", given).attach(encoder()).train()
    base = {name: each.clone() for name, each in model.state_dict().items() if "omega" not in name}
    moving = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=0.1)
    for _ in range(3):
        moving.zero_grad()
        model(tokens()).square().sum().backward()
        moving.step()
    after = model.state_dict()
    assert all(torch.equal(each, after[name]) for name, each in base.items())
    for index, composed in enumerate(built_in_compositions(model)):
        for task, name in enumerate(given):
            for mine, kept in zip(composed.adapters.of(task), before[name][index].values(), strict=True):
                assert torch.equal(mine, kept)
    save_adapters(given, tmp_path)
    again = with_omega(ScaLearn("uniform", tmp_path).attach(encoder()), 0.7)
    assert torch.equal(again(tokens()), with_omega(scaled("uniform"), 0.7)(tokens()))


SMALL = "template-sentences(rows=32, test=60, pretraining=5, source_rows=32, source_epochs=1)"


@pytest.mark.parametrize(
    "entry",
    ["scalearn", *(f"scalearn(variant='{each}')" for each in VARIANTS[1:]), "scalearn(constraint='mean')", "fusion",
     "adapter-soup", "bottleneck(reduction=8)", "linear-probe", "full-fine-tuning"],
)  # fmt: skip
def test_a_race_runs_and_leaves_the_model_and_its_adapters_alone(entry):
    task, loop = compose.task(SMALL), compose.loop(f"adaptation(steps=3, points=1) + {entry}")
    assert isinstance(task, TemplateSentences)
    assert isinstance(loop, Adaptation)
    state = loop.start(task, 32, 0)
    bits = {name: each.clone() for name, each in state.base.state_dict().items()}
    kept = repr(state.base.source_adapters)
    loop.advance(state)
    assert all(torch.equal(each, bits[name]) for name, each in state.base.state_dict().items())
    assert repr(state.base.source_adapters) == kept
    if entry.startswith("scalearn("):
        assert scaling_coefficients(state.adapted.readout).shape[1] == 6


def wrong(**changed):
    return {"one": adapter("one", 0), "two": adapter("two", 1, **changed)}


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda: ScaLearn("matrix"), "variant is 'matrix'; choose vector, uniform"),
        (lambda: ScaLearn(constraint="max"), "constraint is 'max'"),
        (lambda: ScaLearn(dropout=1.0), "dropout must lie in"),
        (lambda: ScaLearn(constraint="mean", dropout=0.3), "all that a channel has may be dropped"),
        (lambda: AdapterFusion(lr=0.0), "lr be above 0"),
        (lambda: ScaLearn().attach(encoder()), "scalearn: there are no source adapters; give adapters="),
        (lambda: AdapterSoup({}).attach(encoder()), "adapter soup: there are no source adapters"),
        (lambda: ScaLearn(adapters="nowhere").attach(encoder()), "no folder at nowhere"),
        (lambda: ScaLearn(adapters=wrong(hidden=5)).attach(encoder()), r"one and two differ in placement or shape.*16, 4"),
        (lambda: ScaLearn(adapters=wrong(layers=3)).attach(encoder()), "one and two differ in placement"),
        (lambda: ScaLearn(adapters=wrong(activation="gelu")).attach(encoder()), "one and two differ"),
        (lambda: AdapterFusion({t: adapter(t, 0, width=8) for t in "ab"}).attach(encoder()),
         "fusion: the adapter a is for 2 layers of 8 channels, and the model has 2 of 16"),
        (lambda: ScaLearn(adapters=sources()).attach(nn.Linear(2, 2)), "a Linear has no layer of an encoder"),
        (lambda: coefficient_table(encoder()), "no coefficients in this TextEncoder"),
    ],
)  # fmt: skip
def test_errors(do, message):
    with pytest.raises(FewerError, match=message):
        do()
