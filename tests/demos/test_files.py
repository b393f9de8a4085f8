"""Reading and writing: every format gives back what was written, and says what is wrong with what was not."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from fewer.core.errors import FewerError, MissingPackage
from fewer.demos import files
from fewer.demos.demonstrations import Demonstrations
from fewer.demos.files import load, write_npz


def made(parts=False):
    rng = np.random.default_rng(0)

    def seen(count):
        array = rng.normal(size=(count, 3)).astype(np.float32)
        return {"position": array, "image": rng.integers(255, size=(count, 2, 2), dtype=np.uint8)} if parts else array

    return Demonstrations(
        seen(5),
        rng.normal(size=(5, 2)).astype(np.float32),
        [0, 2, 5],
        seen(2),
        rng.normal(size=5).astype(np.float32),
        [0, 1, 0, 0, 0],
        successes=[True, False],
    )


# --- NPZ -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [False, True])
def test_npz_comes_back_as_it_was(tmp_path, parts):
    before = made(parts)
    write_npz(tmp_path / "a.npz", before)
    after = load(tmp_path / "a.npz")
    assert after.fingerprint() == before.fingerprint()
    assert after.name == "a.npz"
    if parts:
        assert load(tmp_path / "a.npz", observations="position").observations.shape == (5, 3)


@pytest.mark.parametrize(
    "ends",
    [
        {"offsets": [0, 2, 5]},
        {"episode_ends": [2, 5]},
        {"episode_ends": np.array([0, 1, 0, 0, 1], dtype=bool)},
        {"episode_ends": [0, 1, 0, 0, 1]},
        {"terminations": [0, 1, 0, 0, 0], "truncations": [0, 0, 0, 0, 1]},
        {"terminals": [0, 1, 0, 0, 0], "timeouts": [0, 0, 0, 0, 0]},  # what was not finished is an episode as well
    ],
)
def test_ends_may_be_told_in_several_ways(tmp_path, ends):
    np.savez(tmp_path / "a.npz", obs=np.zeros((5, 3)), actions=np.zeros((5, 2)), **ends)
    assert load(tmp_path / "a.npz").offsets.tolist() == [0, 2, 5]


def test_next_observations_give_the_final_ones(tmp_path):
    seen, final = np.arange(5.0)[:, None], [[10.0], [20.0]]
    following = np.array([[1.0], [10.0], [3.0], [4.0], [20.0]])
    np.savez(tmp_path / "a.npz", observations=seen, actions=seen, next_observations=following, offsets=[0, 2, 5])
    np.testing.assert_array_equal(load(tmp_path / "a.npz").final_observations, final)
    following[0] = 7
    np.savez(tmp_path / "a.npz", observations=seen, actions=seen, next_observations=following, offsets=[0, 2, 5])
    with pytest.raises(FewerError, match="what follows step 0 is not the next step's observation"):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"actions": np.zeros((2, 1))}, r"a.npz has no array 'observations' \(it has actions\)"),
        ({"observations": np.zeros((2, 1)), "x": np.zeros(2)}, "has no array 'actions'"),
        ({"observations": np.zeros((2, 1)), "actions": np.zeros((2, 1))}, "does not say where episodes end"),
        (
            {"observations": np.zeros((2, 1)), "actions": np.zeros((2, 1)), "terminations": [1]},
            "terminations and truncations are one a step; there are 2",
        ),
        (
            {
                "observations": np.zeros((2, 1)),
                "actions": np.zeros((2, 1)),
                "offsets": [0, 2],
                "next_obs": np.zeros((2, 2)),
            },
            "next_observations must be of the shape of observations",
        ),
        (
            {"observations": np.array([[None]]), "actions": np.zeros((1, 1))},
            "holds Python objects, which are not read",
        ),
        ({"observations": np.zeros((2, 1)), "actions": 3.0}, "actions are a single number; give one row a step"),
        (
            {"observations/at": 1.0, "actions": np.zeros((2, 1))},
            "observations/at are a single number; give one row a step",
        ),
    ],
)
def test_a_bad_npz_is_one_clear_line(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(FewerError, match=message):
        load(tmp_path / "a.npz")


def test_a_pickle_is_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    np.savez(tmp_path / "a.npz", observations=np.array([Bomb()], dtype=object), actions=np.zeros((1, 1)))
    with pytest.raises(FewerError, match="not read"):
        load(tmp_path / "a.npz")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["npz", "compressed.npz", "hdf5"])
def test_a_damaged_file_is_one_clear_line(tmp_path, kind):
    rng = np.random.default_rng(0)
    arrays = {"actions": rng.normal(size=(30, 2)), "observations": rng.normal(size=(30, 3))}
    path = tmp_path / f"a.{kind}"
    if kind == "hdf5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            for episode in range(3):
                group = file.create_group(f"data/demo_{episode}")
                group["actions"], group["obs/at"] = arrays["actions"], arrays["observations"]
    else:
        (np.savez if kind == "npz" else np.savez_compressed)(path, **arrays, episode_ends=[10, 30])
    whole = path.read_bytes()
    refused = []
    for each in range(60):
        damaged = bytearray(whole)
        for at in rng.integers(len(damaged), size=3):
            damaged[at] ^= 0xFF
        path.write_bytes(damaged if each % 4 else damaged[: rng.integers(len(damaged))])
        try:
            load(path)
        except FewerError as error:
            refused.append(str(error))
    assert len(refused) >= 15  # whatever was cut off, at least
    assert all(each.startswith(path.name) and "\n" not in each for each in refused)


def test_what_is_no_file_of_demonstrations_is_said(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    (tmp_path / "data.txt").write_text("nothing")
    for source, message in (
        (tmp_path / "bad.npz", "bad.npz cannot be read: it is cut off, or no NPZ file"),
        (tmp_path / "one.npz", "one.npz cannot be read: it is cut off, or no NPZ file"),
        (tmp_path / "none.npz", "there is no such file"),
        (tmp_path / "none.hdf5", "there is no such file"),
        (tmp_path / "data.txt", "unknown kind of file"),
        (tmp_path / "none", "there is no such file; give an .npz"),
    ):
        with pytest.raises(FewerError, match=message):
            load(source)
    with pytest.raises(FewerError, match="names a mask of an HDF5 file"):
        load(tmp_path / "bad.npz", subset="train")
    with pytest.raises(FewerError, match=r"written as \.npz"):
        write_npz(tmp_path / "a.hdf5", made())


# --- HDF5 ------------------------------------------------------------------------------------------------------------


def robomimic(path, episodes=12, **leave):
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for i in range(episodes):
            group = file.create_group(f"data/demo_{i}")
            joints = rng.normal(size=(i + 2, 4))
            group["obs/joints"], group["obs/gripper"] = joints[:-1], np.full((i + 1, 1), i)
            group["next_obs/joints"], group["next_obs/gripper"] = joints[1:], np.full((i + 1, 1), i)
            group["actions"], group["rewards"] = rng.normal(size=(i + 1, 2)), np.zeros(i + 1)
            group["dones"] = np.arange(i + 1) == i
        file["mask/better"] = np.array([b"demo_10", b"demo_2"])
        file["mask/lost"] = np.array([b"demo_99"])
        for key in leave:
            del file[f"data/demo_0/{key}"]


def test_hdf5_as_robomimic_writes_it(tmp_path):
    robomimic(tmp_path / "a.hdf5")
    found = load(tmp_path / "a.hdf5")
    assert found.lengths.tolist() == list(range(1, 13))  # demo_2 before demo_10
    assert set(found.observations) == {"joints", "gripper"}
    assert found.final_observations["joints"].shape == (12, 4)
    assert found.terminations.sum() == 12
    joints = load(tmp_path / "a.hdf5", observations=["joints"], subset="better")
    assert joints.lengths.tolist() == [3, 11]
    assert joints.observations.shape == (14, 4)
    np.testing.assert_array_equal(joints.observations[:3], found.observations["joints"][3:6])


def test_a_bad_hdf5_is_one_clear_line(tmp_path):
    h5py = pytest.importorskip("h5py")
    robomimic(tmp_path / "a.hdf5", actions=True)
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file["x"] = [1]
    (tmp_path / "c.hdf5").write_bytes(b"nothing")
    for name, options, message in (
        ("a", {}, "demo_0 must have actions and obs; it has"),
        ("a", {"subset": "worse"}, "no subset 'worse'; it has better, lost"),
        ("a", {"subset": "lost"}, "'lost' names demo_99, which is not there"),
        ("a", {"subset": "better", "observations": ["arm"]}, "observations have no part 'arm'"),
        ("b", {}, "has no group 'data' with episodes in it"),
        ("c", {}, "cannot be read as HDF5"),
    ):
        with pytest.raises(FewerError, match=message):
            load(tmp_path / f"{name}.hdf5", **options)


def test_hdf5_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(MissingPackage, match=r"pip install 'fewer\[demos\]'"):
        load(tmp_path / "a.hdf5")


# --- LeRobot ---------------------------------------------------------------------------------------------------------


def lerobot(folder, frames, **info):
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps({"fps": 10, **info}))
    for index, frame in enumerate(frames):
        (folder / "data" / "chunk-000").mkdir(parents=True, exist_ok=True)
        frame.to_parquet(folder / "data" / "chunk-000" / f"episode_{index:06d}.parquet")


def frame(episode, length, width=3, **columns):
    rng = np.random.default_rng(episode)
    return pd.DataFrame(
        {
            "observation.state": list(rng.normal(size=(length, width)).astype(np.float32)),
            "action": list(rng.normal(size=(length, 2)).astype(np.float32)),
            "episode_index": episode,
            "frame_index": np.arange(length),
            "next.reward": np.arange(length, dtype=float),
            "next.success": np.arange(length) == length - 1 if episode else False,
            **columns,
        }
    )


def test_a_folder_as_lerobot_writes_it(tmp_path):
    frames = [frame(1, 4).iloc[::-1], frame(0, 2)]  # rows in no order
    lerobot(tmp_path / "robot", frames)
    found = load(tmp_path / "robot")
    assert found.lengths.tolist() == [2, 4]
    assert found.successes.tolist() == [False, True]
    assert found.rewards.tolist() == [0, 1, 0, 1, 2, 3]
    np.testing.assert_array_equal(found.observations[:2], np.stack(list(frame(0, 2)["observation.state"])))
    np.testing.assert_array_equal(found.actions[2:], np.stack(list(frame(1, 4)["action"])))
    assert found.final_observations is None


def test_several_columns_are_parts_and_films_are_left_out(tmp_path):
    extra = {"observation.force": [1.0, 2.0], "observation.image": [{"path": "a"}, {"path": "b"}]}
    lerobot(tmp_path / "robot", [frame(0, 2, **extra)])
    assert set(load(tmp_path / "robot").observations) == {"observation.state", "observation.force"}
    assert load(tmp_path / "robot", observations="observation.force").observations.tolist() == [1.0, 2.0]


def test_a_bad_lerobot_folder_is_one_clear_line(tmp_path):
    lerobot(tmp_path / "none", [])
    lerobot(tmp_path / "mixed", [frame(0, 2), frame(1, 2, width=4)])
    lerobot(tmp_path / "blind", [frame(0, 2).drop(columns="observation.state")])
    lerobot(tmp_path / "still", [frame(0, 2).drop(columns="action")])
    lerobot(tmp_path / "films", [frame(0, 2).assign(**{"observation.state": [{"path": "a"}, {"path": "b"}]})])
    gaps = frame(0, 2).assign(**{"observation.state": [1.0, None]})
    lerobot(tmp_path / "gaps", [gaps])
    for name, message in (
        ("none", "no Parquet file below its folder data"),
        ("mixed", "rows of observation.state are of mixed lengths, 3 to 4"),
        ("blind", "has no column 'observation.state'"),
        ("still", "has no column 'action'"),
        ("films", "no column of observations holds numbers"),
        ("gaps", "column observation.state has gaps"),
    ):
        with pytest.raises(FewerError, match=message):
            load(tmp_path / name)


# --- Minari ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def minari(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    pytest.importorskip("h5py")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return minari


def write_minari(minari, name, lengths, space, observe, **options):
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer

    buffers = [
        EpisodeBuffer(
            id=i,
            observations=observe(length + 1),
            actions=np.full((length, 2), i, dtype=np.float32),
            rewards=np.arange(length, dtype=float),
            terminations=np.arange(length) == length - 1,
            truncations=np.zeros(length, dtype=bool),
            infos={"success": np.arange(length) == length - 1},
        )
        for i, length in enumerate(lengths)
    ]
    minari.create_dataset_from_buffers(
        name, buffers, observation_space=space, action_space=Box(-9, 9, (2,), np.float32), **options
    )


def test_a_minari_data_set_by_id_and_by_path(minari, tmp_path):
    from gymnasium.spaces import Box

    write_minari(
        minari, "toy/first-v0", [2, 3], Box(-9, 9, (3,)), lambda n: np.arange(3.0 * n, dtype=np.float32).reshape(n, 3)
    )
    found = load("toy/first-v0")
    assert found.name == "toy/first-v0"
    assert found.lengths.tolist() == [2, 3]
    assert found.terminations.tolist() == [False, True, False, False, True]
    assert found.successes.tolist() == [True, True]
    np.testing.assert_array_equal(found.final_observations, [[6, 7, 8], [9, 10, 11]])
    for path in (tmp_path / "minari" / "toy" / "first-v0", tmp_path / "minari" / "toy" / "first-v0" / "data"):
        assert load(path).fingerprint() == found.fingerprint()


def test_nested_observations_are_parts(minari):
    from gymnasium.spaces import Box, Dict

    space = Dict({"arm": Dict({"joint": Box(-9, 9, (2,))}), "goal": Box(-9, 9, (1,))})
    write_minari(
        minari, "toy/dict-v0", [2], space,
        lambda n: {"arm": {"joint": np.zeros((n, 2), np.float32)}, "goal": np.ones((n, 1), np.float32)},
    )  # fmt: skip
    assert set(load("toy/dict-v0").observations) == {"arm/joint", "goal"}
    assert load("toy/dict-v0", observations=["goal"]).observations.tolist() == [[1.0], [1.0]]


def test_what_minari_does_not_have_is_said(minari, tmp_path):
    with pytest.raises(FewerError, match="no such Minari data set on this machine; fetch it with 'minari download"):
        load("toy/none-v0")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FewerError, match="no data set is known by this folder"):
        load(tmp_path / "folder")


def test_an_environment_is_never_made_to_read_a_data_set(minari, tmp_path):
    from gymnasium.spaces import Box

    write_minari(minari, "toy/x-v0", [2], Box(-9, 9, (3,)), lambda n: np.zeros((n, 3), np.float32))
    file = tmp_path / "minari" / "toy" / "x-v0" / "data" / "metadata.json"
    described = json.loads(file.read_text())
    del described["observation_space"]
    described["env_spec"] = json.dumps({"id": "x", "entry_point": "os:getcwd"})
    file.write_text(json.dumps(described))
    with pytest.raises(FewerError, match="the spaces are not described"):
        load("toy/x-v0")


def test_every_alias_is_a_field_of_the_container():
    fields = set(Demonstrations.__dataclass_fields__) | {"next_observations", "episode_ends"}
    assert set(files.ALIASES) <= fields
