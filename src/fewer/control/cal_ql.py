"""Conservative offline reinforcement learning (CQL), calibrated by what was earned (Cal-QL): what networks know at the start.

Actions that the data do not show would be overrated; so a term in the critic's loss pushes the values of sampled actions down
and those of the data's own actions up, for each member Q::

    TD  = mean (Q(s, a) - y)^2,   y = r + gamma max_k min_M Q_slow(s', a'_k),   a'_k ~ pi(s'),  M a random subset of members
    C   = mean [ log sum_j exp( Q(s, a_j) - log mu(a_j) ) - Q(s, a) ],   a_j: n uniform, n of pi(s) and n of pi(s')
    loss = TD + alpha C

where mu is the density that a_j was drawn from.  Calibrated, Q(s, a_j) of the policy's actions is replaced by
max(Q(s, a_j), G(s)) with the return G(s) that followed s in the data: values are not pushed below what somebody has earned,
so that what is found later does not look better merely because values were too low.  alpha is fixed, or a multiplier that
keeps C at a given gap.

References
----------
Kumar, Zhou, Tucker and Levine, "Conservative Q-Learning for Offline Reinforcement Learning", NeurIPS 2020, arXiv:2006.04779.
Nakamoto et al., "Cal-QL: Calibrated Offline RL Pre-Training for Efficient Online Fine-Tuning", NeurIPS 2023, arXiv:2303.05479.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fewer.control.loop import FixedRatio, OffPolicyState, Pending, Stateless, Update
from fewer.control.policies import Gaussian, GaussianActor
from fewer.control.prior_data import given_demonstrations
from fewer.control.replay import Batch
from fewer.core.errors import FewerError
from fewer.core.loop import own_randomness
from fewer.core.seeding import derive
from fewer.core.shared_start import shared_start

if TYPE_CHECKING:
    from fewer.control.environments import Environment
    from fewer.demos.demonstrations import Demonstrations


def conservative_gap(update: Update, samples: int = 10, calibrated: bool = True) -> Float[Tensor, " members"]:
    """How much more each member promises for sampled actions than for those of the batch: the C above.

    Parameters
    ----------
    update : Update
        The step that is being made; the policy must know its actions' densities.
    samples : int, default 10
        Actions of each of the three kinds, for each observation.
    calibrated : bool, default True
        Replace values of the policy's actions that are below the batch's ``returns`` by these, where there are any.
    """
    batch, actor = update.batch, update.actor
    if not isinstance(actor, GaussianActor):
        raise FewerError(
            f"conservative term: it needs a policy that knows the density of its actions, and {type(actor).__name__} does "
            "not; use the Gaussian one"
        )
    size, width = batch.actions.shape
    with torch.no_grad():
        uniform = torch.rand(samples * size, width) * 2 - 1
        here, density = actor.sample(batch.observations.repeat(samples, 1))
        after, density_after = actor.sample(batch.next_observations.repeat(samples, 1))
        densities = torch.cat([torch.full_like(density, -width * math.log(2)), density, density_after])
    values = update.critic(batch.observations.repeat(3 * samples, 1), torch.cat([uniform, here, after]))
    values = values.reshape(len(values), 3 * samples, size)
    if calibrated and batch.returns is not None:
        values = torch.cat([values[:, :samples], values[:, samples:].maximum(batch.returns)], dim=1)
    promised = (values - densities.reshape(3 * samples, size)).logsumexp(1)
    return (promised - update.values).mean(1)


@dataclass(frozen=True)
class Conservative:
    """The term with a fixed weight, for the slot ``critic_term``.

    Parameters
    ----------
    alpha : float, default 5
        Its weight.
    samples : int, default 10
        Actions of each of the three kinds.
    calibrated : bool, default True
        See :func:`conservative_gap`.  What is experienced while learning has no known return and is not calibrated.
    """

    alpha: float = 5.0
    samples: int = 10
    calibrated: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < math.inf or self.samples < 1:
            raise FewerError(f"conservative term: alpha must not be negative and samples positive; given {self}")

    def __call__(self, update: Update) -> Float[Tensor, ""]:
        """Weigh, summed over members."""
        return self.alpha * conservative_gap(update, self.samples, self.calibrated).sum()


class KeptAtGap:
    """The term with a weight that rises while the gap is above what is wanted, and falls below it.

    Parameters
    ----------
    gap : float
        What is wanted, in units of value.
    samples : int
        Actions of each of the three kinds.
    calibrated : bool
        See :func:`conservative_gap`.
    lr : float, default 3e-4
        Learning rate of Adam.
    """

    def __init__(self, gap: float, samples: int, calibrated: bool, lr: float = 3e-4) -> None:
        self.gap, self.samples, self.calibrated = gap, samples, calibrated
        # softplus of this is 1
        self.weight = torch.tensor(math.log(math.e - 1), requires_grad=True)
        self.optimiser = torch.optim.Adam([self.weight], lr=lr)

    @property
    def alpha(self) -> float:
        """The weight."""
        return float(functional.softplus(self.weight))

    def __call__(self, update: Update) -> Float[Tensor, ""]:
        """Weigh, and move the weight."""
        above = conservative_gap(update, self.samples, self.calibrated) - self.gap
        alpha = functional.softplus(self.weight)
        (self.weight.grad,) = torch.autograd.grad(-(alpha * above.detach().mean()), self.weight)
        self.optimiser.step()
        return alpha.detach() * above.sum()


@dataclass(frozen=True)
class CalQL:
    """Train the loop's policy and critic on data alone, before the first step; fills the slot ``initialisation``.

    Networks, slow copies and the moments of their optimisers are handed on.  The loop's discount and its critic's
    settings hold here, too.  Equal starts of equal seeds are trained once and found again.

    Parameters
    ----------
    demos : str, optional
        Where the data are: a file, a folder, or the id of a Minari data set; by default the task's own.
    steps : int, default 250,000
        Steps of the critic and of the policy.
    alpha : float, default 5
        Weight of the conservative term.
    gap : float, optional
        Move the weight, from 1, so that the term stays at this; then ``alpha`` is not used.
    samples : int, default 10
        Actions of each of the term's three kinds.
    candidates : int, default 10
        Actions of the policy that a target looks at; the best of them counts.
    batch : int, default 256
        Transitions of each step.
    calibrated : bool, default True
        Do not push values below what was earned; without it, this is CQL.
    at_least : float, optional
        Go on, by a quarter of ``steps`` at a time and to four times as many, until the score is this.  The evaluation
        episodes that decide it are not counted as steps of the run.

    Examples
    --------
    >>> from fewer.control import OffPolicy, Critics, Gaussian
    >>> from fewer.control.dock_world import dock_2d
    >>> start = CalQL(steps=2, samples=2, candidates=2, batch=8)
    >>> loop = OffPolicy(Gaussian((8,)), Critics(hidden=(8,)), initialisation=start, episodes=1, points=1)
    >>> loop.learn(dock_2d(4), budget=2).curve.points[-1].spent
    2
    """

    demos: str | None = None
    steps: int = 250_000
    alpha: float = 5.0
    gap: float | None = None
    samples: int = 10
    candidates: int = 10
    batch: int = 256
    calibrated: bool = True
    at_least: float | None = None

    def __post_init__(self) -> None:
        if min(self.steps, self.samples, self.candidates, self.batch) < 1 or not 0 <= self.alpha < math.inf:
            raise FewerError(
                "offline pre-training: steps, samples, candidates and batch must be positive and alpha not negative; "
                f"given {self}"
            )

    def initialise(self, state: OffPolicyState) -> None:
        """Train, or find what was trained before."""
        if not isinstance(state.actor, GaussianActor):
            raise FewerError(
                f"offline pre-training: it trains a Gaussian policy, and this one is a {type(state.actor).__name__}; leave "
                "one of the two out"
            )
        given = given_demonstrations(state.task, self.demos, state.seed)
        parts = ("actor", "actor_optimiser", "critic", "critic_optimiser", "slow")

        def make() -> dict[str, Any]:
            with own_randomness(state.seed, "offline"):
                self._train(state, given)
            return {name: getattr(state, name).state_dict() for name in parts}

        loop = state.loop
        # what the policy does only while it learns online changes nothing here
        policy = replace(loop.policy, delay=1, rows="last") if isinstance(loop.policy, Gaussian) else loop.policy
        settings = (self, policy, loop.critic, loop.discount, loop.episodes if self.at_least is not None else None)
        named = (state.task.fingerprint(), given.fingerprint(), repr(settings), str(state.seed))
        start = shared_start("offline", named, make)
        for name in parts:
            getattr(state, name).load_state_dict(start[name])

    def _train(self, state: OffPolicyState, given: Demonstrations) -> None:
        term = (
            Conservative(self.alpha, self.samples, self.calibrated)
            if self.gap is None
            else KeptAtGap(self.gap, self.samples, self.calibrated)
        )
        critic = replace(state.loop.critic, candidates=self.candidates)
        loop = replace(state.loop, batch=self.batch, critic=critic, critic_term=term, plasticity=None)
        # the same networks and optimisers, but data, schedule and counters of its own
        offline = dataclasses.replace(state, pending=Pending(), updates=0)
        offline.source = data = OfflineData(state.task, given, state.loop.discount)
        if bool(data.rows.continues.all()) and bool((data.rows.rewards == data.rows.rewards[0]).all()):
            raise FewerError(
                f"{given.name}: each step paid {float(data.rows.rewards[0]):g} and no episode terminated, so nothing is better "
                "than anything else; give data with a successful episode"
            )
        offline.schedule = FixedRatio().build(offline)
        actor = state.actor
        delay, rows = actor.delay, actor.rows
        actor.delay, actor.rows = 1, "last"
        try:
            for _ in range(self.steps):
                loop._update(offline)
            while self.at_least is not None and offline.updates < 4 * self.steps:
                if loop.score(offline, derive(state.seed, "pre-trained"))[0] >= self.at_least:
                    break
                for _ in range(-(-self.steps // 4)):
                    loop._update(offline)
        finally:
            actor.delay, actor.rows = delay, rows


class OfflineData(Stateless):
    """Transitions of some demonstrations, with the returns that followed them.

    Parameters
    ----------
    environment : Environment
        Where they are from.
    given : Demonstrations
        With rewards.
    discount : float
        What the next step's value is worth.
    """

    def __init__(self, environment: Environment, given: Demonstrations, discount: float) -> None:
        self.rows = environment.transitions(given, discount)

    def draw(self, count: int) -> Batch:
        """Draw uniformly, with replacement, from torch's global generator."""
        places = torch.randint(len(self.rows), (count,))
        return Batch(**{name: value[places] for name, value in vars(self.rows).items()})


