"""Reading and writing demonstrations: NPZ, Minari, HDF5 as robomimic writes it, and folders as LeRobot writes them.

Whatever a file holds is read as numbers; nothing is unpickled, imported or run.
"""

from __future__ import annotations

import io
import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewer.core.errors import FewerError, need
from fewer.core.files import write_atomically
from fewer.demos.demonstrations import Demonstrations, Observations, parts, select_parts, unparts

ALIASES = {
    "observations": ("observations", "obs"),
    "next_observations": ("next_observations", "next_obs"),
    "final_observations": ("final_observations",),
    "actions": ("actions", "action"),
    "rewards": ("rewards",),
    "terminations": ("terminations", "terminals"),
    "truncations": ("truncations", "timeouts"),
    "successes": ("successes", "success"),
    "offsets": ("offsets",),
    "episode_ends": ("episode_ends",),
}
"""What arrays of an NPZ file may be called; parts of an observation follow a slash: ``observations/position``."""

DAMAGE = (
    OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error, struct.error,
    SyntaxError, TypeError, OverflowError,
)  # fmt: skip
"""What readers of damaged files raise."""


def load(
    source: str | os.PathLike[str], *, observations: Sequence[str] | str | None = None, subset: str | None = None
) -> Demonstrations:
    """Read demonstrations, whatever kind of file, folder or Minari data set they are in.

    Parameters
    ----------
    source : path, or str
        ``demos.npz``, ``demos.hdf5``, the folder of a LeRobot or a Minari data set, or the id of a Minari data set that
        is on this machine, ``"D4RL/door/human-v2"``.
    observations : str or sequence of str, optional
        Which parts of an observation to take, where there are several; by default all.
    subset : str, optional
        Of an HDF5 file with masks: the name of one, ``"train"`` or ``"better_operator_1"``.

    Raises
    ------
    FewerError
        If there is no such thing, it cannot be read, or what it holds are not demonstrations.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "demos.npz"
    >>> np.savez(file, observations=np.zeros((5, 3)), actions=np.ones((5, 2)), episode_ends=[2, 5])
    >>> load(file).summary()
    'demos.npz: 2 episodes, 5 steps, observations (3,), actions (2,)'
    """
    path, keys = Path(source), [observations] if isinstance(observations, str) else observations
    hdf5 = path.suffix.lower() in (".hdf5", ".h5")
    if subset is not None and not hdf5:
        raise FewerError(f"{source}: subset= names a mask of an HDF5 file, and this is none; leave it out")
    if path.is_dir():
        if (path / "meta" / "info.json").exists():
            return read_lerobot(path, observations=keys)
        return read_minari(path, observations=keys)
    if hdf5:
        return read_hdf5(path, observations=keys, subset=subset)
    if path.suffix.lower() == ".npz":
        return read_npz(path, observations=keys)
    if not path.exists() and re.fullmatch(r"[\w./-]+-v\d+", str(source)):
        return read_minari(str(source), observations=keys)
    raise FewerError(
        f"{source}: {'unknown kind of file' if path.exists() else 'there is no such file'}; give an .npz or .hdf5 file, a "
        "folder of LeRobot or Minari, or the id of a Minari data set"
    )


# --- NPZ -------------------------------------------------------------------------------------------------------------


