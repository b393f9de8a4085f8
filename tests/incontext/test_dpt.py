"""The agent: it learns from the prompt what the best arm is, acts in Gymnasium's way, keeps its weights, refuses nonsense."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from fewer.core.errors import FewerError
from fewer.incontext.bandits import Bandit
from fewer.incontext.dark_room import DarkRoom
from fewer.incontext.decisions import Decisions, Transitions, as_tokens
from fewer.incontext.dpt import DecisionPretrained
from fewer.incontext.interactions import Recorded
from fewer.incontext.loop import LearnToLearn, Prompts, frozen
from fewer.incontext.networks import LSTM, Around, Transformer
from fewer.models.optimisers import AdamW

gymnasium = pytest.importorskip("gymnasium")
SMALL = Transformer(8, 1, 1)


class Corridor(gymnasium.Env):
    """Three cells in a row; the world's seed says at which end it pays."""

    observation_space = gymnasium.spaces.Discrete(3)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, seed=0):
        self.right, self.place, self.steps = seed % 2, 1, 0

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = 1, 0
        return self.place, {}

    def step(self, action):
        self.steps += 1
        self.place = int(np.clip(self.place + 2 * action - 1, 0, 2))
        return self.place, float(self.place == 2 * self.right), False, self.steps == 4, {}


def best(env, observation):
    return env.right


@pytest.fixture(scope="module")
def agent():
    return DecisionPretrained(network=SMALL, batch=8).fit(Bandit(arms=3, context=6), steps=5)


# --- what it learns --------------------------------------------------------------------------------------------------


class TwoArms(Decisions):
    """Two arms that pay 0 or 1, with independent uniform chances: the best arm's probability is an integral."""

    name, metric = "two arms", "none"

    def __init__(self, context):
        super().__init__(1, 2, context)

    def fingerprint(self):
        return self.name

    def collected(self, count, generator):
        chances = torch.rand(count, 2, generator=generator)
        pulls = torch.randint(2, (count, self.context), generator=generator)
        paid = (torch.rand(pulls.shape, generator=generator) < chances.gather(1, pulls)).float()
        return chances, pulls, paid

    def tokens(self, pulls, paid):
        ones = torch.ones(*pulls.shape, 1)
        return as_tokens(torch.ones(len(pulls), 1), Transitions(ones, pulls, ones, paid), 2)

    def sample(self, count, generator):
        chances, pulls, paid = self.collected(count, generator)
        return Prompts(self.tokens(pulls, paid), nn.functional.one_hot(chances.argmax(-1), 2).float())

    def evaluate(self, predict, seed):
        return 0.0, {}


def chance_that_the_first_is_best(pulls, paid):
    """By summation over a grid of both chances."""
    grid = (np.arange(400) + 0.5) / 400
    densities = []
    for arm in range(2):
        wins = (paid * (pulls == arm)).sum(-1)[..., None]
        losses = ((1 - paid) * (pulls == arm)).sum(-1)[..., None]
        density = grid**wins * (1 - grid) ** losses
        densities.append(density / density.sum(-1, keepdims=True))
    below = np.concatenate([np.zeros_like(densities[1][..., :1]), densities[1].cumsum(-1)[..., :-1]], -1)
    return (densities[0] * (below + densities[1] / 2)).sum(-1)


def test_its_answer_is_the_posterior_probability_of_being_best():
    family = TwoArms(context=6)
    loop = LearnToLearn(network=Transformer(32, 2, 1), optimiser=AdamW(5e-3, 1e-4), batch=64, points=1)
    network = loop.learn(family, 64 * 250).result
    _, pulls, paid = family.collected(400, torch.Generator().manual_seed(1))
    said = frozen(network)(Prompts(family.tokens(pulls, paid), paid)).softmax(-1)[..., 0].numpy()
    errors = []
    for seen in range(7):
        true = chance_that_the_first_is_best(pulls[:, :seen].numpy(), paid[:, :seen].numpy())
        errors.append(np.abs(said[:, seen] - true).mean())
    assert np.mean(errors) < 0.05
    assert np.abs(0.5 - true).mean() > 0.15  # what saying nothing would cost


def test_the_posterior_of_one_win_is_known():
    one = chance_that_the_first_is_best(np.array([[0]]), np.array([[1.0]]))
    assert one[0] == pytest.approx(2 / 3, abs=1e-3)


# --- acting ----------------------------------------------------------------------------------------------------------


