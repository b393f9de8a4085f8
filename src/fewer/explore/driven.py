"""Agents in a loop of your own: reset, act, observe.

The loops of this room play many copies at once in worlds they know the shape of.  Where the world is yours to step, a
simulator, a game, people, these put one agent at your disposal, one step at a time.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from fewer.core.errors import FewerError
from fewer.core.seeding import generator
from fewer.explore import average_reward
from fewer.explore.loop import Account, Agent, Episode
from fewer.explore.planning import draw


class EpisodicAgent:
    """An agent for episodes of numbered states and actions.

    Parameters
    ----------
    agent : Agent
        Any that fills the slot ``agent`` of :class:`~fewer.explore.Exploration`: ``UCBVI()``, ``PSRL()``, ``MEX()``.
    states, actions, horizon : int
        Sizes of the world, and the most steps of an episode.
    episodes : int, default 1000
        Planned in all; bounds and schedules of some agents depend on it.
    rewards : (float, float), default (0, 1)
        Least and greatest reward of a step.
    seed : int, default 0
        Of the agent's randomness.

    Examples
    --------
    >>> from fewer.explore import PSRL
    >>> agent = EpisodicAgent(PSRL(), states=2, actions=2, horizon=3)
    >>> for _ in range(20):
    ...     state = agent.reset(0)
    ...     for _ in range(3):
    ...         action = agent.act()
    ...         agent.observe(reward=float(action == 1), state=0)
    >>> agent.policy()[0, 0].argmax()
    np.int64(1)
    """

    def __init__(
        self,
        agent: Agent,
        states: int,
        actions: int,
        horizon: int,
        episodes: int = 1000,
        rewards: tuple[float, float] = (0.0, 1.0),
        seed: int = 0,
    ) -> None:
        if min(states, actions, horizon, episodes) < 1 or not rewards[0] < rewards[1]:
            raise FewerError(
                f"agent: states, actions, horizon and episodes must be at least 1 and rewards a range; given {states}, "
                f"{actions}, {horizon}, {episodes} and {rewards}"
            )
        self.agent, self.states, self.horizon, self.rewards = agent, states, horizon, rewards
        self._account = Account(1, states, actions, horizon, rewards, episodes, 0, generator(seed, "agent"))
        self._choices = generator(seed, "actions")
        agent.begin(self._account)
        self._visited: list[int] = []
        self._done: list[int] = []
        self._paid: list[float] = []
        self._over = True

    def reset(self, state: int) -> None:
        """Begin an episode; one that was not over is taken to end here.

        Parameters
        ----------
        state : int
            Where it begins.
        """
        self._finish()
        self._visited, self._done, self._paid = [self._checked(state)], [], []
        self._plan, self._over = self.agent.plan(self._account), False

    def act(self) -> int:
        """What to do now."""
        if self._over:
            raise FewerError("agent: there is no episode in which to act; call reset(state) first")
        if len(self._done) > len(self._paid):
            raise FewerError("agent: it has acted and waits for what came of it; call observe(reward, state)")
        probabilities = self._plan[:, len(self._done), self._visited[-1]]
        self._done.append(int(draw(probabilities, self._choices)[0]))
        return self._done[-1]

    def observe(self, reward: float, state: int, over: bool = False) -> None:
        """What came of it.

        Parameters
        ----------
        reward : float
            What it paid.
        state : int
            Where it led.
        over : bool, default False
            Whether the episode ended before its horizon.
        """
        if len(self._done) != len(self._paid) + 1:
            raise FewerError("agent: nothing was done that this could have come of; call act() first")
        low, high = self.rewards
        if not low <= reward <= high:
            raise FewerError(f"agent: the reward {reward} is outside of [{low:g}, {high:g}]; give rewards=(low, high)")
        self._paid.append(float(reward))
        self._visited.append(self._checked(state))
        if over or len(self._done) == self.horizon:
            self._finish()

    def policy(self) -> Float[np.ndarray, "horizon states actions"]:
        """What it recommends by now: probabilities of actions for each step and state."""
        return getattr(self.agent, "recommend", self.agent.plan)(self._account)[0]

    def _checked(self, state: int) -> int:
        if not 0 <= int(state) < self.states or int(state) != state:
            raise FewerError(f"agent: there is no state {state}; there are {self.states}, counted from 0")
        return int(state)

    def _finish(self) -> None:
        if self._over:
            return
        self._over = True
        done = self._done[: len(self._paid)]
        if not done:
            return
        # an episode that ended early stays where it ended, without reward, as in the loops of this room
        while len(done) < self.horizon:
            done.append(int(draw(self._plan[:, len(done), self._visited[-1]], self._choices)[0]))
            self._visited.append(self._visited[-1])
            self._paid.append(0.0)
        self.agent.learn(self._account, Episode(np.array([self._visited]), np.array([done]), np.array([self._paid])))
        self._account.played += 1


class EndlessAgent:
    """An agent for one stream of numbered states and actions without end.

    Parameters
    ----------
    agent : Agent
        Any that fills the slot ``agent`` of :class:`~fewer.explore.AverageReward`: ``UCRL2()``, ``LOOP(hypotheses)``.
    states, actions : int
        Sizes of the world.
    steps : int, default 100,000
        Planned in all.
    rewards : (float, float), default (0, 1)
        Least and greatest reward of a step.
    seed : int, default 0
        Of the agent's randomness.

    Examples
    --------
    >>> from fewer.explore import UCRL2
    >>> agent = EndlessAgent(UCRL2(scale=0.01), states=1, actions=2)
    >>> agent.reset(0)
    >>> for _ in range(200):
    ...     action = agent.act()
    ...     agent.observe(reward=float(action == 1), state=0)
    >>> agent.act()
    1
    """

    def __init__(
        self,
        agent: average_reward.Agent,
        states: int,
        actions: int,
        steps: int = 100_000,
        rewards: tuple[float, float] = (0.0, 1.0),
        seed: int = 0,
    ) -> None:
        if min(states, actions, steps) < 1 or not rewards[0] < rewards[1]:
            raise FewerError(
                f"agent: states, actions and steps must be at least 1 and rewards a range; given {states}, {actions}, {steps} "
                f"and {rewards}"
            )
        self.agent, self.states, self.rewards = agent, states, rewards
        self._account = average_reward.Account(1, states, actions, rewards, steps, 0, generator(seed, "agent"))
        agent.begin(self._account)
        self._at: int | None = None
        self._did: int | None = None

    def reset(self, state: int) -> None:
        """Say where the stream is, at its beginning or after a jump of which nothing is to be learned."""
        self._at, self._did = self._checked(state), None

    def act(self) -> int:
        """What to do now."""
        if self._at is None:
            raise FewerError("agent: it does not know where it is; call reset(state) first")
        if self._did is not None:
            raise FewerError("agent: it has acted and waits for what came of it; call observe(reward, state)")
        self._did = int(self.agent.plan(self._account)[0, self._at])
        return self._did

    def observe(self, reward: float, state: int) -> None:
        """What came of it: what it paid, and where it led."""
        if self._did is None or self._at is None:
            raise FewerError("agent: nothing was done that this could have come of; call act() first")
        low, high = self.rewards
        if not low <= reward <= high:
            raise FewerError(f"agent: the reward {reward} is outside of [{low:g}, {high:g}]; give rewards=(low, high)")
        following = self._checked(state)
        step = average_reward.Step(
            np.array([self._at]), np.array([self._did]), np.array([float(reward)]), np.array([following])
        )
        self.agent.learn(self._account, step)
        self._account.taken += 1
        self._at, self._did = following, None

    def _checked(self, state: int) -> int:
        if not 0 <= int(state) < self.states or int(state) != state:
            raise FewerError(f"agent: there is no state {state}; there are {self.states}, counted from 0")
        return int(state)