def read_npz(path: str | os.PathLike[str], *, observations: Sequence[str] | None = None) -> Demonstrations:
    """Read the arrays that :func:`write_npz`, or ``numpy.savez``, wrote.

    Parameters
    ----------
    path : path
        With arrays ``observations`` (or one ``observations/name`` for each part) and ``actions``, and one of
        ``offsets``, ``episode_ends`` (the number of steps up to the end of each episode), ``terminations`` and
        ``truncations`` (one a step) to tell where episodes end.  ``rewards``, ``successes`` (one an episode) and
        ``next_observations`` or ``final_observations`` are read where there are any.
    observations : sequence of str, optional
        Which parts of an observation to take.
    """
    name = Path(path).name
    if not Path(path).exists():
        raise FewerError(f"{path}: there is no such file")
    try:
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("it is cut off, or no NPZ file")
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if _wanted(key)}
            others = [key for key in file.files if not _wanted(key)]
    except DAMAGE as error:
        told = "it holds Python objects, which are not read" if "pickle" in str(error) else _told(error)
        raise FewerError(f"{name} cannot be read: {told}; write arrays of numbers with numpy.savez") from error
    found = {field: _field(arrays, names) for field, names in ALIASES.items()}
    for needed in ("observations", "actions"):
        if found[needed] is None:
            there = ", ".join([*arrays, *others]) or "nothing"
            raise FewerError(f"{name} has no array {needed!r} (it has {there}); add it")
    assert found["observations"] is not None
    for field in ("observations", "next_observations", "final_observations"):
        if found[field] is not None:
            found[field] = select_parts(found[field], observations, name)
    for needed in ("observations", "actions"):
        for key, array in parts(found[needed]).items():
            if array.ndim < 1:
                raise FewerError(f"{name}: {needed}{f'/{key}' if key else ''} are a single number; give one row a step")
    return _settled(found, name)


def write_npz(path: str | os.PathLike[str], demonstrations: Demonstrations) -> None:
    """Write demonstrations so that :func:`load` reads them again, whole or not at all.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "demos.npz"
    >>> write_npz(file, Demonstrations(np.zeros((5, 3)), np.ones((5, 2)), offsets=[0, 2, 5], successes=[True, False]))
    >>> load(file).successes
    array([ True, False])
    """
    if Path(path).suffix.lower() != ".npz":
        raise FewerError(f"cannot write {path}: demonstrations are written as .npz; choose such a name")
    arrays: dict[str, np.ndarray] = {}
    for field in ("observations", "final_observations"):
        given: Observations | None = getattr(demonstrations, field)
        if given is not None:
            arrays |= {f"{field}/{key}" if key else field: array for key, array in parts(given).items()}
    for field in ("actions", "offsets", "rewards", "terminations", "truncations", "successes"):
        given = getattr(demonstrations, field)
        if given is not None:
            arrays[field] = np.asarray(given)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)  # pyright: ignore[reportArgumentType]
    write_atomically(path, buffer.getvalue())


def _told(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error.args[0] if error.args else error).split()) or type(error).__name__


def _wanted(key: str) -> bool:
    return key.split("/")[0] in {name for names in ALIASES.values() for name in names}


