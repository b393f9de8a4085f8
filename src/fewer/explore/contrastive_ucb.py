"""Contrastive UCB: learn what tells true next states from others, and explore where those features are uncertain.

If transitions are of low rank, P_h(s'|s, a) = psi_h(s') . phi_h(s, a), a classifier that tells true next states from
independent ones must learn exactly that product (:mod:`fewer.explore.contrastive_features`).  The agent learns it from its
own data, plans in the learned model with the elliptic bonus of the learned features, and acts greedily.

A round plays two episodes for each step h with the present policy: one acts at random in step h, the other in steps h - 1
and h, and of each the transition of step h is kept, in D_h and in D~_h.  Networks for phi and psi, other ones for each step,
tell the next states of both sets from draws of P-, uniform over the states that may come next.  Then::

    Phat_h(s'|s, a) ~ P-(s') psi_h(s') . phi_h(s, a),                     normalised over s'
    Sigma_h = ridge I + sum over D_h of phi phi^T,   b_h = min(bonus * |phi_h(s, a)|_{Sigma_h^-1}, H)
    Q_h = min(r + b_h + Phat_h V_{h+1}, H),   V_h = max_a Q_h

Where rewards are not told, networks of their own learn their means from the same data.

In a game of two players, whose actions are pairs, upper values take + b_h and lower ones - b_h, a coarse correlated
equilibrium of both is played, and its marginals are handed on.

For deep agents, :class:`fewer.explore.elliptic.ReplayBonus` is the bonus that is added to their n-step returns.

References
----------
Shuang Qiu, Lingxiao Wang, Chenjia Bai, Zhuoran Yang and Zhaoran Wang, "Contrastive UCB: Provably Efficient Contrastive
Self-Supervised Learning in Online Reinforcement Learning", ICML 2022, arXiv:2207.14800.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.claim import Claim, Measures, Tiny, higher, identical, lower, ratio
from fewer.core.errors import FewerError
from fewer.core.seeding import generator
from fewer.explore.contrastive_features import ContrastiveFeatures, side_by_side
from fewer.explore.elliptic import EllipticBonus
from fewer.explore.least_squares import LSVIUCB
from fewer.explore.loop import Account, Episode, Exploration, play_episode
from fewer.explore.low_rank_worlds import Lock, build_lock, rich_game, rich_lock
from fewer.explore.markov_games import coarse_correlated, marginals
from fewer.explore.planning import greedy, mix
from fewer.explore.ucbvi import UCBVI
from fewer.explore.worlds import Episodic


@dataclass(frozen=True)
class ContrastiveUCB:
    """Explore by contrastive features of what states look like.

    Where states look like nothing but their numbers, each has an embedding of its own: nothing carries over from one state
    to another, and the method loses its point.

    Parameters
    ----------
    bonus : float, default 0.5
        Gamma, the factor of the bonus; 0 believes the learned model.
    ridge : float, default 1
        Of the bonus; positive.
    dimensions : int, default 4
        Of the features.
    hidden : int, default 32
        Width of the networks.
    refit : int, default 20
        Rounds of ``2 * horizon`` episodes between one plan and the next.
    steps : int, default 100
        Gradient steps before each plan, from the weights as they are.
    batch : int, default 256
        Transitions a gradient step.
    lr : float, default 1e-2
        Of Adam.
    epsilon : float, default 0
        Share of random actions on the way.

    Raises
    ------
    FewerError
        If a number is out of its range.

    Examples
    --------
    >>> from fewer.explore import Exploration
    >>> from fewer.explore.low_rank_worlds import rich_lock
    >>> lock = rich_lock(horizon=2, symbols=4)
    >>> learned = Exploration(ContrastiveUCB(refit=10), copies=2, points=1).learn(lock, budget=160)
    >>> lock.value(learned.result).round(2)
    array([1., 1.])
    """

    bonus: float = 0.5
    ridge: float = 1.0
    dimensions: int = 4
    hidden: int = 32
    refit: int = 20
    steps: int = 100
    batch: int = 256
    lr: float = 1e-2
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        if not self.bonus >= 0 or not self.ridge > 0 or not self.lr > 0 or not 0 <= self.epsilon <= 1:
            raise FewerError(
                f"contrastive-ucb: bonus must not be negative, ridge and lr be positive and epsilon a share; given "
                f"{self.bonus}, {self.ridge}, {self.lr} and {self.epsilon}"
            )
        if min(self.dimensions, self.hidden, self.refit, self.steps, self.batch) < 1:
            raise FewerError(
                f"contrastive-ucb: dimensions, hidden, refit, steps and batch must be at least 1; given {self.dimensions}, "
                f"{self.hidden}, {self.refit}, {self.steps} and {self.batch}"
            )

    def begin(self, account: Account) -> None:
        """Untrained networks and empty data; the first policy is uniform."""
        if self.dimensions > account.states * account.actions:
            raise FewerError(
                f"contrastive-ucb: {self.dimensions} dimensions are more than the {account.states * account.actions} pairs of "
                "states and actions; take fewer"
            )
        rounds = account.episodes // (2 * account.horizon) + 1
        place = (rounds, account.runs, account.horizon, 2)
        with torch.random.fork_rng(devices=[]):  # the first weights are the run's own, whoever starts it
            torch.manual_seed(int(account.rng.integers(2**62)))
            features = self._features(account)
            reward_weights = {} if account.pays is not None else self._rewards(account).state_dict()
        account.memory |= {
            "rounds": 0,
            "at": np.zeros(place, dtype=np.int64),
            "action": np.zeros(place, dtype=np.int64),
            "after": np.zeros(place, dtype=np.int64),
            "paid": np.zeros(place),
            "policy": np.full((account.runs, account.horizon, account.states, account.actions), 1 / account.actions),
            "weights": features.state_dict(),
            "optimiser": torch.optim.Adam(features.parameters(), lr=self.lr, foreach=True).state_dict(),
            "reward weights": reward_weights,
            "draws": torch.Generator().manual_seed(int(account.rng.integers(2**62))),
        }

    def plan(self, account: Account) -> Float[np.ndarray, "runs horizon states actions"]:
        """The present policy, with a random action in the step that is looked at, and in the one before."""
        second, step = divmod(account.played % (2 * account.horizon), account.horizon)
        played = mix(account.memory["policy"], self.epsilon)
        played[:, max(step - second, 0) : step + 1] = 1 / account.actions
        return played

    def learn(self, account: Account, episode: Episode) -> None:
        """Keep the transition that was looked at; after enough rounds, learn features and plan."""
        memory = account.memory
        second, step = divmod(account.played % (2 * account.horizon), account.horizon)
        place = (memory["rounds"], slice(None), step, second)
        memory["at"][place], memory["after"][place] = episode.states[:, step], episode.states[:, step + 1]
        memory["action"][place], memory["paid"][place] = episode.actions[:, step], episode.rewards[:, step]
        if (account.played + 1) % (2 * account.horizon):
            return
        memory["rounds"] += 1
        if memory["rounds"] % self.refit == 0:
            self._fit(account)
            memory["policy"] = self.optimistic(account, self.bonus)["policy"]

    def recommend(self, account: Account) -> Float[np.ndarray, "runs horizon states actions"]:
        """The best policy of the learned model, without a bonus; in a game, its equilibrium."""
        if account.memory["rounds"] < self.refit:
            return account.memory["policy"]
        return self.optimistic(account, 0.0)["policy"]

    def optimistic(self, account: Account, bonus: float) -> dict[str, np.ndarray]:
        """Plan in the learned model.

        Parameters
        ----------
        account : Account
            Its memory holds the networks and the data.
        bonus : float
            Factor of the bonus.

        Returns
        -------
        dict
            ``policy`` (runs, horizon, states, actions), ``upper`` and, in games, ``lower`` values (runs, horizon + 1,
            states), and ``bonus`` (runs, horizon, states, actions).
        """
        phi, leads, rewards, width = self._model(account)
        low, high = account.rewards
        runs, horizon, states = account.runs, account.horizon, account.states
        upper, lower = np.zeros((2, runs, horizon + 1, states))
        policy = np.empty((runs, horizon, states, account.actions))
        widths = np.minimum(bonus * width, horizon * (high - low))
        reach = leads.sum(axis=-2)  # what makes the learned probabilities sum to one
        for step in range(horizon - 1, -1, -1):
            left = horizon - step
            total = np.einsum("rsad,rd->rsa", phi[:, step], reach[:, step])

            def after(values: np.ndarray, step: int = step, total: np.ndarray = total) -> np.ndarray:
                weight = np.einsum("rnd,rn->rd", leads[:, step], values)
                return np.einsum("rsad,rd->rsa", phi[:, step], weight) / total

            now = np.clip(rewards[:, step] + after(upper[:, step + 1]) + widths[:, step], left * low, left * high)
            if account.players is None:
                policy[:, step], upper[:, step] = greedy(now), now.max(axis=-1)
                continue
            least = np.clip(rewards[:, step] + after(lower[:, step + 1]) - widths[:, step], left * low, left * high)
            policy[:, step] = _equilibria(now, least, account, step)
            upper[:, step] = (policy[:, step] * now).sum(axis=-1)
            lower[:, step] = (policy[:, step] * least).sum(axis=-1)
        if account.players is not None and bonus == 0:
            policy = _product(policy, account.players)
        return {"policy": policy, "upper": upper, "lower": lower, "bonus": widths}

    def transitions(self, account: Account) -> Float[np.ndarray, "runs horizon states actions states"]:
        """The learned model in full, for looking at."""
        phi, leads, _, _ = self._model(account)
        product = np.einsum("rhsad,rhnd->rhsan", phi, leads)
        return product / product.sum(axis=-1, keepdims=True)

    # --- networks ----------------------------------------------------------------------------------------------------

    def _features(self, account: Account) -> ContrastiveFeatures:
        return ContrastiveFeatures(
            self._looks(account).shape[1], account.actions, self.dimensions, self.hidden, account.runs * account.horizon
        )

    def _rewards(self, account: Account) -> nn.Sequential:
        """Mean rewards of all actions from what a state looks like, for worlds that do not tell them."""
        return side_by_side(self._looks(account).shape[1], self.hidden, account.actions, account.runs * account.horizon)

    def _looks(self, account: Account) -> Tensor:
        looks = np.eye(account.states) if account.vectors is None else account.vectors
        return torch.from_numpy(np.asarray(looks, dtype=np.float32))

    def _data(self, account: Account, name: str) -> np.ndarray:
        """One array of the data: rounds, members (runs of steps), both sets."""
        memory = account.memory
        return memory[name][: memory["rounds"]].reshape(memory["rounds"], account.runs * account.horizon, 2)

    def _fit(self, account: Account) -> None:
        memory, looks = account.memory, self._looks(account)
        features = self._features(account)
        features.load_state_dict(memory["weights"])
        optimiser = torch.optim.Adam(features.parameters(), lr=self.lr, foreach=True)
        optimiser.load_state_dict(memory["optimiser"])

        def rows(name: str) -> Tensor:
            return torch.from_numpy(np.moveaxis(self._data(account, name), 2, 1).reshape(-1, features.members))

        others = [np.flatnonzero(_possible(account, step)) for step in range(account.horizon)]
        sizes = torch.tensor([len(each) for each in others])
        pools = torch.stack([looks[np.resize(each, int(sizes.max()))] for each in others], dim=1)
        features.fit(
            looks[rows("at")],
            rows("action"),
            looks[rows("after")],
            pools.repeat(1, account.runs, 1),
            sizes=sizes.repeat(account.runs),
            steps=self.steps,
            batch=self.batch,
            generator=memory["draws"],
            optimiser=optimiser,
        )
        memory["weights"], memory["optimiser"] = features.state_dict(), optimiser.state_dict()
        if account.pays is None:
            self._fit_rewards(account, looks[rows("at")], rows("action"), rows("paid").float())

    def _fit_rewards(self, account: Account, seen: Tensor, actions: Tensor, paid: Tensor) -> None:
        """Least squares, with as many steps as for the features."""
        memory, network = account.memory, self._rewards(account)
        network.load_state_dict(memory["reward weights"])
        optimiser = torch.optim.Adam(network.parameters(), lr=self.lr, foreach=True)
        member = torch.arange(actions.shape[1])
        for _ in range(self.steps):
            drawn = torch.randint(len(paid), (self.batch, len(member)), generator=memory["draws"])
            guess = network(seen[drawn, member]).gather(2, actions[drawn, member][..., None])[..., 0]
            loss = (guess - paid[drawn, member]).square().mean(dim=0).sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        memory["reward weights"] = network.state_dict()

    @torch.inference_mode()
    def _model(self, account: Account) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Features of pairs, of next states (0 where they cannot come), mean rewards and widths."""
        memory, looks = account.memory, self._looks(account)
        features = self._features(account)
        features.load_state_dict(memory["weights"])
        shape = (account.states, account.runs, account.horizon)
        phi = features.every_phi(looks[:, None]).double().unflatten(1, shape[1:]).permute(1, 2, 0, 3, 4)
        psi = features.every_psi(looks[:, None]).double().numpy().reshape(*shape, self.dimensions)
        possible = np.stack([_possible(account, step) for step in range(account.horizon)])
        leads = np.where(possible[None, :, :, None], psi.transpose(1, 2, 0, 3), 0)
        run, step = np.ogrid[: account.runs, : account.horizon]
        at, action = (
            memory[name][: memory["rounds"], :, :, 0].transpose(1, 2, 0) for name in ("at", "action")
        )  # the first set only
        seen = phi[run[..., None], step[..., None], at, action]
        elliptic = EllipticBonus(self.dimensions, self.ridge, (account.runs, account.horizon))
        elliptic.update(seen)
        width = elliptic.value(phi.flatten(2, 3)).unflatten(2, (account.states, account.actions)).numpy()
        if account.pays is not None:
            rewards = np.broadcast_to(account.pays, phi.shape[:-1])
        else:
            network = self._rewards(account)
            network.load_state_dict(memory["reward weights"])
            guess = network(looks[:, None]).double().unflatten(1, shape[1:]).permute(1, 2, 0, 3)
            rewards = np.clip(guess.numpy(), *account.rewards)
        return phi.numpy(), leads, rewards, width


