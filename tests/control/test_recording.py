"""Films: as many frames as the episodes have observations, in the right colours, in either format."""

from __future__ import annotations

import sys

import gymnasium
import numpy as np
import pytest
from PIL import Image
from tests.control.toys import Target

from fewer import compose
from fewer.control import Agent
from fewer.control.action_chunks import ActionChunks
from fewer.control.baselines import sac
from fewer.control.dock_world import dock_2d
from fewer.control.environments import GymEnvironment, gym
from fewer.control.forward_backward import ForwardBackward
from fewer.control.loop import OffPolicy
from fewer.control.recording import check_renders, record
from fewer.core.errors import FewerError
from fewer.core.loop import Loop
from fewer.demos.demonstrations import Demonstrations
from fewer.demos.files import write_npz
from fewer.race.engine import work
from fewer.race.run import race


class Shown(Target):
    """Each frame is as bright as the step is late."""

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 20}

    def __init__(self, render_mode=None, steps=6, wrong=None):
        super().__init__(steps=steps)
        self.render_mode, self.wrong = render_mode, wrong

    def render(self):
        if self.wrong == "raises":
            raise RuntimeError("no display\nat all")
        if self.wrong == "text":
            return "text"
        return np.full((9, 13, 3), 40 * self.time, dtype=np.uint8)


gymnasium.register("fewer-tests/Shown-v0", entry_point=Shown)


def shown(**options):
    return GymEnvironment("shown", lambda: Shown("rgb_array", **options))


def still(observations):
    return np.zeros((len(observations), 1))


def frames(path):
    image = Image.open(path)
    for place in range(image.n_frames):
        image.seek(place)
        yield np.asarray(image.convert("RGB")), image.info["duration"]


def test_a_gif_has_a_frame_for_each_observation(tmp_path):
    film = record(shown(), still, tmp_path / "deep" / "film.gif", episodes=1, seed=0)
    made = list(frames(film))
    assert [frame[0, 0, 0] for frame, _ in made] == [0, 40, 80, 120, 160, 200, 240]
    assert all(frame.shape == (9, 13, 3) and duration == 50 for frame, duration in made)


def test_episodes_follow_each_other(tmp_path):
    film = record(shown(steps=2), still, tmp_path / "film.gif", episodes=3, seed=0)
    assert [frame[0, 0, 0] for frame, _ in frames(film)] == [0, 40, 80] * 3


def test_steps_within_a_chunk_are_seen_too(tmp_path):
    task = ActionChunks(4).wrap(shown())
    film = record(task, lambda seen: np.zeros((len(seen), 4)), tmp_path / "film.gif", episodes=1, seed=0)
    assert [frame[0, 0, 0] for frame, _ in frames(film)] == [0, 40, 80, 120, 160, 200, 240]


