"""Films of evaluation episodes: MP4 where imageio has ffmpeg, else an animated GIF."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.util
import io
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from jaxtyping import UInt8

from fewer.control.environments import Act, Environment, GymEnvironment
from fewer.core.errors import FewerError, need
from fewer.core.files import write_atomically
from fewer.core.seeding import derive

if TYPE_CHECKING:
    import gymnasium

Frame = UInt8[np.ndarray, "height width 3"]


def record(task: Environment, act: Act, path: str | os.PathLike[str], episodes: int, seed: int) -> Path:
    """Play episodes and film them.

    Parameters
    ----------
    task : Environment
        Of Gymnasium, perhaps with an action map around it.
    act : callable
        The policy, as :meth:`~fewer.control.environments.Environment.evaluate` takes it.
    path : path
        A file that ends in ``.mp4`` or ``.gif``; without an ending it becomes an MP4 where imageio has ffmpeg, else a GIF.
    episodes : int
        One after another.
    seed : int
        Equal seeds give equal starts.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FewerError
        If the environment does not render, the ending is another one, or a package is missing.
    """
    if episodes < 1:
        raise FewerError(f"record: {episodes} episodes show nothing; give 1 or more")
    path = Path(path)
    if not path.suffix:
        path = path.with_name(f"{path.name}.{'mp4' if importlib.util.find_spec('imageio_ffmpeg') else 'gif'}")
    if path.suffix not in (".mp4", ".gif"):
        raise FewerError(f"record: {path.name} ends in {path.suffix}; name a file that ends in .mp4 or .gif")
    inner = _innermost(task)
    with contextlib.closing(_rendering(inner)) as probe:
        rate = probe.metadata.get("render_fps") or 30
    with contextlib.closing(Mp4(rate) if path.suffix == ".mp4" else Gif(rate)) as film:
        filmed = _within(
            task, dataclasses.replace(inner, create=lambda: cast("gymnasium.Env", Filmed(_rendering(inner), film)))
        )
        for episode in range(episodes):
            filmed.evaluate(act, 1, derive(seed, "film", episode))
        write_atomically(path, film.data())
    return path


def check_renders(task: Environment) -> None:
    """Refuse a task that does not render.

    Raises
    ------
    FewerError
        If it gives no frames, or a package that they are written with is missing.
    """
    # what a driver warns of is said in the error
    with warnings.catch_warnings(action="ignore"), contextlib.closing(_rendering(_innermost(task))) as environment:
        Filmed(environment, Unexposed()).reset(seed=0)
    if not importlib.util.find_spec("imageio_ffmpeg"):
        need("PIL.Image", extra="vision", what="a film", package="pillow")


def _innermost(task: Environment) -> GymEnvironment:
    """The environment of Gymnasium that is played in the end."""
    inner: Any = task
    while not isinstance(inner, GymEnvironment):
        # within an action map, or beside demonstrations
        inner = getattr(inner, "inner", None) or getattr(inner, "environment", None)
        if inner is None:
            raise FewerError(f"{task.name} does not render: only environments of Gymnasium do")
    return inner


def _within(task: Environment, innermost: GymEnvironment) -> Environment:
    """The same task around another environment."""
    if not hasattr(task, "inner"):
        return innermost
    changed: Any = copy.copy(task)
    changed.inner = _within(changed.inner, innermost)
    return changed


def _rendering(task: GymEnvironment) -> gymnasium.Env:
    """One copy that gives frames, made anew with ``render_mode`` where it was made without."""
    import gymnasium

    environment = task.create()
    if environment.render_mode != "rgb_array":
        modes, spec = environment.metadata.get("render_modes") or (), environment.spec
        given = environment.render_mode
        environment.close()
        if spec is None or "rgb_array" not in modes:
            raise FewerError(
                f"{task.name} does not render to frames (its render_mode is {given!r}); make it with render_mode='rgb_array'"
            )
        environment = gymnasium.make(spec, render_mode="rgb_array")
    return environment


class Film(Protocol):
    """What frames are put on."""

    def add(self, frame: Frame) -> None:
        """One more."""
        ...

    def data(self) -> bytes:
        """The file's content, when all frames are there."""
        ...

    def close(self) -> None:
        """Let go of what is held."""
        ...


