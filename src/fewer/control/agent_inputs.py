"""What a user may give an agent for its method and its environment, and which loop and task are meant by it."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fewer.control.environments import Environment, GymEnvironment, gym
from fewer.control.loop import OffPolicy
from fewer.core.errors import FewerError, nearest
from fewer.core.spec import parse_one

if TYPE_CHECKING:
    import gymnasium

ELSEWHERE = {
    "gamma": "discount",
    "buffer_size": "capacity",
    "batch_size": "batch",
    "n_envs": "copies",
    "gradient_steps": "ratio=FixedRatio(…)",
    "train_freq": "ratio=FixedRatio(…)",
    "action_noise": "exploration=GaussianNoise(…)",
    "learning_rate": "the method's, as in 'sac(lr=0.001)'",
    "tau": "the method's, as in 'sac(tau=0.01)'",
    "ent_coef": "the method's, as in 'sac(temperature=0.1)'",
    "target_entropy": "the method's, as in 'sac(target_entropy=-3)'",
    "policy_kwargs": "the method's, as in 'sac(hidden=(64, 64))'",
    "tensorboard_log": "learn(…, log=folder)",
    "n_eval_episodes": "episodes",
}
"""What an option of Stable-Baselines3 is called here."""


def loop_of(method: str | Mapping[str, Any] | OffPolicy, options: Mapping[str, Any]) -> OffPolicy:
    """The loop that is meant.

    Parameters
    ----------
    method : str, mapping or OffPolicy
        A spec, a filling, or the loop itself.
    options : mapping
        Fields of the loop, and what they are to be instead.

    Raises
    ------
    FewerError
        If it is none of off-policy control, or an option is unknown.
    """
    if isinstance(method, str):
        from fewer import compose

        made = compose.loop(method)
    elif isinstance(method, Mapping):
        made = OffPolicy(**method)
    else:
        made = method
    if not isinstance(made, OffPolicy):
        raise FewerError(
            f"agent: {method} is learned by {type(made).__name__}; give a method of off-policy control, such as sac"
        )
    known = [field.name for field in dataclasses.fields(made)]
    if unknown := [name for name in options if name not in known]:
        said = ELSEWHERE.get(unknown[0])
        raise FewerError(
            f"agent: unknown option {unknown[0]!r}; {nearest(unknown[0], known) if said is None else f'here it is {said}'}"
        )
    return dataclasses.replace(made, **options)


def whole(number: Any) -> int | None:
    """A number of steps, which may be written as ``1e5``; None where it is no whole number."""
    try:
        return int(number) if int(number) == number else None
    except (TypeError, ValueError, OverflowError):
        return None


def environment_of(env: str | Environment | gymnasium.Env | Callable[[], gymnasium.Env]) -> Environment:
    """The task that is meant.

    Parameters
    ----------
    env : str, gymnasium.Env, callable or Environment
        A name of Gymnasium or the spec of a task, an environment, which is copied, a function that makes one, or a task.

    Raises
    ------
    FewerError
        If nobody can act in it, or it cannot be copied.
    """
    if isinstance(env, Environment):
        return env
    if isinstance(env, str):
        if not _names_a_task(env):
            return gym(env)
        from fewer import compose

        task = compose.task(env)
        if not isinstance(task, Environment):
            raise FewerError(f"agent: {env} is a {type(task).__name__}, in which nobody acts; give an environment")
        return task
    if hasattr(env, "num_envs"):
        raise FewerError(
            f"agent: a {type(env).__name__} is several environments; give one of them, or a function that makes one, and copies="
        )
    if hasattr(env, "action_space"):
        made: gymnasium.Env = env  # pyright: ignore[reportAssignmentType]
        name = made.spec.id if made.spec is not None else type(made.unwrapped).__name__
        return GymEnvironment(name, lambda: _copy(made, name))
    if callable(env):
        return GymEnvironment(getattr(env, "__name__", type(env).__name__), env)
    raise FewerError(f"agent: {env!r} is no environment; give a name, a gymnasium.Env or a function that makes one")


def _names_a_task(text: str) -> bool:
    from fewer import catalogue

    try:
        return parse_one(text).name in catalogue.parts("task")
    except FewerError:  # names of Gymnasium may have colons and slashes in them
        return False


def _copy(env: gymnasium.Env, name: str) -> gymnasium.Env:
    """The same environment again: as it stands, or by its name."""
    import gymnasium

    try:
        return copy.deepcopy(env)
    except Exception as error:  # whatever it holds that cannot be copied
        with contextlib.suppress(Exception):
            if env.spec is not None:
                return gymnasium.make(env.spec)
        raise FewerError(f"agent: {name} cannot be copied ({error}); give a function that makes it") from error