@dataclass(frozen=True)
class CountingRounds(ContrastiveUCB):
    """The same rounds, data and plans with counts of pairs for features: what is left without a representation.

    Each pair's next states are those that came in both sets, or any alike if it was never seen; its bonus is
    ``bonus / sqrt(ridge + n)`` with n its number in the first set, which is that of one-hot features.
    """

    def _fit(self, account: Account) -> None:
        """There is nothing to learn but what is counted."""

    def _model(self, account: Account) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        memory, rounds = account.memory, account.memory["rounds"]
        runs, horizon, states, actions = memory["policy"].shape
        at, action, after = (np.moveaxis(memory[name][:rounds], 0, 2) for name in ("at", "action", "after"))
        run, step = np.ogrid[:runs, :horizon]
        place = (run[..., None, None], step[..., None, None], at, action)
        counted = np.zeros((runs, horizon, states, actions, states))
        np.add.at(counted, (*place, after), 1)
        first = np.zeros((runs, horizon, states, actions))
        np.add.at(first, tuple(np.broadcast_to(each, at.shape)[..., 0] for each in place), 1)
        often = counted.sum(axis=-1, keepdims=True)
        possible = np.stack([_possible(account, each) for each in range(horizon)])[:, None, None]
        phi = np.where(often > 0, counted / np.maximum(often, 1), possible / possible.sum(axis=-1, keepdims=True))
        paid = np.zeros((runs, horizon, states, actions))
        np.add.at(paid, place, np.moveaxis(memory["paid"][:rounds], 0, 2))
        known = paid / np.maximum(often[..., 0], 1)
        rewards = known if account.pays is None else np.broadcast_to(account.pays, known.shape)
        # the next state itself is the feature, so that phi is the model
        leads = np.broadcast_to(np.eye(states), (runs, horizon, states, states))
        return phi, leads, rewards, 1 / np.sqrt(self.ridge + first)


