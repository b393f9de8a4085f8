"""An agent for users: learning on is learning longer, files and modules predict the same, logs hold the curve."""

from __future__ import annotations

import csv
import json

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict
from safetensors import safe_open
from tests.control.toys import Target, target

from fewer.control import SERL, Agent, OffPolicy, TrainedPolicy
from fewer.control.action_chunks import ActionChunks
from fewer.control.baselines import sac
from fewer.control.critics import Critics
from fewer.control.dock_world import dock_2d
from fewer.control.environments import gym
from fewer.control.expo import on_the_fly
from fewer.control.offline import Offline
from fewer.control.plasticity import PlasticityInjection
from fewer.control.policies import Deterministic
from fewer.core.errors import FewerError
from fewer.event_files import scalars

SMALL = {"batch": 8, "episodes": 2, "learning_starts": 8}
METHOD = "sac(hidden=(8,))"
SEEN = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)


def agent(env=None, method=METHOD, **options):
    return Agent(env or target(steps=3), method, **{"eval_freq": 20, **SMALL, **options})


def told(points):
    return [(p.spent, p.score, {k: v for k, v in p.extras.items() if k != "seconds"}) for p in points]


@pytest.fixture(scope="module")
def learned():
    return agent().learn(40)


# --- learning ------------------------------------------------------------------------------------


def test_the_first_call_is_the_run_of_the_loop():
    task, loop = target(steps=3), OffPolicy(**sac(hidden=(8,)), **SMALL, points=4)
    made = Agent(task, loop, seed=3).learn(60)
    assert told(made.curve) == told(loop.learn(task, 60, 3).curve)
    assert made.num_timesteps == 60


@pytest.mark.parametrize("parts", [(20, 60), (40, 20, 20), (70, 10), (1, 79)])
def test_learning_on_is_learning_longer_to_the_bit(parts):
    at_once, in_parts = agent(copies=2).learn(80), agent(copies=2)
    for part in parts:
        assert in_parts.learn(part) is in_parts
    assert told(in_parts.curve) == told(at_once.curve)
    assert [point.spent for point in at_once.curve] == [20, 40, 60, 80]
    assert np.array_equal(in_parts.predict(SEEN, deterministic=True)[0], at_once.predict(SEEN, deterministic=True)[0])


def test_it_learns_to_the_next_evaluation_and_calls_add_up():
    made = agent().learn(25)
    assert made.num_timesteps == 40
    assert made.learn(15).num_timesteps == 40  # which is what was asked for
    assert made.learn(1).num_timesteps == 60
    assert Agent(target(steps=3), METHOD, **SMALL).learn(90).curve.points[0].spent == 5  # twenty points


@pytest.mark.parametrize("broken_at", [20, 60])
def test_a_script_that_is_started_again_does_what_is_missing(tmp_path, broken_at):
    whole = agent().learn(40).learn(40)
    file = tmp_path / "run"
    agent().learn(broken_at, checkpoint=file)  # a script that was stopped there
    again = agent().learn(40, checkpoint=file, log=tmp_path / "progress.csv")
    assert again.num_timesteps == max(40, broken_at)
    again.learn(40, checkpoint=file)
    assert told(again.curve) == told(whole.curve)
    with pytest.raises(FewerError, match="belongs to another run"):
        agent(seed=1).learn(40, checkpoint=file)
    with pytest.raises(FewerError, match=r"kept in .*run since the first call"):
        again.learn(20, checkpoint=tmp_path / "other")
    with pytest.raises(FewerError, match="is not kept since the first call"):
        whole.learn(20, checkpoint=file)


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


class Stuck(Exception):
    pass


class Breaks(Target):
    def step(self, action):
        Breaks.left -= 1
        if Breaks.left == 0:
            raise Stuck
        return super().step(action)