@dataclass(frozen=True)
class ValueGap:
    """How far a critic is from what its policy earns.

    Parameters
    ----------
    promised : float
        Mean value of the first observations, by the mean of the critic's members, of the policy's actions.
    earned : float
        Mean discounted return of the episodes that follow.
    """

    promised: float
    earned: float

    @property
    def gap(self) -> float:
        """Their distance."""
        return abs(self.promised - self.earned)


def value_gap(state: OffPolicyState, episodes: int, seed: int) -> ValueGap:
    """Play episodes with the policy as it explores, and compare what they earn with what the critic promised.

    Values that spiral down or up are the sign of a critic that its own data no longer hold.

    Parameters
    ----------
    state : OffPolicyState
        Of a run.
    episodes : int
        How many.
    seed : int
        Of their starts and of the policy's choices.

    Examples
    --------
    >>> from fewer.control import OffPolicy, sac
    >>> from fewer.control.dock_world import dock_2d
    >>> state = OffPolicy(**sac(hidden=(8,))).start(dock_2d(4), 10, seed=0)
    >>> value_gap(state, episodes=2, seed=0).earned < 0
    True
    """
    worlds = state.task.make(episodes)
    try:
        observations = torch.from_numpy(worlds.reset({each: derive(seed, "start", each) for each in range(episodes)}))
        with torch.inference_mode(), own_randomness(seed, "value-gap"):
            actions = state.actor.act(observations)
            promised = float(state.critic(observations, actions).mean())
            earned, worth = torch.zeros(episodes, dtype=torch.float64), 1.0
            going = torch.ones(episodes, dtype=torch.bool)
            while going.any():
                made = worlds.step(actions.numpy())
                earned += worth * torch.from_numpy(made.rewards) * going
                going &= ~torch.from_numpy(made.terminated | made.truncated)
                worth *= state.loop.discount
                actions = state.actor.act(torch.from_numpy(made.observations))
    finally:
        worlds.close()
    return ValueGap(promised, float(earned.mean()))