def _possible(account: Account, step: int) -> np.ndarray:
    """The states that may come after a step, over which P- is uniform."""
    if account.levels is None:
        return np.ones(account.states, dtype=bool)
    return account.levels == step + 1


def _equilibria(upper: Any, lower: Any, account: Account, step: int) -> Float[np.ndarray, "runs states pairs"]:
    """Joint policies of the states that may come in a step; uniform in the others."""
    assert account.players is not None
    here = np.ones(account.states, dtype=bool) if account.levels is None else account.levels == step
    policy = np.full(upper.shape, 1 / upper.shape[-1])
    games = [each[:, here].reshape(-1, *account.players) for each in (upper, lower)]
    policy[:, here] = coarse_correlated(games[0], games[1]).reshape(len(upper), -1, upper.shape[-1])
    return policy


def _product(policy: np.ndarray, players: tuple[int, int]) -> Float[np.ndarray, "*batch pairs"]:
    """The players' own policies, played independently."""
    first, second = marginals(policy, players)
    return (first[..., :, None] * second[..., None, :]).reshape(policy.shape)


# --- the claims ------------------------------------------------------------------------------------------------------


def recommended(
    world: Episodic, agent: Any, copies: int, seed: int, at: Sequence[int]
) -> tuple[Float[np.ndarray, "points copies"], Account]:
    """Values of what an agent recommends after given numbers of episodes, and its account after the last."""
    loop = Exploration(agent, copies=copies)
    state = loop.start(world, at[-1], seed)
    account, values = loop._account(state), []
    for episode in range(at[-1]):
        account.played = episode
        agent.learn(account, play_episode(state.play, agent.plan(account), world.horizon, state.world_rng))
        if episode + 1 in at:
            account.played = episode + 1
            values.append(world.value(getattr(agent, "recommend", agent.plan)(account)))
    return np.array(values), account