def test_what_was_learned_before_an_interruption_stays():
    Breaks.left = 10_000
    made = agent(Breaks).learn(20)
    before = made.predict(SEEN, deterministic=True)[0]
    Breaks.left = 1
    with pytest.raises(Stuck):
        made.learn(20)
    assert np.array_equal(made.predict(SEEN, deterministic=True)[0], before)
    assert [point.spent for point in made.curve] == [20]
    with pytest.raises(FewerError, match="broken off within a step"):
        made.learn(20)


# --- environments --------------------------------------------------------------------------------


def test_environments_in_every_form():
    same = [
        told(Agent(env, METHOD, eval_freq=20, **SMALL).learn(20).curve)
        for env in ("Pendulum-v1", "gym(id='Pendulum-v1')", gymnasium.make("Pendulum-v1"), gym("Pendulum-v1"))
    ]
    assert all(each == same[0] for each in same)
    own = [told(agent(env).learn(20).curve) for env in (Target(steps=3), lambda: Target(steps=3), target(steps=3))]
    assert own[0] == own[1] == own[2]


def test_an_environment_that_is_given_is_copied_as_it_stands():
    given = Target(steps=3)
    given.steps = 2  # as a script may set it after it was made
    assert agent(given).learn(20).evaluate(4)["length"] == 2


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


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [METHOD, "td3(hidden=(8,))", "serl(hidden=(8,), members=2)", "dsrl(base_hidden=(8,), base_updates=2, hidden=(8,), members=3)",
     "ofql(hidden=(8,), candidates=3)", "expo(base='flow', base_hidden=(8,), base_updates=2, hidden=(8,), members=2)"],
)  # fmt: skip
def test_a_file_predicts_the_same_to_the_bit(method, tmp_path):
    made = Agent(dock_2d(demonstrations=3), method, eval_freq=12, batch=8, episodes=2).learn(12)
    made.save(tmp_path / "policy")
    again = Agent.load(tmp_path / "policy", "dock-2d(demonstrations=3)")
    for deterministic in (True, False):
        said = []
        for each in (made, again, TrainedPolicy.load(tmp_path / "policy")):
            torch.manual_seed(0)
            said.append(each.predict(SEEN, deterministic=deterministic)[0])
        assert np.array_equal(said[0], said[1])
        assert np.array_equal(said[0], said[2])
    torch.manual_seed(0)
    scored = made.evaluate(4)
    torch.manual_seed(0)
    assert again.evaluate(4) == scored


def test_a_file_says_what_is_in_it_and_loads_anywhere(learned, tmp_path):
    learned.save(tmp_path / "policy")
    with safe_open(tmp_path / "policy", "pt") as file:
        header = json.loads(file.metadata()["fewer"])
    assert header["policy"]["made by"] == "fewer.control.policies:Gaussian"
    assert header["about"] == {
        "method": METHOD, "env": "target({'steps': 3})", "seed": 0, "steps": 40, "score": learned.curve.final,
        "action map": None,
    }  # fmt: skip
    again = Agent.load(tmp_path / "policy")
    assert (again.method, again.num_timesteps) == (METHOD, 40)
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "policy").read_bytes()
    assert Agent.load(tmp_path / "policy", target(steps=3)).evaluate(5, seed=1) == learned.evaluate(5, seed=1)
    with pytest.raises(FewerError, match="loaded without an environment"):
        again.evaluate()
    with pytest.raises(FewerError, match="no memory to learn from"):
        again.learn(10)
    with pytest.raises(FewerError, match=r"2 numbers in an observation and 1 in an action; gym.* has 3 and 1"):
        Agent.load(tmp_path / "policy", "Pendulum-v1")


def test_chunks_of_actions_come_back_with_their_map(tmp_path):
    made = agent(action_map=ActionChunks(3)).learn(20)
    assert made.predict(SEEN)[0].shape == (5, 3)
    made.save(tmp_path / "policy")
    again = Agent.load(tmp_path / "policy", target(steps=3))
    assert again.evaluate(4) == made.evaluate(4)


