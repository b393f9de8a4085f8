from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tests.control.toys import target

from fewer import compose
from fewer.control.action_chunks import ActionChunks
from fewer.control.base_policies import Given
from fewer.control.diffusion_policies import Diffusion
from fewer.control.dock_world import dock_2d
from fewer.control.edited_actions import OnTheFly
from fewer.control.expo import edit_only, idql_online, measure, on_the_fly
from fewer.control.generative_policies import FlowMatching
from fewer.control.loop import FixedRatio, OffPolicy
from fewer.control.offline import Offline
from fewer.control.ofql import one_step_flow
from fewer.control.prior_data import Symmetric
from fewer.control.trained import TrainedPolicy
from fewer.control.wsrl import warm_up
from fewer.core.errors import FewerError

FLOW = FlowMatching((8,), 2)
SMALL = {"hidden": (8,), "members": 3, "ratio": 2}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_always_the_edited_action():
    filling = edit_only(base=FLOW, edit_scale=0.3, **SMALL)
    actor = filling["policy"].build(3, 2)
    seen = torch.randn(5, 3)
    torch.manual_seed(1)
    acted = actor.act(seen)
    torch.manual_seed(1)
    proposed = actor.average.draw(seen, torch.randn(5, 2))
    edits, _ = actor.edit.sample(torch.cat([seen, proposed], -1))
    assert torch.allclose(acted, (proposed + 0.3 * edits).clamp(-1, 1))


def test_it_learns_what_pays_beyond_what_is_proposed():
    """0.5 pays most; the base policy is a black box that proposes what lies far below."""
    base = Given(lambda seen, noise: 0.1 * noise.clamp(-1, 1))
    settings = {"hidden": (32, 32), "members": 3, "ratio": 2, "lr": 3e-3, "temperature": 0.01}

    filling = on_the_fly(base, n_base=4, n_edit=4, edit_scale=0.6, learning_starts=60, **settings)
    filling.pop("sampler")
    loop = OffPolicy(**filling, batch=64, episodes=20, points=2)
    learned = loop.learn(target(), 400)
    assert learned.curve.final > -0.02
    assert learned.curve.points[-1].extras["edits_chosen"] > 0.8
    without = OffPolicy(
        **{**filling, "policy": dataclasses.replace(filling["policy"], n_edit=0)}, batch=64, episodes=20, points=2
    )
    assert without.learn(target(), 400).curve.final < -0.1  # the best of what is proposed is 0.1


@pytest.mark.parametrize("base", [FLOW, Diffusion((8,), 3, time_features=8)])
def test_a_resumed_run_is_the_same_to_the_bit(base, tmp_path):
    filling = on_the_fly(
        base, n_base=2, n_edit=1, dropout=0.1, base_updates=3, learning_starts=20, start_with="policy", **SMALL
    )
    loop = OffPolicy(**filling, action_map=ActionChunks(2), batch=8, episodes=3, points=4)
    task = dock_2d(demonstrations=4)

    def points(**where):
        return [
            (point.spent, point.score, point.extras.get("imitation_loss"), point.extras.get("edits_chosen"))
            for point in loop.run(task, 80, 5, **where)
        ]

    whole = points()
    for stop in (1, 3):
        run = loop.run(task, 80, 5, checkpoint=tmp_path / str(stop))
        for _ in range(stop):
            next(run)
        run.close()
        assert points(checkpoint=tmp_path / str(stop)) == whole
    assert whole[-1][2] is not None


def test_what_was_learned_can_be_saved_with_those_who_judge(tmp_path):
    filling = on_the_fly(FLOW, n_base=2, n_edit=1, base_updates=3, learning_starts=0, **SMALL)
    learned = OffPolicy(**filling, batch=8, episodes=2, points=1).learn(dock_2d(demonstrations=4), 30)
    learned.result.save(tmp_path / "policy.safetensors")
    again = TrainedPolicy.load(tmp_path / "policy.safetensors", filling["policy"])
    seen = np.random.default_rng(0).normal(size=(5, 2))
    made = []
    for policy in (learned.result, again):
        torch.manual_seed(0)
        made.append(policy.predict(seen)[0])
    assert np.array_equal(*made)


