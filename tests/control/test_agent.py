"""An agent for users: any method, observations of any kind, logs that hold the curve, errors that say what would do."""

from __future__ import annotations

import csv

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict
from tests.control.agent_toys import SEEN, SMALL, agent, told
from tests.control.toys import Target, target

from fewer.control import SERL, Agent, OffPolicy
from fewer.control.critics import Critics
from fewer.control.dock_world import dock_2d
from fewer.control.offline import Offline
from fewer.core.errors import FewerError
from fewer.event_files import scalars


@pytest.fixture(scope="module")
def learned():
    return agent().learn(40)


# --- learning ------------------------------------------------------------------------------------


def test_a_filling_a_spec_and_a_loop_are_the_same():
    curves = [
        told(
            Agent("dock-2d(demonstrations=3)", method, eval_freq=8, episodes=2, batch=8, learning_starts=4)
            .learn(8)
            .curve
        )
        for method in (
            "serl(hidden=(8,), members=2)",
            SERL(hidden=(8,), members=2),
            OffPolicy(**SERL(hidden=(8,), members=2)),
        )
    ]
    assert curves[0] == curves[1] == curves[2]


def test_compositions_and_learning_from_data_alone():
    made = Agent("dock-2d(demonstrations=3)", "serl(hidden=(8,), members=2) + adaptive-rr", **SMALL).learn(20)
    assert made.loop.ratio.high == 2
    assert "replay_ratio" in made.curve.points[-1].extras
    offline = Agent(dock_2d(demonstrations=3), "ofql(hidden=(8,), candidates=2)", batch=8, episodes=2, eval_freq=5)
    assert isinstance(offline.loop, Offline)
    assert [point.spent for point in offline.learn(10).learn(5).curve] == [5, 10, 15]


# --- environments --------------------------------------------------------------------------------


class Parts(Target):
    def __init__(self):
        super().__init__(steps=3)
        self.observation_space = Dict({"b": Box(-1, 1, (2,), np.float32), "a": Box(-1, 1, (1, 3), np.float32)})

    def _parts(self, seen):
        return {"b": seen, "a": np.array([[1, 2, 3]], dtype=np.float32) / 4}

    def reset(self, **options):
        seen, info = super().reset(**options)
        return self._parts(seen), info

    def step(self, action):
        seen, *rest = super().step(action)
        return self._parts(seen), *rest


def test_observations_in_parts_are_predicted_for_as_they_come():
    made, env = agent(Parts).learn(20), Parts()
    seen, _ = env.reset(seed=0)
    flat = np.concatenate([seen["a"].ravel(), seen["b"]])
    one = made.predict(seen, deterministic=True)[0]
    assert one.shape == (1,)
    assert np.array_equal(one, made.predict(flat, deterministic=True)[0])
    batch = {name: np.stack([value] * 4) for name, value in seen.items()}
    assert made.predict(batch, deterministic=True)[0] == pytest.approx(np.stack([one] * 4), abs=1e-6)


class Seen(Target):
    """What is wanted is the brightness of a picture."""

    def __init__(self):
        super().__init__(steps=3)
        self.observation_space = Box(0, 255, (16, 16, 1), np.uint8)

    def _picture(self):
        return np.full((16, 16, 1), 255 * abs(self.seen[0]), dtype=np.uint8)

    def reset(self, **options):
        super().reset(**options)
        return self._picture(), {}

    def step(self, action):
        _, *rest = super().step(action)
        return self._picture(), *rest


def test_images_are_learned_from_saved_and_exported(tmp_path):
    made = agent(Seen, capacity=100).learn(20)
    pictures = np.random.default_rng(0).integers(256, size=(3, 16, 16, 1), dtype=np.uint8)
    said = made.predict(pictures, deterministic=True)[0]
    assert made.predict(pictures[0], deterministic=True)[0] == pytest.approx(said[0], abs=1e-5)
    made.save(tmp_path / "policy")
    again = Agent.load(tmp_path / "policy", Seen)
    assert np.array_equal(again.predict(pictures, deterministic=True)[0], said)
    assert again.evaluate(2) == made.evaluate(2)
    made.export(tmp_path / "policy.pt")
    rows = torch.from_numpy(pictures.reshape(3, -1).astype(np.float32))
    assert torch.jit.load(tmp_path / "policy.pt")(rows).numpy() == pytest.approx(said, abs=1e-5)


