"""Groups of actions in Gymnasium environments."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("gymnasium")

import gymnasium
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from gymnasium.utils.env_checker import check_env
from scipy.stats import chisquare

from fewer.core.errors import FewerError
from fewer.explore.grouped_actions import GroupedActions, NumberedActions
from fewer.explore.groupings import ActionGrouping, halved, merged


class Recorder(gymnasium.Env):
    """Remembers what is played; its state counts up, and it may say what is possible."""

    def __init__(self, action_space, observation_space=None, mask=None):
        self.action_space = action_space
        self.observation_space = observation_space or Discrete(3, start=5)
        self.mask, self.played = mask, []

    def _info(self):
        return {} if self.mask is None else {"action_mask": self.mask[(self.time) % len(self.mask)]}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return 5, self._info()

    def step(self, action):
        assert self.action_space.contains(action), action
        self.played.append(action)
        self.time += 1
        return 5 + self.time % 3, 0.0, False, False, self._info()


SPACES = [Discrete(6, start=-2), MultiDiscrete([2, 3]), MultiDiscrete([[2], [3]], start=[[1], [0]]), Box(-1, 3, (2,))]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_numbers_are_one_to_one_with_actions_of_the_space(space):
    numbered = NumberedActions.of(space, bins=3)
    actions = [numbered.action(number) for number in range(numbered.count)]
    assert all(space.contains(action) for action in actions)
    assert len({np.asarray(action).tobytes() for action in actions}) == numbered.count
    assert numbered.features.shape == (numbered.count, len(numbered.axes))
    assert (numbered.features.min(), numbered.features.max()) == (0, 1)
    # features lie as the actions do
    flat = np.stack([np.ravel(action) for action in actions]).astype(float)
    scaled = (flat - flat.min(axis=0)) / np.ptp(flat, axis=0)
    np.testing.assert_allclose(numbered.features, scaled, atol=1e-6)


def test_a_box_is_cut_into_bins_of_equal_width():
    numbered = NumberedActions.of(Box(np.array([0.0, -2.0]), np.array([1.0, 2.0]), dtype=np.float64), bins=4)
    assert numbered.axes[0].tolist() == [0.125, 0.375, 0.625, 0.875]
    assert numbered.axes[1].tolist() == [-1.5, -0.5, 0.5, 1.5]
    assert numbered.action(6).tolist() == [0.375, 0.5]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_every_action_of_a_group_is_played_and_as_often(space):
    env = Recorder(space)
    count = NumberedActions.of(space, 3).count
    grouped = GroupedActions(env, ActionGrouping(np.arange(count) % 2), bins=3)
    grouped.reset(seed=0)
    for _ in range(1500):
        grouped.step(1)
    odd = [np.asarray(grouped.numbered.action(number)).tobytes() for number in range(1, count, 2)]
    times = [sum(np.asarray(action).tobytes() == each for action in env.played) for each in odd]
    assert sum(times) == 1500
    assert chisquare(times).pvalue > 0.001


def test_episodes_with_one_seed_are_the_same():
    env = Recorder(Discrete(20))
    grouped = GroupedActions(env, halved(20, (2,))[0])
    played = []
    for seed in (3, 3, 4):
        grouped.reset(seed=seed)
        env.played.clear()
        for step in range(30):
            grouped.step(step % 2)
        played.append(list(env.played))
    assert played[0] == played[1] != played[2]


def test_only_what_is_possible_is_played_and_groups_are_masked_alike():
    mask = np.array([[1, 0, 0, 0], [0, 1, 1, 1], [0, 0, 0, 1]], dtype=np.int8)
    env = Recorder(Discrete(4), mask=mask)
    grouped = GroupedActions(env, ActionGrouping([0, 0, 1, 1]))
    _, info = grouped.reset()
    for time in range(300):
        assert info["action_mask"].tolist() == [[1, 0], [1, 1], [0, 1]][time % 3]
        with_member = np.flatnonzero(info["action_mask"])
        _, _, _, _, info = grouped.step(int(with_member[-1]))
        assert mask[time % 3][env.played[-1]] == 1
    grouped.reset()
    with pytest.raises(FewerError, match="no action of group 1 is possible now; choose among those of info"):
        grouped.step(1)
    with pytest.raises(FewerError, match=r'info\["action_mask"\] has 4 entries, and there are 5 actions'):
        GroupedActions(Recorder(Discrete(5), mask=mask), ActionGrouping([0] * 5)).reset()


def test_a_partition_for_each_state_follows_the_observation():
    labels = [[0, 1, 1], [1, 0, 0], [0, 0, -1]]
    env = Recorder(Discrete(3))
    grouped = GroupedActions(env, ActionGrouping(labels))
    _, info = grouped.reset()
    assert "action_mask" not in info
    for time in range(300):
        _, _, _, _, info = grouped.step(0)
        assert labels[time % 3][env.played[-1]] == 0
        if (time + 1) % 3 == 2:
            assert info["action_mask"].tolist() == [1, 0]  # group 1 is nowhere in state 2
    grouped.reset()
    grouped.step(1), grouped.step(1)
    with pytest.raises(FewerError, match="group 1 has no member in state 2"):
        grouped.step(1)


def test_an_environment_of_gymnasium_stays_one():
    env = gymnasium.make("Pendulum-v1")
    family = merged(NumberedActions.of(env.action_space, 9).features, (3,))
    grouped = GroupedActions(env, family[0], bins=9)
    assert grouped.action_space == Discrete(3)
    check_env(grouped, skip_render_check=True)
    assert grouped.spec.additional_wrappers[-1].kwargs["bins"] == 9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NumberedActions.of(MultiBinary(3)), "needs Discrete, MultiDiscrete or bounded Box actions"),
        (lambda: NumberedActions.of(Box(-np.inf, np.inf, (1,))), "bounded Box actions; these are Box"),
        (lambda: NumberedActions.of(Box(0, 1, (1,)), bins=0), "bins must be at least 1; 0 was given"),
        (
            lambda: GroupedActions(Recorder(Discrete(4)), ActionGrouping([0, 0])),
            "GroupedActions: the grouping is of 2 actions, and there are 4 actions",
        ),
        (
            lambda: GroupedActions(Recorder(Discrete(2), Dict(a=Discrete(2))), ActionGrouping([[0, 0], [0, 1]])),
            "a partition for each state needs Discrete observations; these are Dict",
        ),
        (
            lambda: GroupedActions(Recorder(Discrete(2)), ActionGrouping([[0, 0], [0, 1]])),
            "of 2 actions in 2 states, and there are 2 actions in 3 states",
        ),
        (lambda: GroupedActions(Recorder(Discrete(2)), ActionGrouping([0, 1])).action(2), "groups are whole numbers"),
    ],
)
def test_what_cannot_be_is_one_clear_line(make, message):
    with pytest.raises(FewerError, match=message):
        make()
