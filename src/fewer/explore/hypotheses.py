"""Finite classes of hypotheses about a world without end, each with its values, its gain and how its errors are judged.

The average reward of a world without end obeys ``J + Q(s, a) = R(s, a) + E V(s')`` with ``V = max_a Q``.  A hypothesis f
says what J and Q are, and the data judge it by squared discrepancies with every target g of an auxiliary class,
``predicted_f(g; s, a) - (r + V_f(s') - J_f)``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.explore.planning import relative_value_iteration


@dataclass(frozen=True, eq=False, repr=False)
class Hypotheses:
    """Candidates for the truth, solved.  Make them by :meth:`of_models` or :meth:`of_values`.

    Parameters
    ----------
    Q : float array (hypotheses, states, actions)
        Action values of each.
    gain : float array (hypotheses,)
        Average reward of each.
    P, R : float arrays (hypotheses, states, actions, states) and (hypotheses, states, actions), optional
        The models that a model-based class is made of.
    targets : float array (targets, states, actions), optional
        The auxiliary class of a value-based one; its first members are the hypotheses' own.

    Notes
    -----
    With models the discrepancy is ``R_g(s, a) + P_g V_f - r - V_f(s')``, with values it is ``Q_g(s, a) - r - V_f(s') +
    J_f``.  V belongs to the hypothesis that is judged, never to g.
    """

    Q: Float[np.ndarray, "hypotheses states actions"]
    gain: Float[np.ndarray, " hypotheses"]
    P: Float[np.ndarray, "hypotheses states actions states"] | None = None
    R: Float[np.ndarray, "hypotheses states actions"] | None = None
    targets: Float[np.ndarray, "targets states actions"] | None = None

    def __len__(self) -> int:
        return len(self.gain)

    def __repr__(self) -> str:
        arrays = [each for each in (self.Q, self.gain, self.targets) if each is not None]
        return f"<{len(self)} hypotheses {fingerprint(*arrays)[:12]}>"

    @classmethod
    def of_models(
        cls,
        P: Float[np.ndarray, "hypotheses states actions states"],
        R: Float[np.ndarray, "hypotheses states actions"],
    ) -> Hypotheses:
        """A class of models, each solved by relative value iteration.

        Raises
        ------
        FewerError
            If a model's rows are no distributions, or its gain depends on where one starts.

        Examples
        --------
        >>> P = np.array([[[[0.0, 1.0]], [[1.0, 0.0]]]])
        >>> Hypotheses.of_models(P, np.array([[[1.0], [0.0]]])).gain.round(6)
        array([0.5])
        """
        P, R = np.asarray(P, dtype=float), np.asarray(R, dtype=float)
        if P.ndim != 4 or P.shape[1] != P.shape[3] or P.shape[:3] != R.shape or not P.size:
            raise FewerError(
                "hypotheses: P must be (models, states, actions, states) and R (models, states, actions), with at least "
                f"one model; they are {P.shape} and {R.shape}"
            )
        off = ~np.isclose(P.sum(axis=3), 1, atol=1e-6) | ~(P >= 0).all(axis=3)
        if off.any():
            model, state, action = np.argwhere(off)[0]
            raise FewerError(
                f"hypotheses: P[{state}, {action}] of model {model} is no distribution (its sum is "
                f"{P[model, state, action].sum():g}); make every row non-negative with sum 1"
            )
        if not np.isfinite(R).all():
            raise FewerError(f"hypotheses: model {np.argwhere(~np.isfinite(R))[0][0]} has a reward that is not finite")
        gain, _, Q = relative_value_iteration(P, R)
        return cls(Q, gain, P, R)

    @classmethod
    def of_list(cls, models: Iterable[tuple[np.ndarray, np.ndarray]]) -> Hypotheses:
        """A class of models from a list, or a generator, of pairs P[s, a, s'] and R[s, a]."""
        pairs = list(models)
        if len({(np.shape(P), np.shape(R)) for P, R in pairs}) != 1:
            raise FewerError(f"hypotheses: {len(pairs)} models of different shapes, or none; all must have one shape")
        return cls.of_models(np.stack([P for P, _ in pairs]), np.stack([R for _, R in pairs]))

    @classmethod
    def of_values(
        cls,
        Q: Float[np.ndarray, "hypotheses states actions"],
        gain: Float[np.ndarray, " hypotheses"],
        targets: Float[np.ndarray, "targets states actions"] | None = None,
    ) -> Hypotheses:
        """A class of action values with gains, such as trained networks asked in every state.

        Parameters
        ----------
        Q, gain : float arrays (hypotheses, states, actions) and (hypotheses,)
            The hypotheses; each is shifted so that its least state value is 0.
        targets : float array (targets, states, actions), optional
            More targets that errors are compared with.  What ``R + P V_f - J_f`` could be, for every hypothesis f, should
            be among them: else the truth looks worse than it is.

        Raises
        ------
        FewerError
            If shapes do not fit, or a number is not finite.
        """
        Q, gain = np.asarray(Q, dtype=float), np.asarray(gain, dtype=float)
        more = np.zeros((0, *Q.shape[1:])) if targets is None else np.asarray(targets, dtype=float)
        if Q.ndim != 3 or gain.shape != Q.shape[:1] or more.shape[1:] != Q.shape[1:] or not Q.size:
            raise FewerError(
                "hypotheses: Q must be (hypotheses, states, actions), gain (hypotheses,) and targets (targets, states, "
                f"actions); they are {Q.shape}, {gain.shape} and {more.shape}"
            )
        if not all(np.isfinite(each).all() for each in (Q, gain, more)):
            raise FewerError("hypotheses: Q, gain and targets must be finite")
        Q = Q - Q.max(axis=2).min(axis=1)[:, None, None]
        return cls(Q, gain, targets=np.concatenate([Q, more]))

    @cached_property
    def values(self) -> Float[np.ndarray, "hypotheses states"]:
        """State values; the least of each hypothesis is 0."""
        return self.Q.max(axis=2)

    @cached_property
    def policies(self) -> Int[np.ndarray, "hypotheses states"]:
        """The best actions of each hypothesis."""
        return self.Q.argmax(axis=2)

    @property
    def span(self) -> float:
        """The greatest difference between two states' values under one hypothesis."""
        return float(np.ptp(self.values, axis=1).max())

    @property
    def against(self) -> int:
        """How many targets there are."""
        return len(self) if self.targets is None else len(self.targets)

    def discrepancy(
        self,
        states: Int[np.ndarray, " runs"],
        actions: Int[np.ndarray, " runs"],
        rewards: Float[np.ndarray, " runs"],
        following: Int[np.ndarray, " runs"],
    ) -> Float[np.ndarray, "runs hypotheses targets"]:
        """How far every target is from what every hypothesis makes of one step of each run."""
        seen = rewards[:, None] + self.values[:, following].T
        if self.targets is not None:
            return self.targets[:, states, actions].T[:, None] - (seen - self.gain)[..., None]
        assert self.P is not None
        assert self.R is not None
        ahead = self.values @ self.P[:, states, actions].transpose(1, 2, 0)  # runs, hypotheses, targets
        ahead += self.R[:, states, actions].T[:, None]
        ahead -= seen[..., None]
        return ahead
