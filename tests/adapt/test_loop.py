"""The loop of adaptation: a probe written out, what moves and what does not, points that begin anew, resuming, errors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from fewer import compose
from fewer.adapt.built_in import merged
from fewer.adapt.concept_shift import ConceptShift
from fewer.adapt.digit_sensors import DigitSensors
from fewer.adapt.loop import Adaptation, AdaptationTask, Features, Labelled, Linear, rows_at
from fewer.adapt.scale_shift import ScaleShift
from fewer.core.errors import Diverged, FewerError
from fewer.core.seeding import derive, generator
from fewer.models.optimisers import AdamW, Cosine


class Body(nn.Module):
    width = 6

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 6, bias=False)

    def forward(self, x):
        return self.second(torch.tanh(self.norm(self.first(x))))


@dataclass(frozen=True)
class Rows(AdaptationTask):
    name: str = "rows"
    metric: str = "accuracy"
    classes: tuple[str, ...] = ("a", "b", "c")
    kind: type[nn.Module] = Body

    def fingerprint(self):
        return self.name

    def base(self, seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.kind()

    def labelled(self, seed):
        rng = torch.Generator().manual_seed(seed)
        x = torch.randn(80, 4, generator=rng)
        y = x[:, :3].argmax(1)
        return Labelled(x[:60], y[:60], x[60:], y[60:])


SMALL = Adaptation(steps=20, batch=8, points=3)


def trained(loop, labels=40, task=None, seed=0):
    state = loop.start(task or Rows(), 60, seed)
    adapted, extras = loop.train(state, labels)
    return state, adapted, extras


def test_a_linear_probe_is_a_logistic_fit_on_features_step_by_step():
    state, adapted, extras = trained(SMALL)
    x, y = state.labelled.x[:40], state.labelled.y[:40]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(derive(0, "weights"))
        layer = nn.Linear(6, 3)
        z = state.base(x)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=3e-3, weight_decay=0.01)
    rng, left = generator(0, "order"), np.zeros(0, dtype=np.int64)
    for step in range(20):
        while len(left) < 8:
            left = np.concatenate([left, rng.permutation(40)])
        chosen, left = left[:8], left[8:]
        optimiser.param_groups[0]["lr"] = 3e-3 * Cosine().factor(step / 20)
        optimiser.zero_grad()
        nn.functional.cross_entropy(layer(z[chosen]), y[chosen]).backward()
        optimiser.step()
    torch.testing.assert_close(adapted.head.linear.weight, layer.weight)
    torch.testing.assert_close(adapted.head.linear.bias, layer.bias)
    assert extras["parameters"] == 21


@pytest.mark.parametrize(
    ("settings", "free"),
    [
        ({}, set()),
        ({"trainable": "bias"}, {"first.bias", "norm.bias"}),
        ({"trainable": "norm"}, {"norm.weight", "norm.bias"}),
        ({"trainable": "all"}, {"first.weight", "first.bias", "norm.weight", "norm.bias", "second.weight"}),
        ({"adapter": ScaleShift()}, set()),
    ],
)
def test_exactly_what_may_move_moves(settings, free):
    state, adapted, _ = trained(replace(SMALL, **settings))
    before = dict(state.base.named_parameters())
    assert not any(each.requires_grad for each in before.values())
    after = {name: each for name, each in adapted.readout.model.named_parameters() if "built_in" not in name}
    assert {name for name, each in after.items() if each.requires_grad} == free
    assert {name for name, each in after.items() if not torch.equal(each, before[name])} == free


def test_an_adapter_learns_and_is_merged():
    state, adapted, extras = trained(replace(SMALL, adapter=ScaleShift()))
    assert extras["parameters"] == 2 * (8 + 8 + 6) + 21
    x = state.labelled.test_x
    assert not torch.allclose(adapted.readout(x), state.base(x))
    torch.testing.assert_close(merged(adapted.readout.model)(x), adapted.readout(x))


def test_a_frozen_model_that_changes_is_noticed():
    class Counting(Body):
        def __init__(self):
            super().__init__()
            self.register_buffer("asked", torch.zeros(()))

        def forward(self, x):
            self.asked += 1
            return super().forward(x)

    with pytest.raises(FewerError, match="asked of the frozen model changed"):
        trained(SMALL, task=Rows(kind=Counting))


def test_each_point_begins_anew():
    whole = SMALL.learn(Rows(), 60, seed=1)
    assert [point.spent for point in whole.curve] == [20, 40, 60]
    for spent in (20, 40, 60):
        alone = replace(SMALL, points=1).learn(Rows(), spent, seed=1).curve.points[-1]
        there = next(point for point in whole.curve if point.spent == spent)
        assert (alone.score, alone.extras["loss"]) == (there.score, there.extras["loss"])


def test_it_resumes_to_the_bit(tmp_path):
    loop, file = replace(SMALL, trainable="all"), tmp_path / "run.safetensors"
    whole = [(point.spent, point.score, point.extras["loss"]) for point in loop.run(Rows(), 60, 0)]
    run = loop.run(Rows(), 60, 0, checkpoint=file)
    next(run)
    run.close()
    again = [(point.spent, point.score, point.extras["loss"]) for point in loop.run(Rows(), 60, 0, checkpoint=file)]
    assert again == whole
    ended = loop.start(Rows(), 60, 0)
    ended.ledger.add("labels", 60)
    learned = loop.learn(Rows(), 60, 0).result
    x = ended.labelled.test_x
    np.testing.assert_array_equal(loop.result(ended).probabilities(x), learned.probabilities(x))


def test_features_computed_once_are_those_computed_each_time():
    class Always:
        """Looks as if it were trained, so that nothing is kept."""

        def build(self, model, task):
            made = Features().build(model, task)
            made.register_parameter("unused", nn.Parameter(torch.zeros(1)))
            return made

    _, once, _ = trained(SMALL)
    _, each_time, _ = trained(replace(SMALL, readout=Always()))
    torch.testing.assert_close(once.head.linear.weight, each_time.head.linear.weight)


def test_dropout_of_the_frozen_model_is_off_unless_all_of_it_learns():
    class Dropping(Body):
        def forward(self, x):
            modes.add(self.training)
            return super().forward(x)

    modes: set[bool] = set()
    trained(replace(SMALL, trainable="bias"), task=Rows(kind=Dropping))
    assert modes == {False}
    trained(replace(SMALL, trainable="all"), task=Rows(kind=Dropping))
    assert modes == {False, True}


def test_it_learns_and_equal_seeds_are_equal():
    loop = replace(SMALL, steps=300, trainable="all", optimiser=AdamW(lr=1e-2))
    first, second = loop.learn(Rows(), 60, 0).curve, loop.learn(Rows(), 60, 0).curve
    assert [point.score for point in first] == [point.score for point in second]
    assert first.final > 0.6


@pytest.mark.parametrize(
    "name", ["linear-probe", "full-fine-tuning", "bias-only", "norm-only", "scale-shift", "lora(rank=2)"]
)
def test_the_parts_run_by_name(name):
    loop = compose.loop(f"adaptation(steps=2, batch=8, points=1) + {name}")
    assert 0 <= loop.learn(DigitSensors("AB", start="none"), 20, 0).curve.final <= 1
    assert 0 <= loop.learn(Rows(), 20, 0).curve.final <= 1


def test_rows_of_several_modalities():
    x = {"a": torch.arange(4), "b": torch.arange(4) * 2}
    assert rows_at(x, torch.tensor([3, 1]))["b"].tolist() == [6, 2]
    assert rows_at(x["a"], slice(1)).tolist() == [0]


def test_domains_are_scored_one_by_one():
    task = ConceptShift(rows=5, test=10)
    labelled = task.labelled(0)
    right = nn.functional.one_hot(labelled.test_y, 3).numpy()
    seen = []

    def predict(x, classes=None):
        seen.append(len(x))
        rows = [int(torch.nonzero((labelled.test_x == row).all(1))[0]) for row in x]
        said = right[rows].copy()
        return said if len(seen) != 5 else 1 - said  # the first target is told wrong

    score, extras = task.evaluate(labelled, predict)
    assert seen == [10] * 8
    assert (score, extras) == (0.75, {"source": 1.0, "worst domain": 0.0})


@pytest.mark.parametrize(
    ("do", "error", "message"),
    [
        (lambda: Adaptation(steps=0), FewerError, "steps, batch and points must be at least 1"),
        (lambda: Adaptation(trainable="head"), FewerError, "trainable is 'head'; choose"),
        (lambda: SMALL.learn(Rows(), 61), FewerError, "61 labels were asked for, and it has 60; lower --budget"),
        (lambda: SMALL.learn(Rows(), 1), FewerError, "below the first round, which takes 2"),
        (lambda: SMALL.learn(compose.task("digits"), 50), FewerError, "digits brings no trained model"),
        (lambda: SMALL.learn(Rows(kind=lambda: nn.Linear(4, 4)), 50), FewerError, "does not say how many features"),
        (lambda: replace(SMALL, optimiser=AdamW(lr=1e38), trainable="all").learn(Rows(), 60), Diverged, "lower the learning"),
        (lambda: trained(SMALL)[1].probabilities(torch.zeros(1, 4), ("x",)), FewerError, "knows only the classes"),
    ],
)  # fmt: skip
def test_errors(do, error, message):
    with pytest.raises(error, match=message):
        do()


def test_the_default_head_is_one_linear_layer():
    head = Linear().build(6, Rows(), Body())
    assert head.logits(torch.zeros(2, 6)).shape == (2, 1, 3)
