from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, Normal

from fewer.control.baselines import td3
from fewer.control.critics import QEnsemble
from fewer.control.environments import GymEnvironment
from fewer.control.loop import OffPolicy, Update
from fewer.control.replay import Batch
from fewer.core.errors import FewerError
from fewer.explore.deep_mex import (
    Candidates,
    OptimisticCriticTerm,
    OptimisticModelTerm,
    mex_loss,
    promise_of,
    standardised,
)


def setting(batch=6, members=2, double=True):
    torch.manual_seed(0)
    critic = QEnsemble(3, 2, members, (16,))
    observations, candidates = torch.randn(batch, 3), Candidates(*(torch.rand(4, batch, 2) * 2 - 1))
    if double:
        critic, observations = critic.double(), observations.double()
        candidates = Candidates(
            *(getattr(candidates, name).double() for name in ("taken", "policy", "successor", "random"))
        )
    return critic, observations, candidates


def test_the_promise_is_the_formula_written_out_for_each_member_and_row():
    critic, observations, candidates = setting()
    promise = promise_of(critic, observations, candidates)
    assert promise.shape == (2, 6)
    for member in range(2):
        for row in range(6):
            at = observations[row : row + 1]

            def value(actions, at=at, member=member, row=row):
                return critic(at, actions[row : row + 1])[member, 0].item()

            # each critic's own value of the data's action stands in its own baseline
            others = [value(each) for each in (candidates.taken, candidates.successor, candidates.random)]
            expected = value(candidates.policy) - math.log(sum(map(math.exp, others)))
            assert promise[member, row].item() == pytest.approx(expected)


def test_a_constant_added_to_all_values_changes_the_term_without_a_baseline_alone():
    critic, observations, candidates = setting()

    def higher(observations, actions):
        return critic(observations, actions) + 5.0

    with_baseline = [promise_of(each, observations, candidates) for each in (critic, higher)]
    torch.testing.assert_close(*with_baseline)
    without = [promise_of(each, observations, candidates, baseline=False) for each in (critic, higher)]
    torch.testing.assert_close(without[0] + 5, without[1])


def test_the_promise_is_negative_where_the_policy_acts_as_the_data_and_finite_elsewhere():
    critic, observations, candidates = setting(batch=50)
    same = Candidates(candidates.taken, candidates.taken, candidates.successor, candidates.random)
    assert (promise_of(critic, observations, same) < 0).all()

    def steep(observations, actions):
        return 1e4 * actions[None, :, 0]

    assert torch.isfinite(promise_of(steep, observations, candidates)).all()
    assert (promise_of(steep, observations, candidates) > 0).any()


def test_the_loss_is_its_parts_and_without_weight_the_critics_own_to_the_bit():
    critic, observations, candidates = setting(double=False)
    target = torch.randn(6)
    loss = mex_loss(critic, observations, target, candidates, eta=0.1)
    fit = (critic(observations, candidates.taken) - target).square()
    torch.testing.assert_close(loss.fit, fit.sum(0))
    torch.testing.assert_close(loss.total, fit.mean(1).sum() - 0.1 * loss.promise.mean())
    plain = mex_loss(critic, observations, target, candidates, eta=0.0).total
    assert torch.equal(plain, fit.sum(0).mean())
    assert not plain.isnan()


def test_gradients_are_right_and_go_through_the_critic_alone():
    critic, observations, candidates = setting(batch=3)
    policy = candidates.policy.clone().requires_grad_()
    target = torch.randn(3, dtype=torch.float64, requires_grad=True)
    asked = Candidates(candidates.taken, policy, candidates.successor, candidates.random)
    names = [name for name, _ in critic.named_parameters()]
    weights = tuple(each.detach().clone().requires_grad_() for each in critic.parameters())

    def total(*weights):
        def called(*inputs):
            return torch.func.functional_call(critic, dict(zip(names, weights, strict=True)), inputs)

        return mex_loss(called, observations, target, asked, eta=0.5).total

    assert torch.autograd.gradcheck(total, weights)
    total(*weights).backward()
    assert policy.grad is None
    assert target.grad is None


def test_a_step_lifts_the_policys_actions_above_the_others_and_the_baseline_stops_the_drift():
    """A table of values for four actions, fitted to zero: only what the policy does is lifted on balance."""
    actions = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    ends = {}
    for baseline in (True, False):
        table = torch.zeros(1, 4, requires_grad=True)

        def critic(observations, asked, table=table):
            return table[:, asked[:, 0].long()]

        optimiser = torch.optim.SGD([table], lr=0.1)
        candidates = Candidates(*(actions[[index]].repeat(5, 1) for index in (0, 1, 2, 3)))
        for _ in range(200):
            optimiser.zero_grad()
            mex_loss(critic, torch.zeros(5, 1), torch.zeros(5), candidates, eta=0.1, baseline=baseline).total.backward()
            optimiser.step()
        ends[baseline] = table.detach()[0]
    assert ends[True][1] > 0.5
    assert (ends[True][2:] < 0).all()
    assert (ends[False][2:] == 0).all()
    assert ends[True].mean() < 0.5 * ends[False].mean()


class Line(torch.nn.Module):
    """A policy that always does the same."""

    def __init__(self, action):
        super().__init__()
        self.action = action

    def act(self, observations, deterministic=False):
        return torch.full((len(observations), 2), self.action)


def test_the_term_in_an_off_policy_loop_is_the_promise_of_its_batch():
    critic, observations, candidates = setting(double=False)
    batch = Batch(observations, candidates.taken, torch.zeros(6), observations + 1, torch.ones(6))
    update = Update(batch, critic(observations, candidates.taken), critic, Line(0.5))
    torch.manual_seed(3)
    term = OptimisticCriticTerm(eta=0.2)(update)
    torch.manual_seed(3)
    same = torch.full((6, 2), 0.5)
    asked = Candidates(candidates.taken, same, same, torch.rand(6, 2) * 2 - 1)
    torch.testing.assert_close(term, -0.2 * promise_of(critic, observations, asked).mean(1).sum())
    assert OptimisticCriticTerm(eta=0.0)(update) == 0


