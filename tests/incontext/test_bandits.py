"""Bandits and their rules: posteriors in closed form, the roll-in's law, play that is the same for all, and limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fewer import compose
from fewer.core.errors import FewerError
from fewer.core.seeding import torch_generator
from fewer.incontext.bandit_rules import (
    EmpiricalMean,
    LinearThompson,
    LinearUpperConfidenceBound,
    LowerConfidenceBound,
    PosteriorMean,
    RandomArm,
    ThompsonSampling,
    UpperConfidenceBound,
    linear_posterior,
    normal_posterior,
)
from fewer.incontext.bandits import Bandit, LinearBandit, NetworkPlayer, RulePlayer, play
from fewer.incontext.loop import LearnToLearn, Prompts, frozen
from fewer.incontext.networks import LSTM, Transformer
from fewer.models.optimisers import AdamW


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# --- rules -----------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=1, max_size=6), st.floats(-1, 1), st.floats(0.1, 2), st.floats(0.1, 2))
def test_the_posterior_is_that_of_one_payment_after_another(paid, mean, variance, noise):
    expected_mean, expected_variance = mean, variance
    for payment in paid:
        gain = expected_variance / (expected_variance + noise**2)
        expected_mean += gain * (payment - expected_mean)
        expected_variance *= 1 - gain
    counts, sums = torch.tensor([[float(len(paid))]]), torch.tensor([[sum(paid)]])
    found = normal_posterior(counts.double(), sums.double(), mean, variance, noise)
    assert [float(each) for each in found] == pytest.approx([expected_mean, expected_variance], abs=1e-6)
    assert float(found[1]) == pytest.approx(variance / (1 + len(paid) * variance / noise**2))


def test_the_linear_posterior_is_that_of_all_pulls():
    rng = np.random.default_rng(0)
    features, arms = rng.normal(size=(4, 2)), rng.integers(4, size=9)
    paid = rng.normal(size=9)
    rows = features[arms]
    precision = rows.T @ rows / 0.3**2 + np.eye(2) / 0.5
    expected = np.linalg.solve(precision, rows.T @ paid / 0.3**2)
    counts = torch.from_numpy(np.bincount(arms, minlength=4)[None].astype(float))
    sums = torch.from_numpy(np.bincount(arms, weights=paid, minlength=4)[None])
    mean, covariance = linear_posterior(torch.from_numpy(features), counts, sums, 0.5, 0.3)
    np.testing.assert_allclose(mean[0], expected)
    np.testing.assert_allclose(covariance[0], np.linalg.inv(precision))


def test_linear_rules_on_unit_features_are_those_of_independent_arms():
    counts, sums = torch.rand(50, 4, generator=seeded()).mul(9).round(), torch.randn(50, 4, generator=seeded(1))
    mean, covariance = linear_posterior(torch.eye(4), counts, sums, 1.0, 0.3)
    expected, variance = normal_posterior(counts.double(), sums.double(), 0.0, 1.0, 0.3)
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(covariance.diagonal(dim1=1, dim2=2), variance)
    greedy = LinearUpperConfidenceBound(torch.eye(4), width=0.0).choose(counts, sums, seeded())
    assert torch.equal(greedy, PosteriorMean(mean=0.0, variance=1.0).choose(counts, sums, seeded()))


@pytest.mark.parametrize("linear", [False, True])
def test_thompson_sampling_chooses_with_the_chance_of_being_best(linear):
    counts, sums = torch.tensor([[3.0, 5.0]]), torch.tensor([[1.2, 2.6]])
    mean, variance = normal_posterior(counts, sums, 0.0, 1.0, 0.5)
    chance = stats.norm.cdf(((mean[0, 1] - mean[0, 0]) / variance.sum().sqrt()).item())
    rule = LinearThompson(torch.eye(2), noise=0.5) if linear else ThompsonSampling(0.0, 1.0, 0.5)
    chosen = rule.choose(counts.repeat(20_000, 1), sums.repeat(20_000, 1), seeded())
    assert chosen.float().mean().item() == pytest.approx(chance, abs=0.015)
    many = LinearThompson(torch.eye(2), noise=0.5, draws=200) if linear else ThompsonSampling(0.0, 1.0, 0.5, draws=200)
    assert (many.choose(counts.repeat(50, 1), sums.repeat(50, 1), seeded()) == int(chance > 0.5)).all()


def test_confident_rules_by_hand():
    counts, sums = torch.tensor([[1.0, 4.0, 0.0]]), torch.tensor([[0.6, 2.8, 0.0]])
    assert EmpiricalMean(explore=False).choose(counts, sums, seeded()).item() == 1  # 0.6 and 0.7
    assert EmpiricalMean().choose(counts, sums, seeded()).item() == 2  # never pulled
    assert UpperConfidenceBound().choose(counts, sums, seeded()).item() == 2
    tried, paid = counts[:, :2], sums[:, :2]
    assert UpperConfidenceBound().choose(tried, paid, seeded()).item() == 0  # 1.6 and 1.2
    assert UpperConfidenceBound(width=0.1).choose(tried, paid, seeded()).item() == 1  # 0.7 and 0.75
    assert LowerConfidenceBound().choose(counts, sums, seeded()).item() == 1  # -0.2 and 0.3
    assert LowerConfidenceBound().choose(torch.tensor([[2.0, 0.0]]), torch.tensor([[-9.0, 0.0]]), seeded()).item() == 0
    arms = RandomArm().choose(torch.zeros(4000, 4), torch.zeros(4000, 4), seeded())
    assert torch.bincount(arms).min() > 900


# --- families --------------------------------------------------------------------------------------------------------


def test_a_prompt_is_the_query_and_a_token_for_each_pull():
    family = Bandit(arms=4, context=7, noise=0.0)
    prompts = family.sample(50, seeded())
    assert prompts.tokens.shape == (50, 8, 7)
    assert prompts.tokens[:, 0].tolist() == [[1.0] + [0.0] * 6] * 50
    assert (prompts.tokens[:, 1:, 0] == 1).all()
    assert (prompts.tokens[:, 1:, 1:5].sum(-1) == 1).all()
    assert (prompts.tokens[:, 1:, 5] == 1).all()
    # without noise, an arm always pays the same, and the best arm's pay is the most that is seen
    pulled, paid = prompts.tokens[:, 1:, 1:5], prompts.tokens[:, 1:, 6:]
    table = torch.where(pulled > 0, paid, math.nan)
    most = table.nan_to_num(-1).amax((1, 2))
    best = (pulled * paid * prompts.target[:, None]).sum(-1).amax(-1)
    seen = (pulled * prompts.target[:, None]).sum((1, 2)) > 0
    assert seen.any()
    assert torch.equal(best[seen], most[seen])
    assert torch.equal(table.nan_to_num(-1).amax(1)[pulled.sum(1) > 0], table.nan_to_num(9).amin(1)[pulled.sum(1) > 0])


def test_the_roll_in_is_between_random_and_a_single_arm():
    family = Bandit(arms=5, context=400)
    pulls, _ = family.collected(family.means(3000, seeded()), seeded(1))
    share = torch.stack([(pulls == arm).float().mean(1) for arm in range(5)], 1)
    single = (share.amax(1) == 1).float().mean().item()
    assert single == pytest.approx(1 / 11, abs=0.02)
    assert share.mean(0).tolist() == pytest.approx([0.2] * 5, abs=0.02)
    # a Dirichlet's share has variance 4/150, one arm's 4/25; the mixture's is E[(1-k)^2] of the one and E[k^2] of the other
    expected = 0.35 * 4 / 150 + 0.35 * 4 / 25
    assert share.var().item() == pytest.approx(expected, rel=0.1)


def test_a_uniform_draw_of_zero_breaks_no_roll_in(monkeypatch):
    family = Bandit(arms=3, context=10)
    means = family.means(50, seeded())
    monkeypatch.setattr(torch, "rand", lambda shape, generator: torch.zeros(shape))
    pulls, payments = family.collected(means, seeded())
    assert pulls.unique().tolist() == [0, 1, 2]
    assert payments.isfinite().all()


def test_a_learner_s_roll_in_is_that_learner_and_keeps_its_order():
    family = Bandit(context=30, roll_in="thompson", label="behaviour")
    prompts = family.sample(400, seeded())
    assert prompts.target.shape == (400, 31, 5)
    assert torch.equal(prompts.target[:, :-1], prompts.tokens[:, 1:, 1:6])
    assert (prompts.target[:, -1] == 0).all()
    paid = prompts.tokens[:, 1:, -1]
    assert paid[:, -10:].mean() > paid[:, :5].mean() + 0.1


def test_the_loss_is_the_cross_entropy_at_every_length_of_the_context():
    family, without = Bandit(arms=3, context=6), Bandit(arms=3, context=6, empty_context=False)
    prompts = family.sample(4, seeded())
    outputs = torch.randn(4, 7, 3, generator=seeded(1), requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        outputs.flatten(0, 1), prompts.target.argmax(-1).repeat_interleave(7), reduction="none"
    ).reshape(4, 7)
    torch.testing.assert_close(family.loss(outputs, prompts), expected)
    torch.testing.assert_close(without.loss(outputs, prompts), expected[:, 1:])
    cloned = Bandit(arms=3, context=6, label="behaviour")
    prompts = cloned.sample(4, seeded())
    loss = cloned.loss(outputs, prompts)
    assert (loss[:, -1] == 0).all()
    assert (loss[:, :-1] > 0).all()


def test_all_play_the_same_bandits_with_the_same_luck():
    means = torch.rand(40, 4, generator=seeded())
    always = [
        play(means, 0.3, player, 15, seeded(5), seeded(6))
        for player in (RulePlayer(EmpiricalMean(), 40, 4), RulePlayer(UpperConfidenceBound(width=1e-9), 40, 4))
    ]
    assert torch.equal(always[0][0], always[1][0])
    assert torch.equal(always[0][1], always[1][1])
    pulls, paid = always[0]
    noise = paid - means.gather(1, pulls)
    assert noise.std().item() == pytest.approx(0.3, rel=0.1)
    other = play(means, 0.3, RulePlayer(RandomArm(), 40, 4), 15, seeded(5), seeded(6))
    torch.testing.assert_close(other[1] - means.gather(1, other[0]), noise, atol=1e-5, rtol=0)


@pytest.mark.parametrize("network", [Transformer(8, 2, 2), LSTM(8)])
def test_playing_with_a_memory_is_playing_from_the_whole_prompt(network):
    model = network.build(8, 5, 12)
    family, means = Bandit(context=11), torch.rand(6, 5, generator=seeded())
    pulls, paid = play(means, 0.3, NetworkPlayer(frozen(model), 6, 5), 11, seeded(1), seeded(2))
    choices = seeded(2)
    tokens = family.prompts(pulls, paid)
    for step in range(11):
        logits = frozen(model)(Prompts(tokens[:, : step + 1], tokens))[:, -1]
        assert torch.equal(torch.multinomial(logits.softmax(-1), 1, generator=choices).squeeze(1), pulls[:, step])


def test_with_enough_data_nobody_errs():
    family = Bandit(context=4000, noise=0.1)
    found = family.offline(0, rules={"mean": PosteriorMean(noise=0.1)}, count=300, after=[10, 4000])["mean"]
    assert found[10] > 0.02
    spread = Bandit(context=4000, noise=0.1)
    generator = torch_generator(0, "spread")
    means = spread.means(200, generator)
    pulls = torch.randint(5, (200, 4000), generator=generator)
    paid = means.gather(1, pulls) + 0.1 * torch.randn(pulls.shape, generator=generator)
    sums = torch.zeros(200, 5).scatter_add(1, pulls, paid)
    counts = torch.zeros(200, 5).scatter_add(1, pulls, torch.ones_like(paid))
    arm = PosteriorMean(noise=0.1).choose(counts, sums, generator)
    assert (means.amax(-1) - means.gather(1, arm[:, None]).squeeze(1)).mean() < 0.001


@pytest.mark.parametrize("family", [Bandit(context=60), LinearBandit(context=60)])
def test_the_rivals_keep_their_order(family):
    online, offline = family.rivals()
    regrets = {name: float(each.sum()) for name, each in family.online(0, rules=online, count=150).items()}
    best = "thompson" if isinstance(family, Bandit) else "linear thompson"
    assert regrets[best] < 0.5 * regrets["random"]
    if isinstance(family, LinearBandit):
        assert regrets["linear thompson"] < regrets["thompson"]
    given = family.offline(0, rules=offline)
    for at in (15, 60):
        assert given["posterior mean"][at] <= min(given["empirical"][at], given["lcb"][at], given["random"][at])


@pytest.mark.parametrize(
    ("family", "rival"), [(Bandit(context=20), "thompson"), (LinearBandit(context=20), "linear thompson")]
)
def test_a_score_comes_with_that_of_the_best_rules(family, rival):
    """Whoever always names the first arm, beside rules that read what was paid."""

    def first(prompts):
        return (
            50
            * torch.nn.functional.one_hot(torch.zeros(prompts.tokens.shape[:2], dtype=torch.long), family.arms).float()
        )

    score, measures = family.evaluate(first, 0)
    assert list(measures) == [f"suboptimality@{at}" for at in (2, 5, 10, 20)] + [
        "posterior mean",
        "regret",
        f"{rival} regret",
    ]
    assert score == pytest.approx(-sum(measures[f"suboptimality@{at}"] for at in (2, 5, 10, 20)) / 4)
    assert measures["posterior mean"] > score
    assert measures["regret"] > measures[f"{rival} regret"] > 0


def test_linear_bandits_share_their_features():
    family = LinearBandit(arms=6, dimension=2, context=5)
    means = family.means(400, seeded())
    assert torch.linalg.matrix_rank(means) == 2
    assert torch.equal(LinearBandit(arms=6, context=5).arm_features, family.arm_features)
    assert not torch.equal(LinearBandit(arms=6, context=5, arms_seed=1).arm_features, family.arm_features)


def test_a_single_arm_leaves_nothing_to_learn_and_equal_arms_nothing_to_know():
    single = LearnToLearn(network=Transformer(8, 1, 1), batch=8, points=1).learn(Bandit(arms=1, context=5), 16)
    assert single.curve.points[-1].extras["loss"] == 0
    assert single.curve.final == 0

    class Equal(Bandit):
        def means(self, count, generator):
            return torch.rand(count, 1, generator=generator).expand(-1, self.arms) + 1e-6 * torch.rand(
                count, self.arms, generator=generator
            )

    loop = LearnToLearn(network=Transformer(8, 1, 1), optimiser=AdamW(3e-3), batch=64, points=1)
    loss = loop.learn(Equal(arms=4, context=5), 64 * 60).curve.points[-1].extras["loss"]
    assert loss == pytest.approx(math.log(4), abs=0.05)


def test_the_name_leads_back_to_the_family():
    for family in (
        Bandit(arms=3, roll_in="thompson", label="behaviour"),
        LinearBandit(dimension=3, empty_context=False),
    ):
        again = compose.task(family.name)
        assert again.fingerprint() == family.fingerprint()
        assert torch.equal(again.sample(3, seeded()).tokens, family.sample(3, seeded()).tokens)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Bandit(arms=0), "a world needs a state, an action and a context of 1 or more; given 1, 0, 100"),
        (lambda: Bandit(noise=-1), "noise must be 0 or more"),
        (lambda: Bandit(noise=math.nan), "noise must be 0 or more"),
        (lambda: Bandit(roll_in="ucb"), "roll_in must be 'mixture' or 'thompson'; 'ucb' was given"),
        (lambda: Bandit(label="best"), "label must be 'optimal' or 'behaviour'; 'best' was given"),
        (lambda: LinearBandit(dimension=0), "dimension must be at least 1"),
        (
            lambda: Bandit(context=5).online(0, lambda prompts: prompts.tokens, steps=6),
            "6 pulls are more than the context of 5",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(FewerError, match=message):
        call()