def _field(arrays: Mapping[str, np.ndarray], names: Iterable[str]) -> Any:
    for name in names:
        if name in arrays:
            return arrays[name]
        several = {key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")}
        if several:
            return several
    return None


def _settled(found: dict[str, Any], name: str) -> Demonstrations:
    """Find where the episodes end, and what was seen last in each."""
    steps = len(found["actions"])
    flags = [np.asarray(found[key]).reshape(-1) for key in ("terminations", "truncations") if found[key] is not None]
    if any(len(flag) != steps for flag in flags):
        raise FewerError(f"{name}: terminations and truncations are one a step; there are {steps} steps")
    offsets = found["offsets"]
    if offsets is None and found["episode_ends"] is not None:
        ends = np.asarray(found["episode_ends"]).reshape(-1)
        if ends.dtype == bool or (len(ends) == steps and np.isin(ends, (0, 1)).all() and steps > 1):
            ends = np.flatnonzero(ends) + 1
        offsets = np.concatenate([[0], ends])
    if offsets is None and flags:
        ends = np.flatnonzero(np.any([flag != 0 for flag in flags], axis=0)) + 1
        # what follows the last end was recorded and not finished
        offsets = np.concatenate([[0], ends, [] if len(ends) and ends[-1] == steps else [steps]]).astype(np.int64)
    if offsets is None:
        raise FewerError(
            f"{name} does not say where episodes end; add offsets, episode_ends, or terminations and truncations"
        )
    offsets = np.asarray(offsets).reshape(-1)
    final, following = found["final_observations"], found["next_observations"]
    if final is None and following is not None:
        _check_following(found["observations"], following, offsets, name)
        final = unparts({key: np.asarray(array)[offsets[1:] - 1] for key, array in parts(following).items()})
    columns = {key: found[key] for key in ("rewards", "terminations", "truncations", "successes")}
    return Demonstrations(found["observations"], found["actions"], offsets, final, **columns, name=name)


def _check_following(seen: Observations, following: Observations, offsets: np.ndarray, name: str) -> None:
    for key, array in parts(seen).items():
        after = np.asarray(parts(following).get(key, ()))
        if after.shape != np.shape(array):
            raise FewerError(f"{name}: next_observations must be of the shape of observations, {np.shape(array)}")
        inside = np.ones(len(array), dtype=bool)
        inside[offsets[1:] - 1] = False
        rows = np.flatnonzero(inside)
        same = (after[rows] == array[rows + 1]).reshape(len(rows), -1).all(axis=1)
        if not same.all():
            raise FewerError(
                f"{name}: what follows step {rows[np.argmin(same)]} is not the next step's observation; these are no whole "
                "episodes in their order: keep the steps as they came, or leave next_observations out"
            )


# --- Minari ----------------------------------------------------------------------------------------------------------


def read_minari(source: str | os.PathLike[str], *, observations: Sequence[str] | None = None) -> Demonstrations:
    """Read a Minari data set that is on this machine.

    Parameters
    ----------
    source : str or path
        Its id, or its folder (the one with ``metadata.json``, or the one above).
    observations : sequence of str, optional
        Which parts of an observation to take; nested ones are called ``"outer/inner"``.

    Raises
    ------
    FewerError
        If it is not there, or lacks the description of its spaces (Minari would run the environment to find out).
    """
    minari = need("minari", extra="demos", what=f"the Minari data set {source}")
    if isinstance(source, str) and not Path(source).exists():
        from minari.storage.datasets_root_dir import get_dataset_path

        folder = get_dataset_path(source) / "data"
        if not folder.exists():
            raise FewerError(
                f"{source}: there is no such Minari data set on this machine; fetch it with 'minari download {source}'"
            )
        name = source
    else:
        folder = Path(source)
        folder = folder / "data" if (folder / "data" / "metadata.json").exists() else folder
        name = Path(source).name
    try:
        described = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FewerError(
            f"{folder}: no data set is known by this folder (it needs a metadata.json of Minari, or a meta/info.json of "
            "LeRobot)"
        ) from error
    if not {"observation_space", "action_space"} <= set(described):
        raise FewerError(f"{name}: the spaces are not described; write the data set anew with a recent Minari")
    try:
        episodes = [
            {
                "observations": _nested(each.observations, name),
                "actions": each.actions,
                "rewards": each.rewards,
                "terminated": bool(np.any(each.terminations)),
                "success": _success(each.infos),
            }
            for each in minari.MinariDataset(folder).iterate_episodes()
        ]
    except ModuleNotFoundError as error:
        raise FewerError(
            f"{name}: Minari needs the package {error.name} to read it; pip install {error.name}"
        ) from error
    except ImportError as error:
        raise FewerError(
            f"{name}: Minari needs one more package to read it ({error}); pip install 'fewer[demos]'"
        ) from error
    except FewerError:
        raise
    except DAMAGE as error:
        raise FewerError(f"{name}: Minari cannot read it: {_told(error)}") from error
    for each in episodes:
        each["observations"] = select_parts(each["observations"], observations, name)
    return Demonstrations.of_episodes(episodes, name)


def _nested(given: Any, name: str, prefix: str = "") -> Any:
    """Dictionaries within dictionaries as one, names joined by a slash."""
    if not isinstance(given, Mapping):
        if not isinstance(given, np.ndarray):
            raise FewerError(f"{name}: observations are {type(given).__name__}s; arrays and dictionaries can be read")
        return given
    found: dict[str, np.ndarray] = {}
    for key, value in given.items():
        inner = _nested(value, name, f"{prefix}{key}/")
        found |= inner if isinstance(inner, Mapping) else {f"{prefix}{key}": inner}
    return found


def _success(infos: Mapping[str, Any] | None) -> bool | None:
    for key in ("success", "is_success"):
        if infos and key in infos:
            return bool(np.any(infos[key]))
    return None


# --- HDF5 ------------------------------------------------------------------------------------------------------------


def read_hdf5(
    path: str | os.PathLike[str], *, observations: Sequence[str] | None = None, subset: str | None = None
) -> Demonstrations:
    """Read an HDF5 file as robomimic writes it: a group ``data`` with a group of arrays for each episode.

    Parameters
    ----------
    path : path
        Each episode has ``actions`` and ``obs``, an array or a group of arrays, and may have ``next_obs``, ``rewards``,
        ``dones`` and ``success``.
    observations : sequence of str, optional
        Which parts of an observation to take: images make a file large.
    subset : str, optional
        The name of one of the file's masks.
    """
    h5py = need("h5py", extra="demos", what=f"{Path(path).name}")
    name = Path(path).name
    if not Path(path).exists():
        raise FewerError(f"{path}: there is no such file")
    try:
        with h5py.File(path, "r") as file:
            if "data" not in file:
                raise FewerError(
                    f"{name} has no group 'data' with episodes in it (it has {', '.join(file) or 'nothing'})"
                )
            episodes = []
            for key in _names(file, name, subset):
                group = file["data"][key]
                if "actions" not in group or "obs" not in group:
                    raise FewerError(f"{name}: {key} must have actions and obs; it has {', '.join(group)}")
                episodes.append(_hdf5_episode(group, observations, name))
    except FewerError:
        raise
    except DAMAGE as error:
        raise FewerError(f"{name} cannot be read as HDF5: {_told(error)}; fetch it anew") from error
    return Demonstrations.of_episodes(episodes, name if subset is None else f"{name}[{subset}]")


def _names(file: Any, name: str, subset: str | None) -> list[str]:
    if subset is None:
        return sorted(file["data"], key=_number)
    masks = list(file["mask"]) if "mask" in file else []
    if subset not in masks:
        raise FewerError(f"{name} has no subset {subset!r}; it has {', '.join(masks) or 'none'}")
    chosen = [each.decode() if isinstance(each, bytes) else str(each) for each in file["mask"][subset][()]]
    missing = [each for each in chosen if each not in file["data"]]
    if missing:
        raise FewerError(f"{name}: the subset {subset!r} names {missing[0]}, which is not there")
    return sorted(chosen, key=_number)


def _number(key: str) -> tuple[int, str]:
    """Where an episode stands: demo_2 before demo_10."""
    digits = re.findall(r"\d+", key)
    return (int(digits[-1]) if digits else 0), key


def _hdf5_episode(group: Any, observations: Sequence[str] | None, name: str) -> dict[str, Any]:
    import h5py

    def read(node: Any) -> Any:
        if isinstance(node, h5py.Dataset):
            return select_parts(node[()], observations, name)
        every = {key: node[key] for key in node if isinstance(node[key], h5py.Dataset)}
        if observations is not None:
            every = parts(select_parts(every, list(observations), name))  # pyright: ignore[reportArgumentType]
        return unparts({key: value[()] for key, value in every.items()})

    seen = read(group["obs"])
    if "next_obs" in group:
        after = parts(read(group["next_obs"]))
        seen = unparts(
            {key: np.concatenate([array, after[key][-1:]]) for key, array in parts(seen).items()}
            if set(after) == set(parts(seen))
            else parts(seen)
        )
    made = {"observations": seen, "actions": group["actions"][()]}
    if "rewards" in group:
        made["rewards"] = group["rewards"][()]
    if "dones" in group:
        made["terminated"] = bool(group["dones"][-1])
    if "success" in group:
        made["success"] = bool(np.any(group["success"][()]))
    return made


# --- LeRobot ---------------------------------------------------------------------------------------------------------


def read_lerobot(path: str | os.PathLike[str], *, observations: Sequence[str] | None = None) -> Demonstrations:
    """Read a folder as LeRobot writes it: ``meta/info.json``, and Parquet files below ``data``.

    Parameters
    ----------
    path : path
        The folder.
    observations : sequence of str, optional
        Which columns of observations to take, ``"observation.state"``; by default all that hold numbers.  Films are not
        read.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    folder = Path(path)
    files = sorted((folder / "data").rglob("*.parquet"))
    if not files:
        raise FewerError(f"{folder}: there is no Parquet file below its folder data")
    try:
        known = parquet.read_schema(files[0]).names
        seen = [key for key in known if key.startswith("observation")]
        extra = [key for key in ("next.reward", "next.done", "next.success") if key in known]
        missing = {"action", "episode_index"} - set(known)
        if missing or not seen:
            lacks = sorted(missing)[0] if missing else "observation.state"
            raise FewerError(f"{folder.name} has no column {lacks!r} (it has {', '.join(known)})")
        order = ["frame_index"] if "frame_index" in known else []
        columns = ["action", "episode_index", *order, *seen, *extra]
        table = pa.concat_tables([parquet.read_table(file, columns=columns) for file in files])
    except (OSError, pa.ArrowException) as error:
        raise FewerError(f"{folder.name} cannot be read: {error}") from error
    episode = table["episode_index"].to_numpy()
    where = np.lexsort((table["frame_index"].to_numpy(), episode)) if order else np.argsort(episode, kind="stable")
    arrays = {key: _column(table[key], folder.name, key) for key in seen}
    numbers: dict[str, np.ndarray] = {key: array[where] for key, array in arrays.items() if array is not None}
    if not numbers:
        raise FewerError(f"{folder.name}: no column of observations holds numbers, and films are not read")
    chosen = observations if observations is not None else list(numbers)
    action = _column(table["action"], folder.name, "action")
    if action is None:
        raise FewerError(f"{folder.name}: the column action does not hold numbers")
    ends = np.flatnonzero(np.diff(episode[where], append=episode.max() + 1)) + 1
    found: dict[str, Any] = dict.fromkeys(ALIASES) | {
        "observations": select_parts(numbers, list(chosen), folder.name),
        "actions": action[where],
        "offsets": np.concatenate([[0], ends]),
    }
    if "next.reward" in extra:
        found["rewards"] = table["next.reward"].to_numpy()[where]
    if "next.success" in extra:
        found["successes"] = np.logical_or.reduceat(
            table["next.success"].to_numpy()[where].astype(bool), np.r_[0, ends[:-1]]
        )
    return _settled(found, folder.name)


def _column(column: Any, name: str, key: str) -> np.ndarray | None:
    """The numbers of a column, lists as rows; None if it does not hold any."""
    import pyarrow as pa

    kind, width = column.type, []
    while pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind):
        lengths = np.unique(_lengths(column))
        if len(lengths) != 1:
            raise FewerError(f"{name}: the rows of {key} are of mixed lengths, {lengths.min()} to {lengths.max()}")
        width.append(int(lengths[0]))
        column = pa.chunked_array([chunk.flatten() for chunk in column.chunks])
        kind = column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        return None
    if column.null_count:
        raise FewerError(f"{name}: the column {key} has gaps; fill them")
    return column.to_numpy().reshape(-1, *width) if width else column.to_numpy()


def _lengths(column: Any) -> np.ndarray:
    import pyarrow.compute as compute

    return compute.call_function("list_value_length", [column]).to_numpy()
