"""A file predicts the same, and learning on from it is learning on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tests.control.agent_toys import METHOD, SEEN, SMALL, agent, same, told
from tests.control.image_toys import spot_task
from tests.control.toys import Target, target

from fewer.control import Agent, TrainedPolicy
from fewer.control.action_chunks import ActionChunks
from fewer.control.dock_world import dock_2d
from fewer.control.loop import GaussianNoise
from fewer.control.plasticity import PlasticityInjection
from fewer.control.policies import Deterministic
from fewer.control.trained import read, write
from fewer.core.errors import FewerError


@pytest.fixture(scope="module")
def learned():
    return agent().learn(40)


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
    assert (again.method, again.num_timesteps, again.loop, again.curve) == (METHOD, 40, learned.loop, learned.curve)
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "policy").read_bytes()
    assert Agent.load(tmp_path / "policy", target(steps=3)).evaluate(5, seed=1) == learned.evaluate(5, seed=1)
    with pytest.raises(FewerError, match="loaded without an environment"):
        again.evaluate()
    with pytest.raises(FewerError, match="loaded without an environment; give one to learn in"):
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


# --- learning on ---------------------------------------------------------------------------------


DOCKS = {"batch": 8, "episodes": 2, "eval_freq": 12, "learning_starts": 4}


def docks(method, **options):
    return Agent(dock_2d(demonstrations=3), method, **{**DOCKS, **options})


def through_a_file(made, path, env, replay=True, **options):
    made.save(path, replay=replay)
    return Agent.load(path, env, **options)


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("method", [METHOD, "td3(hidden=(8,))", METHOD + " + periodic-reset(every=15)"])
def test_with_its_memory_it_goes_on_to_the_bit(method, copies, tmp_path):
    whole, parted = (agent(method=method, copies=copies) for _ in range(2))
    parted = through_a_file(parted.learn(20), tmp_path / "once", target(steps=3))  # within an episode
    parted = through_a_file(parted.learn(20), tmp_path / "twice", target(steps=3))
    parted = through_a_file(parted, tmp_path / "unlearned", target(steps=3))
    assert same(parted.learn(40), whole.learn(80))
    assert len(parted._run.state.replay) == 80


@pytest.mark.parametrize(
    "method",
    ["serl(hidden=(8,), members=2, reward='vice') + adaptive-rr(every_episodes=1)",
     "serl(hidden=(8,), members=2) + action-chunks(length=2)",
     "dsrl(base_hidden=(8,), base_updates=2, hidden=(8,), members=3, ratio=1)", "ofql(hidden=(8,), candidates=3)",
     "expo(base='flow', base_hidden=(8,), base_updates=2, hidden=(8,), members=2, ratio=2)",
     "wsrl(warm_up=4, pretraining=3, hidden=(8,), members=3)"],
)  # fmt: skip
def test_every_method_goes_on(method, tmp_path, monkeypatch):
    whole, parted = docks(method).learn(24).learn(12), docks(method).learn(24)
    parted.save(tmp_path / "agent", replay=True)
    loop = parted.loop
    if loop.initialisation is not None:  # what comes before the first step is not done again
        monkeypatch.setattr(type(loop.initialisation), "initialise", lambda *_: 1 / 0)
    again = Agent.load(tmp_path / "agent", dock_2d(demonstrations=3))
    assert again.loop == loop
    assert same(again.learn(12), whole)


def test_images_are_remembered(tmp_path):
    def small():
        return Agent(spot_task(), METHOD, eval_freq=15, capacity=40, **SMALL)

    again = through_a_file(small().learn(30), tmp_path / "agent", spot_task()).learn(30)
    assert told(again.curve) == told(small().learn(60).curve)


def test_what_is_learned_from_data_alone_needs_no_memory(tmp_path):
    method = "ofql(hidden=(8,), candidates=2)"
    again = through_a_file(docks(method).learn(12), tmp_path / "agent", dock_2d(demonstrations=3), replay=False)
    assert same(again.learn(12), docks(method).learn(24))


def test_a_second_save_adds_what_is_new_and_one_without_memory_removes_it(tmp_path):
    file, folder = tmp_path / "agent", tmp_path / "agent.segments"
    made = agent().learn(20)
    made.save(file, replay=True)
    first = {each.name for each in folder.iterdir()}
    made.learn(20).save(file, replay=True)
    assert len(first) == 1
    assert first < {each.name for each in folder.iterdir()}
    again = through_a_file(Agent.load(file), tmp_path / "copy", target(steps=3))  # without an environment
    assert same(again.learn(20), agent().learn(60))
    forgetful = Agent.load(file, target(steps=3))
    forgetful.save(file)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["agent", "copy", "copy.segments"]
    assert len(forgetful.learn(20)._run.state.replay) == 20
    (tmp_path / "copy.segments" / next(iter(first))).unlink()
    with pytest.raises(FewerError, match="a part of a checkpoint, is damaged"):
        Agent.load(tmp_path / "copy", target(steps=3)).learn(20)
    with pytest.raises(FewerError, match="a part of a checkpoint, is gone"):
        Agent.load(tmp_path / "copy").save(tmp_path / "elsewhere", replay=True)


def test_without_its_memory_the_policy_acts_until_there_is_one(tmp_path):
    made = agent().learn(40)
    again = through_a_file(made, tmp_path / "agent", target(steps=3), replay=False, learning_starts=20)
    before = [again.predict(SEEN, deterministic=True)[0]]
    assert again.learn(20).num_timesteps == 60
    state = again._run.state
    assert np.array_equal(again.predict(SEEN, deterministic=True)[0], before[0])
    assert (len(state.replay), state.updates) == (20, 32)
    assert (state.replay.take(torch.arange(20)).actions.abs() < 1).all()
    # a file in the middle of that, with what is remembered by then
    parted = through_a_file(again, tmp_path / "again", target(steps=3))
    assert same(parted.learn(20), again.learn(20))
    assert (len(state.replay), state.updates) == (40, 52)
    assert [point.spent for point in again.curve] == [20, 40, 60, 80]
    # as many steps as a batch has, at least
    short = Agent.load(tmp_path / "agent", target(steps=3), learning_starts=0, batch=16).learn(20)
    assert short._run.state.updates == 32 + 4


def test_another_environment_begins_with_episodes_of_its_own(tmp_path):
    made = agent().learn(40)
    for env, options in ((target(steps=2), {}), (target(steps=3), {"copies": 2})):
        other = through_a_file(made, tmp_path / "agent", env, **options)
        assert other.learn(20).num_timesteps == 60
        memory = other._run.state.replay
        assert len(memory) == 60
        episode = 2 if not options else 3
        ended = memory.take(torch.arange(40, 60)).continues == 0
        each = ended.reshape(-1, options.get("copies", 1))
        assert (each.nonzero()[:, 0] % episode == episode - 1).all()


def test_after_an_interruption_it_can_be_saved(tmp_path):
    class Stuck(Target):
        left = 30

        def step(self, action):
            Stuck.left -= 1
            if not Stuck.left:
                raise KeyboardInterrupt
            return super().step(action)

    made = agent(lambda: Stuck(steps=3))
    with pytest.raises(KeyboardInterrupt):
        made.learn(60)
    done = made.num_timesteps
    again = through_a_file(made, tmp_path / "agent", target(steps=3))
    assert again.num_timesteps == done > 20
    assert [point.spent for point in again.learn(20).curve] == [20, 40, 60][: len(again.curve.points)]
    assert again.num_timesteps >= done + 20


def test_a_checkpoint_of_what_was_loaded(tmp_path):
    agent().learn(20).save(tmp_path / "agent", replay=True)
    stopped = Agent.load(tmp_path / "agent", target(steps=3)).learn(20, checkpoint=tmp_path / "run")
    again = Agent.load(tmp_path / "agent", target(steps=3)).learn(
        40, checkpoint=tmp_path / "run", log=tmp_path / "t.csv"
    )
    assert stopped.num_timesteps == 40
    assert same(again, agent().learn(60))
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 4


def test_parts_of_ones_own_are_to_be_brought(tmp_path):
    own = Own(hidden=(8,))
    made = agent(policy=own).learn(20)
    again = through_a_file(made, tmp_path / "own", target(steps=3), method=made.loop)
    assert same(again.learn(20), agent(policy=own).learn(40))

    class Louder(GaussianNoise):
        pass

    made = agent(exploration=Louder()).learn(20)
    made.save(tmp_path / "loud", replay=True)
    again = Agent.load(tmp_path / "loud", target(steps=3))
    assert again.evaluate(2) == made.evaluate(2)
    with pytest.raises(FewerError, match=r"parts of your own; give it: Agent.load\(path, env, method\)"):
        again.learn(20)
    with pytest.raises(FewerError, match="does not say how its method is built"):
        Agent.load(tmp_path / "loud", target(steps=3), batch=4)
    assert same(Agent.load(tmp_path / "loud", target(steps=3), made.loop).learn(20), made.learn(20))


def test_what_does_not_fit_is_refused(learned, tmp_path):
    file = tmp_path / "agent"
    learned.save(file)
    with pytest.raises(FewerError, match="unknown option 'batch_size'; here it is batch"):
        Agent.load(file, target(steps=3), batch_size=4)
    for method in ("td3(hidden=(8,))", "sac(hidden=(9,))", METHOD + " + adaptive-rr"):
        other = Agent.load(file, target(steps=3), method)
        with pytest.raises(FewerError, match="the file does not fit this method and environment") as error:
            other.learn(20)
        assert "\n" not in str(error.value)
        assert other.num_timesteps == 40  # and predicts as before
        assert np.array_equal(other.predict(SEEN, deterministic=True)[0], learned.predict(SEEN, deterministic=True)[0])
    learned.policy.save(tmp_path / "policy")
    alone = Agent.load(tmp_path / "policy", target(steps=3))
    assert alone.predict(SEEN)[0].shape == (5, 1)
    with pytest.raises(FewerError, match="holds a policy alone"):
        alone.learn(20)
    with pytest.raises(FewerError, match="is a folder, and no saved policy"):
        Agent.load(tmp_path)
    tensors, header = read(file)
    for change in ({"pairs": []}, "nothing", {"!": "dict", "pairs": []}):
        write(tmp_path / "damaged", tensors, {**header, "learning": change})
        with pytest.raises(FewerError, match="is damaged"):
            Agent.load(tmp_path / "damaged")
    lacking = {name: value for name, value in tensors.items() if name != "learning.0"}
    write(tmp_path / "damaged", lacking, header)
    with pytest.raises(FewerError, match="is damaged"):
        Agent.load(tmp_path / "damaged")


class Own(Deterministic):
    pass


def test_a_policy_of_ones_own_needs_its_description(tmp_path):
    made = agent(policy=Own(hidden=(8,))).learn(20)
    made.save(tmp_path / "own")
    with pytest.raises(
        FewerError, match=r"does not say how its policy is built; give the description: load\(path, policy\)"
    ):
        Agent.load(tmp_path / "own")
    again = TrainedPolicy.load(tmp_path / "own", Own(hidden=(8,)))
    assert np.array_equal(again.predict(SEEN)[0], made.predict(SEEN)[0])
