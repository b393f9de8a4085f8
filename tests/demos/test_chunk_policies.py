from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fewer.core import checkpoint
from fewer.core.errors import FewerError
from fewer.demos.chunk_policies import ChunkPolicy

LOW, HIGH = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 10.0])


def policy(chunk=4, **settings):
    torch.manual_seed(0)
    return ChunkPolicy({"": (3,)}, (2,), LOW, HIGH, chunk=chunk, hidden=(8,), features=3, **settings).eval()


def seen(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)


def test_actions_and_chunks_are_scaled_by_their_bounds():
    given = policy()
    actions = np.array([[-2.0, 0.0], [0.0, 5.0], [2.0, 10.0]])
    assert given.scaled(actions).tolist() == [[-1, -1], [0, 0], [1, 1]]
    with torch.no_grad():
        answered = given(seen(5))
    planned = given.plan(seen(5))
    assert planned.shape == (5, 4, 2)
    assert (planned >= LOW.numpy()).all()
    assert (planned <= HIGH.numpy()).all()
    np.testing.assert_allclose(given.scaled(planned.reshape(-1, 2)), answered.flatten(0, 1), atol=1e-5)


@pytest.mark.parametrize("execute", [None, 1, 3])
def test_a_chunk_is_carried_out_before_the_next_is_asked_for(execute):
    given = policy(execute=execute)
    steps = [seen(2, i) for i in range(9)]
    given.begin(2, np.random.default_rng(0))
    done = [given.act(each) for each in steps]
    every = execute or 4
    for i, action in enumerate(done):
        asked = i - i % every
        np.testing.assert_array_equal(action, given.plan(steps[asked])[:, i % every])
    given.begin(2, np.random.default_rng(0))
    np.testing.assert_array_equal(given.act(steps[5]), given.plan(steps[5])[:, 0])


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_the_average_over_time_is_that_of_all_plans_for_the_step(rate):
    given = policy(average=rate)
    steps = [seen(2, i) for i in range(7)]
    plans = [given.plan(each) for each in steps]
    given.begin(2, np.random.default_rng(0))
    for t, each in enumerate(steps):
        expected, total = 0.0, 0.0
        asked = range(max(0, t - 3), t + 1)  # the oldest first
        for rank, when in enumerate(asked):
            weight = np.exp(-rate * rank)
            expected, total = expected + weight * plans[when][:, t - when], total + weight
        np.testing.assert_allclose(given.act(each), expected / total, rtol=1e-5, atol=1e-6)


def test_a_single_observation_gets_a_single_action():
    given = policy()
    alone = [given.act(seen(1)[0]) for _ in range(3)]
    assert alone[0].shape == (2,)
    np.testing.assert_allclose(np.stack(alone), given.plan(seen(1))[0, :3], rtol=1e-6)


def test_another_number_of_observations_needs_a_new_episode():
    given = policy()
    given.act(seen(2))
    with pytest.raises(FewerError, match="3 observations were given and 2 at the step before; call begin"):
        given.act(seen(3))
    given.begin(3, np.random.default_rng(0))
    assert given.act(seen(3)).shape == (3, 2)


def test_observations_in_parts_are_put_side_by_side():
    torch.manual_seed(0)
    given = ChunkPolicy({"a": (1,), "b": (2,)}, (2,), LOW, HIGH, chunk=4, hidden=(8,), features=3).eval()
    table = seen(5)
    np.testing.assert_array_equal(given.plan({"b": table[:, 1:], "a": table[:, :1]}), policy().plan(table))
    assert given.act({"a": table[0, :1], "b": table[0, 1:]}).shape == (2,)


class Eyes(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.layer = nn.Linear(12, width)

    def forward(self, observations):
        return self.layer(observations["image"].flatten(1)) + observations["arm"].sum(1, keepdim=True)


def test_an_encoder_sees_the_parts_as_they_are():
    torch.manual_seed(0)
    eyes = Eyes()
    shapes = {"arm": (2,), "image": (3, 2, 2)}
    given = ChunkPolicy(shapes, (2,), LOW, HIGH, chunk=4, hidden=(8,), features=3, encoder=eyes)
    observations = {"image": np.full((5, 3, 2, 2), 200, dtype=np.uint8), "arm": np.ones((5, 2))}
    expected = eyes.layer(torch.full((5, 12), 200.0)) + 2
    torch.testing.assert_close(given.features(observations), expected)
    torch.testing.assert_close(given.all_features(observations), expected.detach())


@pytest.mark.parametrize("settings", [{}, {"execute": 2}, {"average": 0.1}])
def test_a_saved_policy_acts_as_before(tmp_path, settings):
    given = policy(**settings)
    given.centre.fill_(0.5)
    given.save(tmp_path / "policy.safetensors")
    read = ChunkPolicy.load(tmp_path / "policy.safetensors")
    assert (read.execute, read.average, read.chunk) == (given.execute, given.average, 4)
    for i in range(6):
        np.testing.assert_array_equal(read.act(seen(2, i)), given.act(seen(2, i)))


def test_a_saved_encoder_is_read_into_one_of_its_shape(tmp_path):
    path, shapes = tmp_path / "policy.safetensors", {"arm": (2,), "image": (3, 2, 2)}
    given = ChunkPolicy(shapes, (2,), LOW, HIGH, chunk=4, hidden=(8,), features=3, encoder=Eyes())
    given.save(path)
    read = ChunkPolicy.load(path, encoder=Eyes())
    observations = {"image": np.ones((5, 3, 2, 2)), "arm": np.ones((5, 2))}
    np.testing.assert_array_equal(read.plan(observations), given.plan(observations))
    with pytest.raises(FewerError, match="was saved with an encoder; give one of its shape as encoder="):
        ChunkPolicy.load(path)
    with pytest.raises(FewerError, match="the encoder is not the one it was saved with"):
        ChunkPolicy.load(path, encoder=Eyes(width=4))
    policy().save(path)
    with pytest.raises(FewerError, match="was saved without an encoder; give none"):
        ChunkPolicy.load(path, encoder=Eyes())


def test_other_files_are_refused(tmp_path):
    checkpoint.save(tmp_path / "other", {"kind": "Other"})
    with pytest.raises(FewerError, match=r"holds no chunk policy; give a file that ChunkPolicy\.save wrote"):
        ChunkPolicy.load(tmp_path / "other")
    with pytest.raises(FewerError, match="no checkpoint at"):
        ChunkPolicy.load(tmp_path / "missing")


@pytest.mark.parametrize(
    ("observations", "message"),
    [
        (np.zeros((5, 4)), r"observations have shape \(4,\) and those that were demonstrated \(3,\)"),
        (
            {"arm": np.zeros((5, 3))},
            "observations have no single array, as those that were demonstrated; they have arm",
        ),
    ],
)
def test_observations_of_another_kind_are_refused(observations, message):
    with pytest.raises(FewerError, match=message):
        policy().plan(observations)


def test_a_missing_part_is_named():
    given = ChunkPolicy({"a": (1,), "b": (2,)}, (2,), LOW, HIGH, chunk=4, hidden=(8,), features=3)
    with pytest.raises(FewerError, match="observations have no part 'b', as those that were demonstrated; they have a"):
        given.act({"a": np.zeros((5, 1))})
    with pytest.raises(FewerError, match="they have a single array"):
        given.act(np.zeros((5, 1)))