def test_what_a_file_cannot_hold_is_refused(tmp_path):
    noise = Agent(
        dock_2d(demonstrations=3),
        "dsrl-sac(base_hidden=(8,), base_updates=2, hidden=(8,))",
        eval_freq=10,
        batch=8,
        episodes=2,
    ).learn(10)
    with pytest.raises(FewerError, match="noise for a policy that lies in the action map"):
        noise.save(tmp_path / "noise")
    changed = agent(plasticity=PlasticityInjection(at=2, part="actor")).learn(20)
    with pytest.raises(FewerError, match="networks were changed while learning"):
        changed.save(tmp_path / "changed")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["torchscript", "export"])
@pytest.mark.parametrize("method", [METHOD, "td3(hidden=(8,))"])
def test_the_exported_module_predicts_the_same_for_any_batch(form, method, tmp_path):
    made = agent(target(steps=3, low=-2.0, high=4.0), method).learn(20)
    made.export(tmp_path / "deep" / "policy.pt", form)
    file = tmp_path / "deep" / "policy.pt"
    loaded = torch.jit.load(file) if form == "torchscript" else torch.export.load(file).module()
    for rows in (SEEN, SEEN[:1], np.tile(SEEN, (3, 1))):
        said = made.predict(rows, deterministic=True)[0]
        assert loaded(torch.from_numpy(rows)).numpy() == pytest.approx(said, abs=1e-6)
        assert made.policy_module()(torch.from_numpy(rows)).detach().numpy() == pytest.approx(said, abs=1e-6)
    assert list(file.parent.iterdir()) == [file]
    made.learn(20)  # which exporting does not stop
    with pytest.raises(FewerError, match="unknown form 'onnx'"):
        made.export(file, "onnx")


def test_a_policy_that_draws_its_best_action_is_not_exported(tmp_path):
    filling = on_the_fly("flow", base_hidden=(8,), base_updates=2, hidden=(8,), members=2, learning_starts=4)
    made = Agent(dock_2d(demonstrations=3), filling, eval_freq=8, batch=8, episodes=2).learn(8)
    with pytest.raises(FewerError, match="drawn by chance"):
        made.export(tmp_path / "policy.pt")


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
    refused("did you mean batch", target(), batch_size=8)
    refused("unknown name 'sacc'", target(), "sacc")
    refused("learned by ActiveLearning; give a method of off-policy", target(), "margin")
    refused("learned by Critics", target(), Critics())
    refused("eval_freq is the steps", target(), eval_freq=0)
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
    with pytest.raises(FewerError, match="0 steps teach nothing"):
        fresh.learn(0)
    with pytest.raises(FewerError, match="make another Agent to begin anew"):
        fresh.learn(10, reset_num_timesteps=True)
    with pytest.raises(FewerError, match="0 episodes measure nothing"):
        learned.evaluate(0)
    with pytest.raises(FewerError, match="not finite"):
        learned.predict([np.nan, 0.0])
    assert agent(copies=4, eval_freq=1).learn(2).num_timesteps == 4  # a step of each


class Glued(Target):
    def __deepcopy__(self, memo):
        raise TypeError("it is glued to the table")


def test_an_environment_that_cannot_be_copied():
    with pytest.raises(FewerError, match=r"Glued cannot be copied .it is glued.*give a function that makes it"):
        Agent(Glued())


def test_a_policy_of_ones_own_needs_its_description(tmp_path):
    class Own(Deterministic):
        pass

    made = agent(policy=Own(hidden=(8,))).learn(20)
    made.save(tmp_path / "own")
    with pytest.raises(
        FewerError, match=r"does not say how its policy is built; give the description: load\(path, policy\)"
    ):
        Agent.load(tmp_path / "own")
    again = TrainedPolicy.load(tmp_path / "own", Own(hidden=(8,)))
    assert np.array_equal(again.predict(SEEN)[0], made.predict(SEEN)[0])
