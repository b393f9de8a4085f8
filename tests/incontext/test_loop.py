from __future__ import annotations

import pytest
import torch

from fewer import compose
from fewer.core.errors import Diverged, FewerError
from fewer.core.seeding import torch_generator
from fewer.incontext.loop import Family, LearnToLearn, Prompts, frozen
from fewer.incontext.networks import LSTM, Transformer
from fewer.models.optimisers import SGD, AdamW


class Copy(Family):
    """Each task is one hidden number; a prompt repeats it with noise, and it should be said at every position."""

    name, metric = "copy", "negative squared error"
    features, outputs, length = 1, 1, 6

    def fingerprint(self):
        return "copy"

    def sample(self, count, generator):
        hidden = torch.randn(count, 1, 1, generator=generator)
        tokens = hidden + 0.1 * torch.randn(count, self.length, 1, generator=generator)
        return Prompts(tokens, hidden.expand(-1, self.length, -1))

    def loss(self, outputs, prompts):
        return (outputs - prompts.target).square().squeeze(-1)

    def evaluate(self, predict, seed):
        prompts = self.sample(300, torch_generator(seed, "unseen"))
        error = self.loss(predict(prompts), prompts)
        return -float(error.mean()), {"last": -float(error[:, -1].mean())}


SMALL = LearnToLearn(network=Transformer(16, 1, 2), batch=16, points=4)


def test_it_learns_to_read_a_task_from_the_prompt():
    learned = LearnToLearn(network=Transformer(16, 1, 2), optimiser=AdamW(1e-2), batch=32).learn(Copy(), 12_000)
    untrained, _ = Copy().evaluate(frozen(Transformer(16, 1, 2).build(1, 1, 6)), 0)
    assert untrained < -0.5
    assert learned.curve.final > -0.02
    # one reading says it to 0.01 at best, six readings to a sixth of that
    assert learned.curve.points[-1].extras["last"] > -0.01


def test_points_are_even_and_the_budget_is_kept():
    assert [point.spent for point in SMALL.run(Copy(), 170, 0)] == [42, 85, 127, 170]
    assert [point.spent for point in LearnToLearn(network=LSTM(4), batch=4, points=10).run(Copy(), 5, 0)] == [
        1,
        2,
        3,
        4,
        5,
    ]


@pytest.mark.parametrize("network", [Transformer(16, 2, 4), LSTM(8)])
def test_a_resumed_run_is_the_same_to_the_bit(tmp_path, network):
    loop = LearnToLearn(network=network, batch=8, points=5)
    whole = [(point.spent, point.score) for point in loop.run(Copy(), 200, 3)]
    file = tmp_path / "state"
    run = loop.run(Copy(), 200, 3, checkpoint=file)
    for _ in range(2):
        next(run)
    run.close()
    assert [(point.spent, point.score) for point in loop.run(Copy(), 200, 3, checkpoint=file)] == whole


@pytest.mark.parametrize("network", [Transformer(16, 2, 4), LSTM(8)])
def test_an_output_knows_nothing_of_later_tokens_or_other_prompts(network):
    model = network.build(3, 2, 9)
    tokens = torch.randn(4, 9, 3)
    before = frozen(model)(Prompts(tokens, tokens))
    changed = tokens.clone()
    changed[:, 6:] += 1
    changed[1] += 1
    after = frozen(model)(Prompts(changed, tokens))
    torch.testing.assert_close(after[0, :6], before[0, :6])
    assert not torch.allclose(after[0, 6:], before[0, 6:])
    torch.testing.assert_close(frozen(model, block=1)(Prompts(tokens, tokens)), before)


def test_attention_is_attention():
    """One block against the formula, written out."""
    torch.manual_seed(0)
    model = Transformer(8, 1, 2).build(3, 8, 5).double()
    block = model.blocks[0]
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    query, key, value = block.query_key_value(block.before_attention(x)).chunk(3, dim=-1)
    seen = torch.zeros(1, 5, 8, dtype=torch.float64)
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        for at in range(5):
            scores = torch.stack([query[0, at, part] @ key[0, to, part] / 2 for to in range(at + 1)])
            seen[0, at, part] = scores.softmax(0) @ value[0, : at + 1, part]
    expected = x + block.out(seen)
    expected = expected + block.mlp(block.before_mlp(expected))
    torch.testing.assert_close(block(x), expected)


def test_what_cannot_run_is_one_clear_line():
    with pytest.raises(FewerError, match="multiple of heads"):
        Transformer(10, 1, 3)
    with pytest.raises(FewerError, match="lstm: width and layers"):
        LSTM(0)
    with pytest.raises(FewerError, match="batch and points must be at least 1"):
        LearnToLearn(points=0)
    with pytest.raises(FewerError, match="a budget of 5 prompts is below the first round, which takes 64"):
        LearnToLearn().run(Copy(), 5, 0)
    with pytest.raises(FewerError, match="a prompt of 7 tokens is longer than the 5"):
        Transformer(8, 1, 1).build(2, 1, 5)(torch.zeros(1, 7, 2))
    with pytest.raises(FewerError, match="reads from left to right"):
        LSTM(8).build(2, 1, 5)(torch.zeros(1, 3, 2), observed=2)
    with pytest.raises(Diverged, match="lower the learning rate"):
        list(LearnToLearn(network=Transformer(8, 1, 1), optimiser=SGD(lr=1e30), batch=4, clip=1e30).run(Copy(), 400, 0))


def test_it_is_named_in_the_catalogue():
    made = compose.loop("lstm(width=8) + sgd(lr=0.1) + learn-to-learn(points=3)")
    assert made == LearnToLearn(network=LSTM(8), optimiser=SGD(lr=0.1), points=3)