@pytest.mark.parametrize("base", ["flow", "mean-flow", "diffusion"])
def test_other_base_policies(base):
    filling = on_the_fly(base, base_hidden=(8,), n_base=2, n_edit=2, base_updates=3, learning_starts=0, **SMALL)
    loop = OffPolicy(**filling, batch=8, episodes=2, points=1)
    assert loop.learn(dock_2d(demonstrations=4), 30).curve.points[-1].extras["imitation_loss"] > 0


def test_a_policy_that_was_learned_from_data_and_values_goes_on_imitating():
    task = dock_2d(demonstrations=4)
    before = (
        Offline(**one_step_flow(hidden=(8,), candidates=2), batch=8, episodes=2, points=1).learn(task, 5).result.actor
    )
    filling = on_the_fly(before.slow, n_base=2, n_edit=1, learning_starts=0, **SMALL)
    after = OffPolicy(**filling, batch=8, episodes=2, points=1).learn(task, 30).result.actor.base
    kept = before.slow.state_dict()
    assert not all(torch.equal(kept[name], value) for name, value in after.state_dict().items())


def test_the_policy_may_act_before_it_learns_as_in_warm_starts():
    filling = on_the_fly(FLOW, n_base=2, n_edit=1, base_updates=3, **SMALL) | warm_up(30)
    loop = OffPolicy(**filling, batch=8, episodes=2, points=2)
    points = loop.learn(dock_2d(demonstrations=4), 60).curve.points
    assert [point.extras["updates"] for point in points] == [0, 60]


def test_settings_as_published():
    filling = on_the_fly()
    policy, critic = filling["policy"], filling["critic"]
    assert (policy.n_base, policy.n_edit, policy.edit_scale, policy.average) == (8, 8, 0.05, 0.001)
    assert policy.base == Diffusion()
    assert policy.editing(6).target_entropy == -3
    assert (critic.members, critic.subset, critic.layer_norm, filling["ratio"]) == (10, 2, True, FixedRatio(20))
    assert (filling["learning_starts"], filling["start_with"], filling["sampler"]) == (5000, "random", Symmetric())
    assert filling["initialisation"].updates == 0
    assert idql_online()["policy"].n_edit == 0
    assert edit_only()["policy"].keep_base is False


def test_specs():
    loop = compose.loop(
        "expo(base='flow', base_hidden=(8,), base_steps=2) + action-chunks(length=4) + warm-up(steps=40) + fixed-ratio(ratio=3)"
    )
    assert isinstance(loop, OffPolicy)
    assert isinstance(loop.policy, OnTheFly)
    assert loop.policy.base == FlowMatching((8,), 2)
    assert (loop.learning_starts, loop.start_with, loop.ratio) == (40, "policy", FixedRatio(3))
    for name in ("idql-online", "edit-only"):
        assert isinstance(compose.loop(f"{name}(base='flow')").policy, OnTheFly)


def test_prior_data_out_of_bounds(tmp_path):
    from fewer.demos.files import write_npz

    task = dock_2d(demonstrations=4)
    demonstrations = task.demonstrations(0)
    demonstrations.actions[3] *= 3
    demonstrations.actions[3] += 2
    write_npz(tmp_path / "docks.npz", demonstrations)
    with pytest.raises(FewerError, match=r"is out of the bounds of dock-2d.*rescale or clip it"):
        OffPolicy(**on_the_fly(FLOW, str(tmp_path / "docks.npz"), **SMALL)).learn(task, 40)


def test_the_measure_sees_all_arms():
    found = measure(0, tiny=True)
    assert set(found) == {"expo", "idql-online", "rlpd", "base"}
    assert 0 <= found["expo"]["edits chosen"] <= 1