def test_step_by_step_is_the_same_as_the_whole_prompt(agent):
    agent.reset_context()
    family = Bandit(arms=3, context=6)
    generator = torch.Generator().manual_seed(0)
    pulls = torch.randint(3, (1, 6), generator=generator)
    paid = torch.randn(1, 6, generator=generator)
    tokens = family.prompts(pulls, paid)
    chances = frozen(agent.network_)(Prompts(tokens, tokens))[0].softmax(-1).numpy()
    for step in range(6):
        np.testing.assert_allclose(agent.probabilities([1.0]), chances[step], atol=1e-6)
        agent.observe([1.0], int(pulls[0, step]), [1.0], float(paid[0, step]))
    np.testing.assert_allclose(agent.probabilities([1.0]), chances[6], atol=1e-6)
    assert agent.act([1.0], greedy=True) == chances[6].argmax()


def test_actions_are_drawn_from_its_answer(agent):
    agent.reset_context()
    chances = agent.probabilities([1.0])
    drawn = np.bincount([agent.act([1.0]) for _ in range(600)], minlength=3) / 600
    np.testing.assert_allclose(drawn, chances, atol=0.07)


def test_given_data_is_a_context(agent):
    rng = np.random.default_rng(0)
    given = {
        "states": np.ones((5, 1)),
        "actions": rng.integers(3, size=5),
        "next_states": np.ones((5, 1)),
        "rewards": rng.normal(size=5),
    }
    agent.context = given
    chances = agent.probabilities([1.0])
    agent.reset_context()
    assert len(agent.context["rewards"]) == 0
    for action, reward in zip(given["actions"], given["rewards"], strict=True):
        agent.observe([1.0], int(action), [1.0], reward)
    np.testing.assert_array_equal(agent.probabilities([1.0]), chances)
    for name, column in agent.context.items():
        np.testing.assert_allclose(column, given[name], atol=1e-6)
    with pytest.raises(FewerError, match="a context needs states, actions, next_states, rewards; 'rewards' is missing"):
        agent.context = {name: column for name, column in given.items() if name != "rewards"}
    with pytest.raises(FewerError, match=r"the columns of a context have \[5, 5, 5, 2\] rows"):
        agent.context = {**given, "rewards": [0.0, 1.0]}