def until_solved(world: Episodic, agent: Any, copies: int, seed: int, every: int, points: int) -> float:
    """Mean episodes until what is recommended is within a tenth of the best and stays so; all of them where it never is."""
    values, _ = recommended(world, agent, copies, seed, [every * (point + 1) for point in range(points)])
    assert world.optimum is not None
    poor = values < 0.9 * world.optimum
    last = np.where(poor.any(axis=0), points - poor[::-1].argmax(axis=0), 0)
    return float(np.minimum((last + 1) * every, points * every).mean())


def measure_lock(seed: int, tiny: bool) -> Measures:
    """What is recommended after a hundred rounds in a lock."""
    world = _lock(seed, tiny).world
    budget, options = _hundred_rounds(world, tiny)
    assert world.vectors is not None
    directions = generator(seed, "random features").standard_normal((world.vectors.shape[1] + 1, 16))
    shapes = np.maximum(np.c_[world.vectors, np.ones(world.states)] @ directions, 0)
    shapes /= np.maximum(np.linalg.norm(shapes, axis=1, keepdims=True), 1e-9)
    features = np.einsum("sf,ab->sabf", shapes, np.eye(world.actions)).reshape(world.states, world.actions, -1)
    entries = {
        "contrastive": (world, ContrastiveUCB(**options)),
        "without bonus": (world, ContrastiveUCB(bonus=0.0, **options)),
        "random actions": (world, ContrastiveUCB(bonus=0.0, epsilon=0.1, **options)),
        "counted pairs": (world, CountingRounds(**options)),
        "counted pairs, small bonus": (world, CountingRounds(bonus=0.1, **options)),
        "random features": (replace(world, features=features), LSVIUCB()),
        "an embedding a state": (replace(world, vectors=None), ContrastiveUCB(**options)),
        "ucbvi": (world, UCBVI(scale=0.002, replan=1.05, recommends="empirical")),
    }
    measured: dict[str, dict[str, float]] = {"nobody": {"runs below 0.9": 0.0}}
    for name, (where, agent) in entries.items():
        values, _ = recommended(where, agent, 2, seed, [budget])
        measured[name] = {"value": float(values.mean()), "best run": float(values.max())}
        if name == "contrastive":
            measured[name]["runs below 0.9"] = float((values < 0.9).sum())
    return measured


