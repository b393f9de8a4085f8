from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.control.toys import target

from fewer.control.policies import Deterministic, Gaussian
from fewer.control.trained import FORMAT, TrainedPolicy
from fewer.core.errors import FewerError


@pytest.fixture
def policy():
    torch.manual_seed(0)
    return TrainedPolicy(Gaussian(hidden=(8,)).build(2, 1), target(low=-2.0, high=4.0))


def test_predictions_are_in_the_environments_units(policy):
    actions, state = policy.predict(np.random.default_rng(0).normal(size=(200, 2)))
    assert state is None
    assert actions.shape == (200, 1)
    assert ((actions >= -2) & (actions <= 4)).all()
    assert actions.std() > 0.1
    single, _ = policy.predict([0.1, 0.2], deterministic=True)
    assert single.shape == (1,)
    assert np.array_equal(single, policy.predict([0.1, 0.2], deterministic=True)[0])


def test_the_module_says_the_same_and_can_be_traced(policy):
    seen = torch.randn(5, 2)
    module = policy.module()
    assert module(seen).detach().numpy() == pytest.approx(policy.predict(seen.numpy(), deterministic=True)[0], abs=1e-6)
    traced = torch.jit.trace(module, seen)
    assert torch.allclose(traced(seen * 2), module(seen * 2))


def test_saved_and_loaded(policy, tmp_path):
    policy.save(tmp_path / "policy.safetensors")
    again = TrainedPolicy.load(tmp_path / "policy.safetensors", Gaussian(hidden=(8,)))
    seen = np.random.default_rng(0).normal(size=(5, 2))
    assert np.array_equal(policy.predict(seen, deterministic=True)[0], again.predict(seen, deterministic=True)[0])
    with pytest.raises(FewerError, match="a policy of another shape"):
        TrainedPolicy.load(tmp_path / "policy.safetensors", Gaussian(hidden=(9,)))
    with pytest.raises(FewerError, match="a policy of another shape"):
        TrainedPolicy.load(tmp_path / "policy.safetensors", Deterministic(hidden=(8,)))
    with pytest.raises(FewerError, match=r"does not say how its policy is built; give the description"):
        TrainedPolicy.load(tmp_path / "policy.safetensors")
    header = {"fewer": json.dumps({"format": FORMAT, "policy": None, "critic": None, "about": {}})}
    save_file({"low": torch.zeros(1)}, tmp_path / "damaged", metadata=header)
    with pytest.raises(FewerError, match="is damaged: it says nothing of observations"):
        TrainedPolicy.load(tmp_path / "damaged")
    (tmp_path / "broken").write_bytes(b"nothing")
    with pytest.raises(FewerError, match="is no saved policy"):
        TrainedPolicy.load(tmp_path / "broken", Gaussian())
    with pytest.raises(FewerError, match="is no saved policy"):
        TrainedPolicy.load(tmp_path / "missing", Gaussian())


def test_the_description_in_the_file_is_enough(tmp_path):
    task, description = target(low=-2.0, high=4.0), Deterministic(hidden=(8,), smoothing=0.1)
    policy = TrainedPolicy(description.build(2, 1), task, description)
    policy.save(tmp_path / "policy", {"note": "mine"})
    again = TrainedPolicy.load(tmp_path / "policy")
    assert (again.description, again.about) == (description, {"note": "mine"})
    assert np.array_equal(policy.predict(np.ones((3, 2)))[0], again.predict(np.ones((3, 2)))[0])


def test_saving_and_loading_leave_chance_alone(tmp_path):
    description = Gaussian(hidden=(8,))
    policy = TrainedPolicy(description.build(2, 1), target(), description)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    policy.save(tmp_path / "policy")
    TrainedPolicy.load(tmp_path / "policy")
    policy.export(tmp_path / "policy.pt")
    assert torch.equal(torch.rand(2), expected)


def test_observations_of_another_environment(policy):
    with pytest.raises(FewerError, match="has 3 numbers, and 2 were trained with"):
        policy.predict(np.zeros(3))