def test_the_oldest_are_forgotten_with_one_warning():
    agent = DecisionPretrained(network=SMALL, batch=8).fit(Bandit(arms=3, context=4), steps=1)
    for step in range(4):
        agent.observe([1.0], 0, [1.0], float(step))
    with pytest.warns(UserWarning, match=r"longer than the 4 transitions .* the oldest are forgotten"):
        agent.observe([1.0], 0, [1.0], 4.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.observe([1.0], 0, [1.0], 5.0)
    assert agent.context["rewards"].tolist() == [2, 3, 4, 5]


def test_episodes_join_when_they_are_over():
    agent = DecisionPretrained(network=SMALL, batch=8, update="episode").fit(DarkRoom(size=3, context=9), steps=1)
    before = agent.probabilities([0.0, 1.0])
    agent.observe([0.0, 1.0], 0, [1.0, 1.0], 1.0)
    np.testing.assert_array_equal(agent.probabilities([0.0, 1.0]), before)
    agent.observe([1.0, 1.0], 4, [1.0, 1.0], 1.0, done=True)
    assert len(agent.context["rewards"]) == 2
    assert not np.array_equal(agent.probabilities([0.0, 1.0]), before)


def test_it_learns_and_acts_in_gymnasium():
    """Which end pays is seen after an episode, and then it walks there."""
    agent = DecisionPretrained(
        Corridor.observation_space,
        Corridor.action_space,
        context_len=8,
        network=Transformer(16, 2, 1),
        optimiser=AdamW(5e-3),
        batch=32,
        update="episode",
    )
    agent.fit(Corridor, steps=120, optimal_action=best, worlds=200)
    assert agent.curve_.final > 0.9
    returns = agent.returns(Corridor, worlds=10, episodes=2)
    assert returns.shape == (10, 2)
    assert returns[:, 1].mean() > 3.3
    agent.reset_context()
    agent.observe(1, 1, 2, 1.0, done=True)
    assert agent.act(1, greedy=True) == 1
    agent.context = agent.context  # states that are vectors already are taken as they are
    assert agent.act(1, greedy=True) == 1


def test_recorded_worlds_are_enough():
    rng = np.random.default_rng(0)
    columns = {
        "states": np.ones((20, 5)),
        "actions": rng.integers(2, size=(20, 5)),
        "next_states": np.ones((20, 5)),
        "rewards": 100 + 10 * rng.normal(size=(20, 5)),
        "queries": np.ones((20, 1)),
        "optimal": rng.integers(2, size=20),
    }
    agent = DecisionPretrained(network=SMALL, batch=4).fit(columns, steps=2)
    assert agent.reward_scale_ == pytest.approx((columns["rewards"].mean(), columns["rewards"].std()))
    assert agent.context_len_ == 5
    same = DecisionPretrained(network=SMALL, batch=4).fit(Recorded(columns), steps=2)
    np.testing.assert_array_equal(same.probabilities([1.0]), agent.probabilities([1.0]))


def test_a_minari_dataset_is_a_context(agent):
    class Episode:
        observations = np.ones((3, 1))
        actions = np.array([0, 2])
        rewards = np.array([0.5, 0.7])

    class Dataset:
        def iterate_episodes(self):
            return iter([Episode, Episode])

    agent.context = Dataset()
    assert agent.context["actions"].tolist() == [0, 2, 0, 2]


# --- files and errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [SMALL, LSTM(8)])
def test_weights_are_kept_to_the_bit(tmp_path, network):
    made = DecisionPretrained(network=network, batch=8, update="episode").fit(Bandit(arms=3, context=6), steps=2)
    file = tmp_path / "weights.safetensors"
    made.save(file)
    again = DecisionPretrained.load(file)
    assert (again.network, again.update, again.context_len_) == (network, "episode", 6)
    for each in (made, again):
        each.observe([1.0], 2, [1.0], 0.3, done=True)
    np.testing.assert_array_equal(again.probabilities([1.0]), made.probabilities([1.0]))


def test_weights_of_another_kind_are_refused(tmp_path, agent):
    from fewer.core import checkpoint
    from fewer.incontext.boolean_icl import InContextLearner
    from fewer.incontext.weights import kind_of, spec_of

    file = tmp_path / "weights.safetensors"
    agent.save(file)
    assert kind_of(file) == "DecisionPretrained"
    with pytest.raises(FewerError, match="holds DecisionPretrained, not InContextLearner"):
        InContextLearner.load(file)
    with pytest.raises(FewerError, match="do not fit Transformer"):
        DecisionPretrained.load(file, network=Transformer(16, 1, 1))
    checkpoint.save(file, [1, 2])
    with pytest.raises(FewerError, match="holds something else, not DecisionPretrained"):
        DecisionPretrained.load(file)
    file.write_bytes(b"nothing")
    with pytest.raises(FewerError, match="is damaged"):
        DecisionPretrained.load(file)
    with pytest.raises(FewerError, match="no checkpoint at"):
        DecisionPretrained.load(tmp_path / "none")
    assert spec_of(Around(nn.Identity(), 4)) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda agent: agent.observe([1.0], 3, [1.0], 0.0), "an action is a whole number from 0 to 2; 3 was given"),
        (lambda agent: agent.observe([1.0], 0.5, [1.0], 0.0), "an action is a whole number"),
        (lambda agent: agent.observe([1.0], 0, [1.0], np.nan), "a reward must be a finite number; nan was given"),
        (lambda agent: agent.act([1.0, 2.0]), r"a state has 1 finite numbers; given \(2,\)"),
        (lambda agent: agent.act([np.nan]), "a state has 1 finite numbers"),
        (lambda agent: DecisionPretrained().act([1.0]), "not trained; call fit, or load weights"),
        (lambda agent: DecisionPretrained(update="day"), "update must be 'step' or 'episode'; 'day' was given"),
        (lambda agent: DecisionPretrained(context_len=0), "context_len must be at least 1"),
        (
            lambda agent: DecisionPretrained(action_space=gymnasium.spaces.Box(-1, 1)),
            "actions must be discrete; they are Box",
        ),
        (lambda agent: DecisionPretrained().fit(Bandit(), steps=0), "at least one step is needed"),
        (lambda agent: DecisionPretrained().fit(3), "give a family, recorded worlds or a function from a seed"),
        (lambda agent: DecisionPretrained().fit(Corridor), r"environments need optimal_action\(env, observation\)"),
        (
            lambda agent: DecisionPretrained(context_len=7).fit(Bandit()),
            "context_len is 7, but .* hold 100 transitions",
        ),
        (
            lambda agent: DecisionPretrained(action_space=gymnasium.spaces.Discrete(4)).fit(Bandit()),
            "the action space has 4 actions, bandit.* has 5",
        ),
    ],
)
def test_errors(agent, call, message):
    with pytest.raises(FewerError, match=message):
        call(agent)