def _lock(seed: int, tiny: bool) -> Lock:
    return build_lock(horizon=3, symbols=3, seed=seed) if tiny else build_lock(seed=seed)


def _hundred_rounds(world: Episodic, tiny: bool) -> tuple[int, dict[str, int]]:
    """Episodes of so many rounds, and how the agent goes about them."""
    return (2 * world.horizon * 4, {"refit": 2, "steps": 3}) if tiny else (2 * world.horizon * 100, {})


def measure_fit(seed: int, tiny: bool) -> Measures:
    """Correlation of the learned with the true model where it went, and how near the features of like symbols are."""
    lock = _lock(seed, tiny)
    world, (budget, options) = lock.world, _hundred_rounds(lock.world, tiny)
    agent = ContrastiveUCB(**options)
    _, account = recommended(world, agent, 2, seed, [budget])
    memory = account.memory
    P, phi = agent.transitions(account), agent._model(account)[0]
    correlations, counted, within, between = [], [], [], []
    for step in range(world.horizon - 1):  # all leads to the one end after the last
        come = world.levels == step + 1
        here = np.flatnonzero(world.levels == step)
        # causes that lead to the same are one
        behaviour = np.unique(lock.model.phi[here].round(9).reshape(len(here), -1), axis=0, return_inverse=True)[1]
        alike = behaviour[:, None] == behaviour
        for run in range(account.runs):
            kept = (memory[name][: memory["rounds"], run, step].ravel() for name in ("at", "action", "after"))
            at, action, after = kept
            learned, true = P[run, step, at, action][:, come], world.P[at, action][:, come]
            correlations.append(np.corrcoef(learned.ravel(), true.ravel())[0, 1])
            # what counting makes of the same transitions if it is told which pairs lead to the same
            same = np.unique(lock.model.phi[at, action].round(9), axis=0, return_inverse=True)[1]
            often = np.zeros((same.max() + 1, world.states))
            np.add.at(often, (same, after), 1)
            told = (often / often.sum(axis=1, keepdims=True))[same][:, come]
            counted.append(np.corrcoef(told.ravel(), true.ravel())[0, 1])
            flat = phi[run, step, here].reshape(len(here), -1)
            apart = np.linalg.norm(flat[:, None] - flat, axis=-1)
            if not alike.all():
                within.append(apart[alike & ~np.eye(len(here), dtype=bool)].mean())
                between.append(apart[~alike].mean())
    # where all symbols of a level behave alike there is nothing to tell apart
    near = float(np.sum(within) / np.sum(between)) if between else 0.0
    return {
        "contrastive": {"correlation": float(np.mean(correlations)), "distance within over between causes": near},
        "counts that are told the causes": {"correlation": float(np.mean(counted))},
    }