class Unexposed:
    """A film that keeps nothing, to try whether there are frames at all."""

    def add(self, frame: Frame) -> None:
        """Forget it."""

    def data(self) -> bytes:
        """Nothing."""
        return b""

    def close(self) -> None:
        """Nothing is held."""


class Filmed:
    """An environment whose every observation is also put on film.

    Parameters
    ----------
    environment : gymnasium.Env
        With ``render_mode="rgb_array"``.
    film : Film
        Takes the frames.
    """

    def __init__(self, environment: gymnasium.Env, film: Film) -> None:
        self._environment, self._film = environment, film

    def __getattr__(self, name: str) -> Any:
        return getattr(self._environment, name)

    def reset(self, **options: Any) -> Any:
        """Begin an episode."""
        made = self._environment.reset(**options)
        self._shoot()
        return made

    def step(self, action: Any) -> Any:
        """Act."""
        made = self._environment.step(action)
        self._shoot()
        return made

    def _shoot(self) -> None:
        environment = self._environment
        name = environment.spec.id if environment.spec is not None else type(environment.unwrapped).__name__
        try:
            frame = np.asarray(environment.render())
        except Exception as error:  # a package, a display or a driver is missing
            said = " ".join(str(error).split()) or type(error).__name__
            # MuJoCo opens a window unless it is told otherwise
            hint = "mujoco" in sys.modules and "MUJOCO_GL" not in os.environ and "OpenGL" in said
            raise FewerError(
                f"{name} cannot render here: {said}{'; set MUJOCO_GL=egl or osmesa where no screen is' if hint else ''}"
            ) from error
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise FewerError(
                f"{name} renders {frame.dtype} of shape {frame.shape}, and a film needs uint8 of (height, width, 3)"
            )
        self._film.add(frame)


class Gif:
    """An animated GIF, with up to 256 colours in each frame.

    Parameters
    ----------
    rate : float
        Frames per second.
    """

    def __init__(self, rate: float) -> None:
        self._images = need("PIL.Image", extra="vision", what="a film", package="pillow")
        self._frames: list[Any] = []
        self._rate = rate

    def add(self, frame: Frame) -> None:
        """One more, as a third of its bytes."""
        self._frames.append(self._images.fromarray(frame).quantize())

    def data(self) -> bytes:
        """The file's content."""
        buffer = io.BytesIO()
        first, *others = self._frames
        # the format counts hundredths, and programs slow down what is faster than fifty frames a second
        each = max(20, round(100 / self._rate) * 10)
        first.save(buffer, "GIF", save_all=True, append_images=others, duration=each, loop=0)
        return buffer.getvalue()

    def close(self) -> None:
        """Forget the frames."""
        self._frames = []


class Mp4:
    """An MP4 in H.264, written as frames come.

    Parameters
    ----------
    rate : float
        Frames per second.
    """

    def __init__(self, rate: float) -> None:
        need("imageio_ffmpeg", extra="video", what="an MP4 film", package="imageio[ffmpeg]")
        imageio = need("imageio.v2", extra="video", what="an MP4 film", package="imageio[ffmpeg]")
        self._folder = tempfile.TemporaryDirectory()
        self._file = Path(self._folder.name) / "film.mp4"
        # sides must be even; by default they would be stretched to multiples of sixteen
        self._writer = imageio.get_writer(self._file, fps=rate, codec="libx264", macro_block_size=2)

    def add(self, frame: Frame) -> None:
        """One more."""
        self._writer.append_data(frame)

    def data(self) -> bytes:
        """The file's content."""
        self._writer.close()
        return self._file.read_bytes()

    def close(self) -> None:
        """Remove the file that was written on."""
        self._writer.close()
        self._folder.cleanup()