def test_without_weight_it_is_td3_to_the_bit():
    gymnasium = pytest.importorskip("gymnasium")
    task = GymEnvironment("pendulum", lambda: gymnasium.make("Pendulum-v1", max_episode_steps=20))
    ends = []
    for term in (None, OptimisticCriticTerm(eta=0.0), OptimisticCriticTerm(eta=0.05)):
        parts = td3(hidden=(8,))
        loop = OffPolicy(**parts, critic_term=term, batch=8, learning_starts=20, episodes=1, points=1)
        ends.append([point.score for point in loop.run(task, 60, 0)])
    assert ends[0] == ends[1]
    assert ends[0] != ends[2]


# --- with a model ----------------------------------------------------------------------------------------------------


def model_of(mean, deviation=0.5):
    """The same Gaussian outcome everywhere: next observation and reward."""

    def model(observations, actions):
        return Independent(Normal(mean.expand(len(observations), 2), deviation), 1)

    return model


def test_the_score_function_moves_the_mean_along_the_slope_of_the_value():
    """A linear value on a Gaussian: standardised, the derivative by the mean is 1 / deviation, whatever the slope."""
    mean = torch.zeros(2, requires_grad=True)

    def critic(observations, actions):
        return 3.0 * observations.T.repeat(2, 1)

    def policy(observations):
        return torch.zeros(len(observations), 1)

    def model(observations, actions):  # the reward is sure
        return Independent(Normal(mean.expand(len(observations), 2), torch.tensor([0.5, 1e-6])), 1)

    torch.manual_seed(0)
    term = OptimisticModelTerm(coef=1.0, gamma=0.9)(model, critic, policy, torch.zeros(100_000, 1))
    (gradient,) = torch.autograd.grad(term, mean)
    assert gradient[0].item() == pytest.approx(-1 / 0.5, abs=0.03)


def test_where_all_outcomes_are_worth_the_same_the_model_is_left_alone():
    mean = torch.zeros(2, requires_grad=True)

    def model(observations, actions):
        return Independent(Normal(mean.expand(len(observations), 2), torch.tensor([0.5, 1e-9])), 1)

    def critic(observations, actions):
        return torch.zeros(2, len(observations))

    class Sure(Independent):
        def sample(self, shape=()):
            drawn = super().sample(shape)
            drawn[..., -1] = 1.0
            return drawn

    term = OptimisticModelTerm()(
        lambda observations, actions: Sure(model(observations, actions).base_dist, 1),
        critic,
        lambda observations: torch.zeros(len(observations), 1),
        torch.zeros(64, 1),
    )
    assert torch.autograd.grad(term, mean)[0].tolist() == [0.0, 0.0]


def test_densities_of_each_dimension_are_summed():
    mean, observations = torch.zeros(2), torch.zeros(32, 1)

    def critic(observations, actions):
        return observations.T

    def policy(observations):
        return torch.zeros(len(observations), 1)

    terms = []
    for model in (
        model_of(mean),
        lambda observations, actions: Normal(mean.expand(len(observations), 2), 0.5),
    ):
        torch.manual_seed(1)
        terms.append(OptimisticModelTerm(coef=2.0)(model, critic, policy, observations))
    torch.testing.assert_close(*terms)


def test_a_standardised_advantage_has_no_mean_and_unit_deviation():
    made = standardised(torch.randn(1000) * 7 + 3)
    assert made.mean().item() == pytest.approx(0, abs=1e-5)
    assert made.square().mean().item() == pytest.approx(1, abs=1e-4)


def wrong_values(observations, actions):
    return actions[:, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda c, o, a: mex_loss(c, o, torch.zeros(6, dtype=torch.float64), a, eta=-1),
            "mex: the weight must be 0 or more",
        ),
        (lambda c, o, a: mex_loss(c, o, torch.zeros(5), a), "the target must be finite, one number for each of 6"),
        (lambda c, o, a: mex_loss(c, o, torch.full((6,), math.nan), a), "the target must be finite"),
        (lambda c, o, a: promise_of(wrong_values, o, a), r"values of shape \(members, batch\)"),
        (
            lambda c, o, a: promise_of(c, o, Candidates(a.taken, a.policy, a.successor[:3], a.random)),
            r"the successor actions must be \(batch, actions\) for 6 observations; they are \(3, 2\)",
        ),
        (lambda c, o, a: promise_of(c, o[:3], a), "actions must be .* for 3 observations"),
        (lambda c, o, a: OptimisticCriticTerm(eta=math.nan), "mex critic term: the weight must be 0 or more"),
        (lambda c, o, a: OptimisticModelTerm(coef=-1), "mex model term: the weight must be 0 or more"),
        (lambda c, o, a: OptimisticModelTerm(gamma=2), r"gamma must lie in \[0, 1\]"),
        (
            lambda c, o, a: OptimisticModelTerm()(lambda o, a: o, c, lambda o: a.policy, o),
            "the model must give a distribution, it gave a Tensor; a deterministic model has no log-density",
        ),
        (
            lambda c, o, a: OptimisticModelTerm()(lambda o, a: Normal(o, 1.0), c, lambda o: a.policy, o),
            r"next observation and reward side by side, \(6, 4\); it gave \(6, 3\)",
        ),
    ],
)
def test_what_cannot_be_is_one_clear_line(make, message):
    with pytest.raises(FewerError, match=message):
        make(*setting())