def measure_growth(seed: int, tiny: bool) -> Measures:
    """Episodes to the best policy as symbols and steps grow, and regret as rounds grow: log-log slopes."""
    points = 2 if tiny else 20
    ours = ContrastiveUCB(refit=5, steps=2 if tiny else 25)
    theirs = UCBVI(scale=0.002, replan=1.05, recommends="empirical")
    symbols, horizons, rounds = [6, 12, 24, 48], [3, 4, 5, 6], [25, 50, 100, 200]
    if tiny:
        symbols, horizons, rounds = [2, 4], [2, 3], [5, 10]

    def slope(sizes: Sequence[int], taken: Sequence[float]) -> float:
        return float(np.polyfit(np.log(sizes), np.log(taken), 1)[0])

    locks = [rich_lock(horizon=4, symbols=size, seed=seed) for size in symbols]
    contrastive = [until_solved(lock, ours, 2, seed, 40, points) for lock in locks]
    counting = [until_solved(lock, theirs, 1, seed, 40, 2 * points) for lock in locks]
    longer = [
        until_solved(rich_lock(horizon=size, symbols=6, seed=seed), ours, 2, seed, 10 * size, 2 * points)
        for size in horizons
    ]
    # what the policies of the rounds give away on average; they change only when there is a new plan
    lock = rich_lock(horizon=4, symbols=6, seed=seed)
    loop = Exploration(ours, copies=2)
    state = loop.start(lock, 8 * rounds[-1], seed)
    account, given_away = loop._account(state), []
    for episode in range(8 * rounds[-1]):
        account.played = episode
        if episode % 8 == 0:
            fresh = episode % 40 == 0
            given_away.append(
                float((lock.optimum - lock.value(account.memory["policy"])).mean()) if fresh else given_away[-1]
            )
        ours.learn(account, play_episode(state.play, ours.plan(account), lock.horizon, state.world_rng))
    average = [float(np.mean(given_away[:count])) for count in rounds]
    return {
        "contrastive": {
            "slope in symbols": slope(symbols, contrastive),
            "episodes with most symbols": contrastive[-1],
            "slope in steps": slope(horizons, longer),
            "slope of the regret a round": slope(rounds, average),
        },
        "ucbvi": {"slope in symbols": slope(symbols, counting), "episodes with most symbols": counting[-1]},
    }


