"""EXPO: act on the best of what an expressive policy proposes and of small edits to it; never differentiate through it.

The base policy, a diffusion or a flow, learns by imitation alone: of what was shown and of what was done.  An edit policy
proposes corrections da in (-1, 1) of its actions, and what is done is chosen among both kinds by slow copies of the critic,

    a_i ~ base(. | s), i = 1 … N,    a~_j = a_j + beta da_j,  da_j ~ edit(. | s, a_j), j = 1 … N_e,
    pi(s) = argmax over {a_i, a~_j} of min over a random subset M of Qbar_k(s, .),

to act as well as to look ahead in the critic's target, y = r + gamma (1 - d) min over another subset M' of
Qbar_k(s', pi(s')).  The edit policy goes up, from the actions a in memory, with A numbers in an action,

    mean_k Q_k(s, a + beta da) - alpha [ log edit(da | s, a) - A log beta ],

whose last term makes the entropy that of the edit as it is added.  Acting takes a moving average of the base policy.

References
----------
Dong et al., "EXPO: Stable Reinforcement Learning with Expressive Policies", ICLR 2026, arXiv:2507.07986.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

from fewer.claim import Claim, Measures, higher, lower
from fewer.control.action_chunks import ActionChunks
from fewer.control.base_policies import Base, Imitate, base_policy, described, left_out
from fewer.control.baselines import rlpd
from fewer.control.critics import Critics
from fewer.control.dock_world import dock_2d
from fewer.control.edited_actions import OnTheFly
from fewer.control.generative_policies import FlowMatching
from fewer.control.loop import OffPolicy
from fewer.control.prior_data import Symmetric


def on_the_fly(
    base: Base = "diffusion",
    demos: str | None = None,
    n_base: int = 8,
    n_edit: int = 8,
    edit_scale: float = 0.05,
    hidden: tuple[int, ...] = (256, 256, 256),
    members: int = 10,
    subset: int = 2,
    ratio: int | None = 20,
    lr: float = 3e-4,
    tau: float = 0.005,
    temperature: float = 1.0,
    target_entropy: float | None = None,
    dropout: float = 0.0,
    average: float = 0.001,
    share: float = 0.5,
    base_hidden: tuple[int, ...] | None = None,
    base_steps: int | None = None,
    base_updates: int = 0,
    learning_starts: int | None = 5_000,
    start_with: Literal["random", "policy"] | None = "random",
) -> dict[str, Any]:
    """Fill the slots with an expressive base policy, edits of its actions, and the choice among both by value.

    Parameters
    ----------
    base : {"diffusion", "flow", "mean-flow"}, GenerativePolicy or callable
        What proposes actions.
    demos : str, optional
        Where prior data are; by default the task's own.
    n_base, n_edit, edit_scale, dropout, average
        See :class:`OnTheFly`.
    hidden : tuple of int, default (256, 256, 256)
        Widths of the critics and of the edit policy.
    members, subset : int, default 10 and 2
        Critics, and how many of them a value is the least of.
    ratio : int, default 20
        Steps of the critic for each transition; both policies make one.
    lr, tau : float, default 3e-4 and 0.005
        Of Adam, and the speed of the slow critics.
    temperature : float, default 1
        At the start.
    target_entropy : float, optional
        Of the scaled edit; by default minus half the number of actions.
    share : float, default 0.5
        Of each batch, from prior data.
    base_hidden : tuple of int, optional
        Widths of a named base policy.
    base_steps : int, optional
        From noise to an action, of a named base policy.
    base_updates : int, default 0
        Gradient steps of imitation before the first step of the environment; the paper makes 200,000 or more where it
        fine-tunes.
    learning_starts : int, default 5,000
        Environment steps before anything is learned; 0 for a base policy that was trained before.
    start_with : {"random", "policy"}
        Who acts until then; the policy, if it was trained before.  With None, this slot, the one above and the ratio are left
        to others.

    Examples
    --------
    >>> sorted(on_the_fly())
    ['critic', 'initialisation', 'learning_starts', 'policy', 'ratio', 'sampler', 'start_with']
    """
    policy = described(base, hidden=base_hidden, steps=base_steps)
    critic = Critics(members, subset, hidden, layer_norm=True, lr=lr, tau=tau)
    on_top = OnTheFly(
        policy,
        n_base,
        n_edit,
        edit_scale,
        hidden=hidden,
        critic=critic,
        lr=lr,
        temperature=temperature,
        target_entropy=target_entropy,
        dropout=dropout,
        average=average,
        delay=ratio or 1,
    )
    return {
        "policy": on_top,
        "critic": critic,
        "sampler": Symmetric(demos, share),
        "initialisation": Imitate(policy, demos, base_updates),
        **left_out(ratio, learning_starts=learning_starts, start_with=start_with),
    }


def idql_online(n_base: int = 16, **settings: Any) -> dict[str, Any]:
    """Fill the slots with the choice among a base policy's own actions, without edits.

    Parameters
    ----------
    n_base : int, default 16
        Actions proposed.
    **settings
        As in :func:`on_the_fly`.
    """
    return on_the_fly(n_base=n_base, n_edit=0, **settings)


def edit_only(**settings: Any) -> dict[str, Any]:
    """Fill the slots with one action of a base policy, always edited, without a choice.

    Parameters
    ----------
    **settings
        As in :func:`on_the_fly`.
    """
    made = on_the_fly(n_base=1, n_edit=1, **settings)
    return made | {"policy": dataclasses.replace(made["policy"], keep_base=False)}


# --- the claim -----------------------------------------------------------------------------------


def _loops(tiny: bool) -> dict[str, OffPolicy]:
    """All arms: the same critics, batches, updates and prior data, and the same clone to begin with."""
    wide, batch = ((16,) * 3, 16) if tiny else ((128,) * 3, 128)
    flow = FlowMatching((16,) * 2 if tiny else (128,) * 3, steps=4)
    common: dict[str, Any] = {
        "action_map": ActionChunks(4),
        "discount": 0.95,
        "batch": batch,
        "points": 16,
        "episodes": 10 if tiny else 100,
    }
    learning: dict[str, Any] = {"hidden": wide, "ratio": 2 if tiny else 8, "lr": 1e-3, "tau": 0.01, "temperature": 0.05}
    cloning = {"initialisation": Imitate(flow, updates=20 if tiny else 2_500, lr=3e-3)}
    expressive: dict[str, Any] = {
        "n_base": 4,
        "edit_scale": 0.3,
        "members": 5,
        "learning_starts": 0,
        "start_with": "policy",
    }
    return {
        "expo": OffPolicy(**on_the_fly(flow, n_edit=4, **expressive, **learning) | cloning, **common),
        "idql-online": OffPolicy(**on_the_fly(flow, n_edit=0, **expressive, **learning) | cloning, **common),
        "rlpd": OffPolicy(**rlpd(members=5, **learning), **common),
        "base": OffPolicy(**base_policy(flow) | cloning, **common),
    }


def measure(seed: int, tiny: bool = False) -> Measures:
    """All arms on one seed's demonstrations, and how often edits are chosen at the end."""
    task = dock_2d(demonstrations=20, radius=0.05, miss=0.1) if tiny else dock_2d(radius=0.05, miss=0.1)
    found: dict[str, dict[str, float]] = {}
    for name, loop in _loops(tiny).items():
        points = loop.learn(task, 80 if tiny else 1920, seed).curve.points
        found[name] = {
            "success in the second half": float(np.mean([each.score for each in points[len(points) // 2 :]]))
        }
        if name == "expo":
            found[name]["edits chosen"] = points[-1].extras["edits_chosen"]
    return found


claim = Claim(
    says="Where precision is needed, choosing among edited actions as well beats choosing among imitated ones, and beats a "
    "Gaussian policy with the same critics and data.",
    measure=measure,
    seeds=5,
    holds=[
        higher("success in the second half", "expo", than="idql-online"),
        higher("success in the second half", "expo", than="rlpd"),
        higher("edits chosen", "expo", than=0.05),
        lower("edits chosen", "expo", than=0.98),
    ],
    note="Two docks of radius 0.05, 300 demonstrations that end 0.1 beside them, 480 decisions of 4 actions each; the base "
    "policy is cloned first, and the same for all.",
)
