"""Modules that predict the same without the library."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.control.agent_toys import METHOD, SEEN, agent
from tests.control.toys import target

from fewer.control import Agent
from fewer.control.dock_world import dock_2d
from fewer.control.expo import on_the_fly
from fewer.core.errors import FewerError


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