def measure_game(seed: int, tiny: bool) -> Measures:
    """The duality gap of what is recommended in a game of two players."""
    rounds = 20 if tiny else 150
    game = rich_game(seed=seed)
    agent = ContrastiveUCB(steps=3) if tiny else ContrastiveUCB()
    values, _ = recommended(game, agent, 2 if tiny else 4, seed, [6 * rounds])
    uniform = game.value(np.full((1, game.horizon, game.states, game.actions), 1 / game.actions))
    return {"contrastive": {"gap": float(-values.mean())}, "uniform play": {"gap": float(-uniform[0])}}


claim = (
    Claim(
        says="Contrastive features with their bonus open a lock that is seen through many symbols, the same without a bonus or "
        "with random actions do not, nor do counts of pairs from the same data.",
        measure=measure_lock,
        seeds=12,
        holds=[
            higher("value", "contrastive", than=0.9),
            identical("runs below 0.9", "contrastive", to="nobody"),
            lower("best run", "without bonus", than=0.3),
            lower("best run", "random actions", than=0.3),
            lower("best run", "counted pairs", than=0.3),
            lower("best run", "counted pairs, small bonus", than=0.3),
            lower("best run", "random features", than=0.3),
        ],
        note="Locks of 6 levels, 4 actions, two good and one dead hidden state a level and 12 symbols for each; another lock "
        "each seed, opened twice, 100 rounds of 12 episodes, of each of which the method keeps one transition. UCB-VI, which "
        "learns from all six, opens a lock of so few symbols too (its value is with the measures): the next claim lets the "
        "symbols grow. With an embedding of its own for each state, the method fails as expected. Now and then the networks "
        "of one step take a good hidden state for the dead one, and a run ends with half of the best value: the measures "
        "count such runs.",
    ),
    Claim(
        says="The learned model follows the true one where the agent went, and symbols that behave alike have like features.",
        measure=measure_fit,
        seeds=12,
        holds=[
            higher("correlation", "contrastive", than=0.9),
            lower("distance within over between causes", "contrastive", than=0.3),
        ],
        note="The same locks after 100 rounds; correlations over next states, for each transition that was kept, and distances "
        "of features between symbols of one level, in all levels but the last, whose actions all lead to the end. Counts of "
        "the same transitions, told which pairs lead to the same, come no nearer: what is left is how few transitions there are.",
    ),
    Claim(
        says="While it explores it gains more than the same agent without a bonus, and than counts of pairs from the same data.",
        task="rich-lock(horizon=4)",
        budget=800,
        seeds=6,
        entries={
            "contrastive": "exploration(copies=2) + contrastive-ucb",
            "without bonus": "exploration(copies=2) + contrastive-ucb(bonus=0.0)",
            "counted pairs": "exploration(copies=2) + counting-rounds",
            "ucbvi": "exploration(copies=2) + ucbvi(scale=0.002, replan=1.05)",
        },
        holds=[
            higher("final", "contrastive", than="without bonus"),
            higher("final", "contrastive", than="counted pairs"),
        ],
        tiny=Tiny(task="rich-lock(horizon=2, symbols=3)", budget=80),
        note="Each episode of the rounds has a random action or two, which costs most of what could be gained; UCB-VI, with "
        "twelve symbols a hidden state, has no need of them and does far better.",
    ),
    Claim(
        says="Its episodes hardly grow with the number of symbols, those of counting do, and grow gently with steps; its regret "
        "a round falls at least as the bound, 1 / sqrt(rounds).",
        measure=measure_growth,
        seeds=8,
        holds=[
            lower("slope in symbols", "contrastive", than=0.5),
            higher("slope in symbols", "ucbvi", than=0.5),
            lower("episodes with most symbols", "contrastive", than="ucbvi"),
            lower("slope in steps", "contrastive", than=4.0),
            lower("slope of the regret a round", "contrastive", than=-0.5),
        ],
        note="Log-log slopes over four sizes each: 6 to 48 symbols in locks of 4 levels, 3 to 6 levels of 6 symbols, 25 to 200 "
        "rounds. Trying all sequences of actions would have a slope of 6 in the steps.",
    ),
    Claim(
        says="In zero-sum games its players end close to an equilibrium.",
        measure=measure_game,
        seeds=16,
        holds=[ratio("gap", "contrastive", to="uniform play", at_most=0.1)],
        note="Random games of 3 steps, 2 by 2 actions, and 3 hidden states a step with 6 symbols each; 150 rounds.",
    ),
)