def test_stable_baselines3_evaluates_it(learned):
    evaluation = pytest.importorskip("stable_baselines3.common.evaluation")
    monitor = pytest.importorskip("stable_baselines3.common.monitor")
    env = monitor.Monitor(Target(steps=3))
    env.reset(seed=0)
    mean, deviation = evaluation.evaluate_policy(learned, env, n_eval_episodes=50)
    assert mean == pytest.approx(learned.evaluate(200)["return"], abs=0.1)
    assert deviation >= 0


# --- logs ----------------------------------------------------------------------------------------


def test_logs_hold_the_curve(tmp_path, capsys):
    made = agent().learn(40, log=tmp_path / "log", progress_bar=True)
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" environment steps")[0] for line in said] == ["20 of 40", "40 of 40"]
    assert all(" a second, 0:0" in line and ": score -" in line for line in said)
    made.learn(20, log=tmp_path / "log")
    with open(tmp_path / "log" / "progress.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [
        (int(row.pop("samples")), float(row.pop("score")), {name: float(value) for name, value in row.items() if value})
        for row in rows
    ] == [(point.spent, point.score, dict(point.extras)) for point in made.curve]
    events = scalars(tmp_path / "log")
    assert events["score"] == {point.spent: pytest.approx(point.score) for point in made.curve}
    assert events["critic_loss"].keys() == {20, 40, 60}


# --- errors --------------------------------------------------------------------------------------


def test_errors_say_what_would_do(learned):
    def refused(message, *arguments, **options):
        with pytest.raises(FewerError, match=message) as error:
            Agent(*arguments, **options)
        assert "\n" not in str(error.value)

    refused("Discrete.* needs a Box", "CartPole-v1")
    refused("unknown to Gymnasium", "Pendulam-v1")
    refused("in which nobody acts", "digits")
    refused("unknown task|unknown to Gymnasium", "gym(id='Pendulam-v1')")
    refused("is no environment; give a name", 3)
    refused("unknown option 'gamma'.*game|unknown option 'gamma'", target(), gamma=0.9)
    refused("here it is batch", target(), batch_size=8)
    refused("unknown name 'sacc'", target(), "sacc")
    refused("learned by ActiveLearning; give a method of off-policy", target(), "margin")
    refused("learned by Critics", target(), Critics())
    refused("eval_freq is the steps", target(), eval_freq=0)
    refused("eval_freq is the steps", target(), eval_freq="often")
    refused("here it is discount", target(), gamma=0.9)
    refused(r"here it is the method's, as in 'sac\(lr=0.001\)'", target(), learning_rate=0.9)
    refused("batch is a whole number of at least 1; given '8'", target(), batch="8")
    refused("learning_starts is a whole number of at least 0; given -1", target(), learning_starts=-1)
    refused("the seed is a whole number.*it is None", target(), seed=None)
    refused("a SyncVectorEnv is several environments", gymnasium.make_vec("Pendulum-v1", num_envs=2))
    fresh = agent()
    for ask in (
        lambda: fresh.predict(SEEN),
        fresh.evaluate,
        lambda: fresh.curve,
        lambda: fresh.save("x"),
        fresh.policy_module,
    ):
        with pytest.raises(FewerError, match="nothing was learned here yet"):
            ask()
    assert fresh.num_timesteps == 0
    for steps in (0, -3, "30", 2.5, None, float("inf")):
        with pytest.raises(FewerError, match=f"{steps!r} steps teach nothing"):
            fresh.learn(steps)
    with pytest.raises(FewerError, match="does not render to frames"):
        fresh.learn(20, video="films")  # before anything is learned
    with pytest.raises(FewerError, match="cannot write"):
        fresh.learn(20, log=__file__)
    assert fresh.num_timesteps == 0
    with pytest.raises(FewerError, match="make another Agent to begin anew"):
        fresh.learn(10, reset_num_timesteps=True)
    with pytest.raises(FewerError, match="0 episodes measure nothing"):
        learned.evaluate(0)
    with pytest.raises(FewerError, match="not finite"):
        learned.predict([np.nan, 0.0])
    with pytest.raises(FewerError, match="an observation and an info; give the first of them alone"):
        learned.predict(Target().reset(seed=0))
    with pytest.raises(FewerError, match="no array of numbers"):
        learned.predict(["left", "right"])
    assert agent(eval_freq=20.0).learn(2e1).num_timesteps == 20
    assert agent(copies=4, eval_freq=1).learn(2).num_timesteps == 4  # a step of each
