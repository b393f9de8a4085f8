"""Maximize to explore (MEX) for networks: one term in the loss of a critic, or of a probabilistic model.

Without a model, critics Q_i are fitted to targets y and asked to promise much where the policy would act::

    loss = sum_i mean (Q_i(s, a) - y)^2  -  eta' sum_i mean [ Q_i(s, pi(s)) - log sum exp of
                                             { Q_i(s, a), Q_i(s, pi(s')), Q_i(s, a_random) } ]

The log-sum-exp is a baseline that keeps values from drifting up everywhere: the term is unchanged when a constant is added
to Q.  Without it the term is -eta' sum_i mean Q_i(s, pi(s)).

With a model, its negative log-likelihood is fitted, and drawn outcomes that the critic values more than it expected are
made likelier, by the score function::

    loss = NLL(phi)  -  c mean [ A log p_phi(s', r | s, a) ],   A = r + gamma min_i Q_i(s', a') - min_i Q_i(s, a),
    a ~ pi(s), (s', r) ~ p_phi(. | s, a) without gradient, a' ~ pi(s'), A standardised over the batch

eta' and c multiply the promise, where the eta of :class:`~fewer.explore.mex.MEX` multiplies the fit: they are inverses.

References
----------
Zhihan Liu, Miao Lu, Wei Xiong, Han Zhong, Hao Hu, Shenao Zhang, Sirui Zheng, Zhuoran Yang and Zhaoran Wang, "Maximize to
Explore: One Objective Function Fusing Estimation, Planning, and Exploration", NeurIPS 2023, arXiv:2305.18258.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from fewer.core.errors import FewerError

if TYPE_CHECKING:
    from fewer.control.loop import Update

Observations = Float[Tensor, "batch observations"]
Actions = Float[Tensor, "batch actions"]
Critic = Callable[[Observations, Actions], Float[Tensor, "members batch"]]
"""Observations and actions to a value by each member of an ensemble; a single network gives one row."""


@dataclass(frozen=True)
class Candidates:
    """The actions at which critics are asked.

    Parameters
    ----------
    taken : float tensor (batch, actions)
        What was done, from the data.
    policy : float tensor (batch, actions)
        What the current policy does in the same observations.
    successor : float tensor (batch, actions)
        What it does in the next ones; critics are asked for it in the present ones.
    random : float tensor (batch, actions)
        Uniform in the box of actions.
    """

    taken: Actions
    policy: Actions
    successor: Actions
    random: Actions


@dataclass(frozen=True)
class MEXLoss:
    """A critic's loss in its parts, each summed over members and not yet averaged over the batch.

    Parameters
    ----------
    fit : float tensor (batch,)
        Squared errors.
    promise : float tensor (batch,)
        What the policy's actions are valued above the baseline.
    eta : float
        Weight of the promise.
    """

    fit: Float[Tensor, " batch"]
    promise: Float[Tensor, " batch"]
    eta: float

    @property
    def total(self) -> Float[Tensor, ""]:
        """What is made small."""
        # with no weight the fit alone, to the bit: 0 times something infinite is not nothing
        return self.fit.mean() - self.eta * self.promise.mean() if self.eta else self.fit.mean()


def promise_of(
    critic: Critic, observations: Observations, candidates: Candidates, baseline: bool = True
) -> Float[Tensor, "members batch"]:
    """What each critic values the policy's actions above the soft maximum of the others.

    Parameters
    ----------
    critic : callable
        Observations and actions to values (members, batch).
    observations : float tensor (batch, observations)
        Where.
    candidates : Candidates
        Actions; no gradient goes through them.
    baseline : bool, default True
        Take off the log-sum-exp of the values of the actions taken, of the successor's and of random ones.

    Returns
    -------
    float tensor (members, batch)
        Differentiable in the critic's weights.

    Examples
    --------
    >>> actions = [torch.full((4, 1), x) for x in (0.0, 1.0, 0.0, -1.0)]
    >>> linear = lambda observations, actions: actions.T
    >>> promise_of(linear, torch.zeros(4, 3), Candidates(*actions))[0, 0].item()  # 1 - log(1 + 1 + 1/e)
    0.1380...
    """
    batch = len(observations)
    asked = [candidates.policy]
    if baseline:
        asked += [candidates.taken, candidates.successor, candidates.random]
    for name in ("taken", "policy", "successor", "random"):
        given = getattr(candidates, name)
        if given.ndim != 2 or given.shape != candidates.policy.shape or len(given) != batch:
            raise FewerError(
                f"mex: the {name} actions must be (batch, actions) for {batch} observations; they are {tuple(given.shape)}"
            )
    # one pass through the networks for all candidates
    actions = torch.cat([each.detach() for each in asked])
    values = critic(observations.repeat(len(asked), 1), actions)
    if values.ndim != 2 or values.shape[1] != len(actions):
        raise FewerError(
            f"mex: critics must give values of shape (members, batch), here (…, {len(actions)}); "
            f"they gave {tuple(values.shape)}; for a single network add an axis in front"
        )
    values = values.unflatten(1, (len(asked), batch))
    return values[:, 0] - values[:, 1:].logsumexp(dim=1) if baseline else values[:, 0]


def mex_loss(
    critic: Critic,
    observations: Observations,
    target: Float[Tensor, " batch"],
    candidates: Candidates,
    eta: float = 1e-3,
    baseline: bool = True,
) -> MEXLoss:
    """The critic's loss of model-free MEX, as a pure function of networks and a batch.

    Parameters
    ----------
    critic : callable
        Observations and actions to values (members, batch).
    observations : float tensor (batch, observations)
        What was observed.
    target : float tensor (batch,)
        What values are fitted to, for TD3 the reward plus the discounted least value of the slow critics at the policy's
        next action with clipped noise; no gradient goes through it.
    candidates : Candidates
        The actions taken and those that the promise is made of.
    eta : float, default 0.001
        Weight of the promise; 0 is the critic's loss without exploration.
    baseline : bool, default True
        Keep values from drifting up everywhere.

    Raises
    ------
    FewerError
        If shapes do not fit, the target has NaN, or ``eta`` is negative.

    Examples
    --------
    >>> from fewer.control.critics import QEnsemble
    >>> actions = Candidates(*torch.rand(4, 8, 2))
    >>> loss = mex_loss(QEnsemble(3, 2, members=2, hidden=(16,)), torch.randn(8, 3), torch.zeros(8), actions)
    >>> loss.fit.shape, loss.promise.shape, loss.total.requires_grad
    (torch.Size([8]), torch.Size([8]), True)
    """
    _check("mex", eta)
    if target.shape != observations.shape[:1] or not torch.isfinite(target).all():
        raise FewerError(
            f"mex: the target must be finite, one number for each of {len(observations)} observations; "
            f"it has shape {tuple(target.shape)}"
        )
    fit = (critic(observations, candidates.taken) - target.detach()).square().sum(0)
    promise = promise_of(critic, observations, candidates, baseline).sum(0) if eta else torch.zeros_like(fit)
    return MEXLoss(fit, promise, eta)


@dataclass(frozen=True)
class OptimisticCriticTerm:
    """The term alone, to be added to the critic's loss of any actor-critic.

    It fills the slot ``critic_term`` of :class:`fewer.control.loop.OffPolicy`.

    Parameters
    ----------
    eta : float, default 0.001
        Weight of the promise; 0.005 for sparse rewards.
    baseline : bool, default True
        Keep values from drifting up everywhere.
    """

    eta: float = 1e-3
    baseline: bool = True

    def __post_init__(self) -> None:
        _check("mex critic term", self.eta)

    def __call__(self, update: Update) -> Float[Tensor, ""]:
        """Minus ``eta`` times the promise, summed over members."""
        batch, actor = update.batch, update.actor
        if not self.eta:
            return batch.rewards.new_zeros(())
        with torch.no_grad():
            candidates = Candidates(
                batch.actions,
                actor.act(batch.observations, deterministic=True),
                actor.act(batch.next_observations, deterministic=True),
                torch.rand_like(batch.actions) * 2 - 1,
            )
        return -self.eta * promise_of(update.critic, batch.observations, candidates, self.baseline).mean(1).sum()


@dataclass(frozen=True)
class OptimisticModelTerm:
    """The term for the loss of a probabilistic model.

    Parameters
    ----------
    coef : float, default 0.001
        Weight of the promise.
    gamma : float, default 0.99
        Discount.
    """

    coef: float = 1e-3
    gamma: float = 0.99

    def __post_init__(self) -> None:
        _check("mex model term", self.coef)
        if not 0 <= self.gamma <= 1:
            raise FewerError(f"mex model term: gamma must lie in [0, 1]; {self.gamma} was given")

    def __call__(
        self,
        model: Callable[[Observations, Actions], Distribution],
        critic: Critic,
        policy: Callable[[Observations], Actions],
        observations: Observations,
    ) -> Float[Tensor, ""]:
        """Minus ``coef`` times the mean of advantage times log-density.

        Parameters
        ----------
        model : callable
            Observations and actions to the distribution of next observation and reward side by side (batch,
            observations + 1), whose ``log_prob`` is one number a row or one for each dimension; the latter are summed.
        critic : callable
            Observations and actions to values (members, batch).
        policy : callable
            Observations to drawn actions.
        observations : float tensor (batch, observations)
            Where, from what is remembered.

        Raises
        ------
        FewerError
            If the model gives no distribution: a deterministic one has no density to make larger.
        """
        with torch.no_grad():
            actions = policy(observations)
        outcome = model(observations, actions)
        if not isinstance(outcome, Distribution):
            raise FewerError(
                f"mex model term: the model must give a distribution, it gave a {type(outcome).__name__}; "
                "a deterministic model has no log-density"
            )
        with torch.no_grad():
            drawn = outcome.sample()
            if drawn.shape != (len(observations), observations.shape[1] + 1):
                raise FewerError(
                    f"mex model term: the model must give next observation and reward side by side, "
                    f"{(len(observations), observations.shape[1] + 1)}; it gave {tuple(drawn.shape)}"
                )
            following, reward = drawn[:, :-1], drawn[:, -1]
            ahead = critic(following, policy(following)).amin(0)
            advantage = standardised(reward + self.gamma * ahead - critic(observations, actions).amin(0))
        density = outcome.log_prob(drawn)
        return -self.coef * ((density if density.ndim == 1 else density.sum(-1)) * advantage).mean()


def standardised(advantage: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Mean 0 and deviation 1 over the batch; all zeros where all are equal.

    Examples
    --------
    >>> standardised(torch.tensor([1.0, 3.0])).tolist(), standardised(torch.tensor([2.0, 2.0])).tolist()
    ([-1.0, 1.0], [0.0, 0.0])
    """
    centred = advantage - advantage.mean()
    deviation = centred.square().mean().sqrt()
    return torch.where(deviation > 0, centred / deviation.clamp_min(torch.finfo(centred.dtype).tiny), centred)


def _check(name: str, weight: float) -> None:
    if not 0 <= weight < math.inf:
        raise FewerError(f"{name}: the weight must be 0 or more; {weight} was given")