def test_an_mp4_is_the_same_film(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    imageio = pytest.importorskip("imageio.v2")
    film = record(shown(), still, tmp_path / "film.mp4", episodes=1, seed=0)
    reader = imageio.get_reader(film)
    made = [frame for frame in reader]  # noqa: C416 (a reader has no length)
    assert [frame.mean() for frame in made] == pytest.approx([0, 40, 80, 120, 160, 200, 240], abs=6)
    assert reader.get_meta_data()["fps"] == 20
    assert record(shown(), still, tmp_path / "other", episodes=1, seed=0) == tmp_path / "other.mp4"


def test_without_ffmpeg_it_becomes_a_gif(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert record(shown(), still, tmp_path / "film", episodes=1, seed=0) == tmp_path / "film.gif"
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(FewerError, match=r"an MP4 film needs the package imageio\[ffmpeg\].*fewer\[video\]"):
        record(shown(), still, tmp_path / "film.mp4", episodes=1, seed=0)


def test_an_agent_films_environments_that_were_made_without_rendering(tmp_path):
    made = Agent("fewer-tests/Shown-v0", "sac(hidden=(8,))", batch=8, episodes=1, eval_freq=20, learning_starts=4)
    made.learn(40, video=tmp_path)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["000000020", "000000040"]
    film = made.record(tmp_path / "film.gif", episodes=2)
    assert len(list(frames(film))) == 14
    made.save(tmp_path / "policy")
    again = Agent.load(tmp_path / "policy", "fewer-tests/Shown-v0").record(tmp_path / "again.gif", episodes=2)
    assert again.read_bytes() == film.read_bytes()


def test_a_run_is_filmed_at_each_point_and_is_the_same_run(tmp_path):
    """Learned with chance in the policy, a film takes none of it; a run that goes on films what is new."""
    loop = OffPolicy(**sac(hidden=(8,)), batch=8, learning_starts=5, episodes=2, points=3)
    task = gym("fewer-tests/Shown-v0")
    plain = [(point.spent, point.score, point.extras["critic_loss"]) for point in loop.run(task, 30, 1)]
    run = loop.run(task, 30, 1, tmp_path / "state", tmp_path / "first")
    filmed = [next(run)]
    run.close()
    assert [path.stem for path in (tmp_path / "first").iterdir()] == ["000000010"]
    filmed = list(loop.run(task, 30, 1, tmp_path / "state", tmp_path / "then"))
    assert [(point.spent, point.score, point.extras["critic_loss"]) for point in filmed] == plain
    films = sorted((tmp_path / "then").iterdir())
    assert [path.stem for path in films] == ["000000020", "000000030"]
    assert len(list(frames(record(shown(), still, tmp_path / "one.gif", 1, 0)))) == 7
    if films[0].suffix == ".gif":
        assert len(list(frames(films[0]))) == 7


def test_the_runs_of_a_race_are_filmed_in_folders_of_their_own(tmp_path):
    asked = []

    class Here:
        def run(self, jobs):
            asked.extend(jobs)
            for job in jobs:
                yield from work(job)

        def stop(self, run):
            pass

        def close(self):
            pass

    entry = "sac(hidden=[8]) + off-policy(batch=8, learning_starts=5, episodes=1, points=1)"
    race("gym('fewer-tests/Shown-v0')", {"a/b": entry}, 10, 2, engine=Here(), store=":memory:", video=tmp_path)
    assert [job.video for job in asked] == [tmp_path / "a_b" / "seed-0", tmp_path / "a_b" / "seed-1"]
    assert all(len(list(job.video.iterdir())) == 1 for job in asked)
    asked.clear()
    race("gym('fewer-tests/Shown-v0')", {"a": entry}, 10, 1, engine=Here(), store=":memory:")
    assert asked[0].video is None


def test_what_cannot_be_filmed_is_said_before_a_race_begins(tmp_path):
    with pytest.raises(FewerError, match="entry sac: dock-2d does not render"):
        race("dock-2d", ["sac"], 10, 1, store=":memory:", video=tmp_path)
    with pytest.raises(FewerError, match="entry margin: ActiveLearning has nothing to be filmed; leave the video out"):
        race("digits", ["margin"], 30, 1, store=":memory:", video=tmp_path)
    with pytest.raises(FewerError, match="cannot render here: no display"):
        check_renders(shown(wrong="raises"))
    with pytest.raises(FewerError, match="has nothing to be filmed"):
        Loop.film(ForwardBackward(), None, tmp_path)
    check_renders(ActionChunks(2).wrap(shown()))


def test_mujoco_without_a_screen_is_told_what_to_set(monkeypatch):
    def render(self):
        raise RuntimeError("an OpenGL platform library has not been loaded")

    monkeypatch.setattr(Shown, "render", render)
    monkeypatch.setitem(sys.modules, "mujoco", sys)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(FewerError, match="been loaded; set MUJOCO_GL=egl or osmesa where no screen is"):
        check_renders(shown())
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    with pytest.raises(FewerError, match=r"been loaded$"):
        check_renders(shown())


def test_an_environment_with_demonstrations_is_filmed(tmp_path):
    episode = {
        "observations": np.zeros((4, 2), np.float32),
        "actions": np.zeros((3, 1), np.float32),
        "rewards": np.zeros(3),
    }
    write_npz(tmp_path / "shown.npz", Demonstrations.of_episodes([episode]))
    task = compose.task(f"gym('fewer-tests/Shown-v0', demos={str(tmp_path / 'shown.npz')!r}, horizon=6)")
    film = record(ActionChunks(2).wrap(task), lambda seen: np.zeros((len(seen), 2)), tmp_path / "film.gif", 1, 0)
    assert len(list(frames(film))) == 7


def test_errors(tmp_path):
    def refused(message, task, name="film.gif", episodes=1):
        with pytest.raises(FewerError, match=message) as error:
            record(task, still, tmp_path / name, episodes, seed=0)
        assert "\n" not in str(error.value)

    refused(r"does not render to frames \(its render_mode is None\)", GymEnvironment("plain", Target))
    refused("its render_mode is 'ansi'", GymEnvironment("plain", lambda: Shown("ansi")))
    refused("only environments of Gymnasium do", dock_2d(demonstrations=2))
    refused("ends in .avi", shown(), "film.avi")
    refused("0 episodes show nothing", shown(), episodes=0)
    refused("Shown cannot render here: no display at all", shown(wrong="raises"))
    refused("Shown renders .* needs uint8", shown(wrong="text"))
    assert not list(tmp_path.iterdir())
