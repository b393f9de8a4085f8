"""Temporal ensembling: chunks of actions overlap, and what is done is the mean of all that was planned for a step.

References
----------
Tony Z. Zhao, Vikash Kumar, Sergey Levine, Chelsea Finn, "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware",
RSS 2023, arXiv:2304.13705.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from fewer.core.errors import FewerError


class PlanAverage:
    """The mean of all plans that were made for a step, for the steps of the newest plan.

    Examples
    --------
    >>> average = PlanAverage()
    >>> average(np.array([[1.0, 2.0, 3.0]])), average(np.array([[4.0, 5.0, 6.0]]))
    (array([[1., 2., 3.]]), array([[3., 4., 6.]]))
    """

    def __init__(self) -> None:
        self.total: np.ndarray | None = None

    def __call__(self, plan: Float[np.ndarray, "batch chunk ..."]) -> Float[np.ndarray, "batch chunk ..."]:
        """Add the plan of this step, and give the means from this step on."""
        if self.total is None:
            self.total, self.count = np.zeros_like(plan), np.zeros(plan.shape[1], dtype=plan.dtype)
        elif len(self.total) != len(plan):
            raise FewerError(
                f"{len(plan)} observations were given and {len(self.total)} at the step before; call begin where an "
                "episode begins"
            )
        # the first step is over
        self.total = np.concatenate([self.total[:, 1:], np.zeros_like(plan[:, :1])], axis=1) + plan
        self.count = np.concatenate([self.count[1:], np.zeros_like(self.count[:1])]) + 1
        return self.total / self.count.reshape(-1, *[1] * (plan.ndim - 2))
