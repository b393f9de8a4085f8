"""What the library carries: its papers, their parts, and how to find the one you need.

It knows ``papers.toml`` (one table per paper) and the ``parts.toml`` of each room (baselines, loops
and tasks that no paper stands for).  It imports none of them until :func:`resolve` is asked to, and
neither NumPy nor torch, so that looking around costs no time.  Searching is in :mod:`fewer.search`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from fewer.core.errors import FewerError, nearest

HERE = Path(__file__).parent
Kind = Literal["filling", "loop", "task"]
State = Literal["planned", "works"]


@dataclass(frozen=True, slots=True)
class Paper:
    """One published method.

    Parameters
    ----------
    slug : str
        Its name in the library.
    title, arxiv : str
        As on arXiv.
    year : int
        Of publication.
    published : str
        ``"YYYY-MM-DD"``, or ``"YYYY"`` where only the year is known.
    room : str
        The learning loop it belongs to.
    short_of : str
        What its user is short of; one word or phrase per room.
    idea : str
        What it does, in one line.
    composes_with : tuple of str
        Slugs of papers that can share a loop or a pipeline with it.
    fills : str, optional
        ``"module:attribute"`` of what it gives; None until it works.
    loop : str or tuple of str, optional
        ``"module:attribute"`` of the loop, or loops, that can use it.
    slot : str or tuple of str, optional
        The slot, or slots, of that loop which it fills.
    yields : tuple of str, optional
        Those of its slots that it leaves to another filling of the same spec: it is then called with the slot's name as an
        argument that is None.
    """

    slug: str
    title: str
    year: int
    published: str
    arxiv: str
    room: str
    short_of: str
    idea: str
    composes_with: tuple[str, ...] = ()
    fills: str | None = None
    loop: str | tuple[str, ...] | None = None
    slot: str | tuple[str, ...] | None = None
    yields: tuple[str, ...] = ()

    @property
    def state(self) -> State:
        """``"works"`` once there is code behind it, ``"planned"`` before."""
        return "works" if self.fills else "planned"

    @property
    def make(self) -> str | None:
        """The same as ``fills``, under the name that it has in :class:`Part`."""
        return self.fills

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots it fills; empty if it fills none."""
        return _several(self.slot)

    @property
    def loops(self) -> tuple[str, ...]:
        """The loops it runs in; empty if it works outside of any."""
        return _several(self.loop)


@dataclass(frozen=True, slots=True)
class Part:
    """Something with a name that is no paper: a baseline, a loop or a task.

    Parameters
    ----------
    name : str
        Unique among the parts of its kind.  A filling whose name another room has already is called
        ``room.name``; the short name stands for it as well, where the loop leaves no other choice
        (:mod:`fewer.compose`).
    kind : {"filling", "loop", "task"}
        What it is.
    room : str
        The folder whose ``parts.toml`` lists it.
    make : str
        ``"module:attribute"`` of the class or function that makes it.
    says : str
        What it is, in one line.
    loop : str or tuple of str, optional
        ``"module:attribute"`` of the loop, or loops, it runs in.
    slot : str or tuple of str, optional
        The slot, or slots, of that loop which it fills.
    yields : tuple of str, optional
        Those of its slots that it leaves to another filling of the same spec: it is then called with the slot's name as an
        argument that is None.
    """

    name: str
    kind: Kind
    room: str
    make: str
    says: str
    loop: str | tuple[str, ...] | None = None
    slot: str | tuple[str, ...] | None = None
    yields: tuple[str, ...] = ()

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots it fills; empty if it fills none."""
        return _several(self.slot)

    @property
    def loops(self) -> tuple[str, ...]:
        """The loops it runs in; empty if it works outside of any."""
        return _several(self.loop)


def _several(given: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else given or ()


@dataclass(frozen=True, slots=True)
class Room:
    """One learning loop and its papers: what it is short of, how many there are and how many work."""

    name: str
    short_of: str
    papers: int
    works: int


# --- reading -----------------------------------------------------------------------------------


@functools.cache
def papers() -> Mapping[str, Paper]:
    """Give all papers by slug, in the order of the rooms' names and then of their own.

    Examples
    --------
    >>> papers()["annotator"].short_of
    'labels'
    """
    tables = tomllib.loads((HERE / "papers.toml").read_text(encoding="utf-8"))
    return MappingProxyType({slug: Paper(slug=slug, **_hashable(table)) for slug, table in tables.items()})


def parts(kind: Kind) -> Mapping[str, Part]:
    """Give the parts of one kind by name, from the ``parts.toml`` of every folder that has one.

    Parameters
    ----------
    kind : {"filling", "loop", "task"}
        Which.

    Raises
    ------
    FewerError
        If a table is not of the expected form, or two parts of a kind share a name.
    """
    return _parts()[kind]


@functools.cache
def _parts() -> Mapping[Kind, Mapping[str, Part]]:
    return {kind: MappingProxyType(known) for kind, known in _read_parts(HERE).items()}


def _read_parts(folder: Path) -> dict[Kind, dict[str, Part]]:
    kinds: tuple[Kind, ...] = get_args(Kind)
    found: dict[Kind, dict[str, Part]] = {kind: {} for kind in kinds}
    for file in sorted(folder.glob("*/parts.toml")):
        room = file.parent.name
        try:
            tables = tomllib.loads(file.read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise FewerError(f"catalogue: {room}/parts.toml is not TOML ({error}); mend that line") from error
        for unknown in set(tables) - set(kinds):
            raise FewerError(f"catalogue: {room}/parts.toml has a table [{unknown}]; {nearest(unknown, kinds)}")
        for kind in kinds:
            for name, table in tables.get(kind, {}).items():
                if name in found[kind]:
                    also = f', or call it "{room}.{name}" where its loop is another' if kind == "filling" else ""
                    raise FewerError(
                        f"catalogue: the {kind} {name} is in {found[kind][name].room}/parts.toml and in "
                        f"{room}/parts.toml; rename one of them{also}"
                    )
                if "." in name and (kind != "filling" or name.split(".")[0] != room):
                    raise FewerError(
                        f"catalogue: the {kind} {name} of {room}/parts.toml has a dot; only fillings do, as {room}.name"
                    )
                try:
                    found[kind][name] = Part(name=name, kind=kind, room=room, **_hashable(table))
                except TypeError as error:
                    raise FewerError(
                        f"catalogue: [{kind}.{name}] in {room}/parts.toml has the keys {', '.join(table) or '(none)'}; "
                        "it needs make and says, and may have loop, slot and yields"
                    ) from error
    return found


def _hashable(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


@functools.cache
def fillings() -> Mapping[str, Paper | Part]:
    """Give whatever can fill a slot, by name: the papers that work and the baselines.

    Raises
    ------
    FewerError
        If a baseline has the name of a paper, working or planned.
    """
    return MappingProxyType(_join(papers(), parts("filling")))


def _join(published: Mapping[str, Paper], baselines: Mapping[str, Part]) -> dict[str, Paper | Part]:
    for name in set(published) & set(baselines):
        raise FewerError(
            f"catalogue: the filling {name} of {baselines[name].room}/parts.toml is also a paper; rename it"
        )
    for name, part in baselines.items():
        short = name.rpartition(".")[2]
        namesakes = [each for each in baselines.values() if each.name.rpartition(".")[2] == short]
        for other in namesakes:
            if other is not part and set(other.loops) & set(part.loops):
                raise FewerError(f"catalogue: {name} and {other.name} are fillings of one loop; rename one of them")
    return {slug: paper for slug, paper in published.items() if paper.state == "works"} | dict(baselines)


@functools.cache
def rooms() -> Mapping[str, Room]:
    """Give the rooms by name, each with what it is short of and how many papers it has.

    Examples
    --------
    >>> rooms()["labels"].papers
    11
    """
    short_of = {paper.room: paper.short_of for paper in papers().values()}
    count = Counter(paper.room for paper in papers().values())
    works = Counter(paper.room for paper in papers().values() if paper.state == "works")
    return MappingProxyType({name: Room(name, short_of[name], count[name], works[name]) for name in sorted(count)})


def resolve(text: str) -> Any:
    """Import what ``"module:attribute"`` names.

    Parameters
    ----------
    text : str
        As in ``fills``, ``make`` and ``loop``.  It comes from our own files, never from a user.

    Returns
    -------
    object

    Raises
    ------
    FewerError
        If the text is not of that form, or there is no such module or attribute.

    Examples
    --------
    >>> resolve("math:sqrt")(9)
    3.0
    """
    module, colon, attribute = text.partition(":")
    if not (module and colon and attribute):
        raise FewerError(f'catalogue: {text!r} is not of the form "module:attribute"')
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there and lacks something of its own: its message is the better one
        raise FewerError(f"catalogue: there is no module {error.name} ({text} was asked for)") from error
    except AttributeError as error:
        known = [name for name in vars(importlib.import_module(module)) if not name.startswith("_")]
        raise FewerError(f"catalogue: {module} has no {attribute}; {nearest(attribute, known)}") from error


# --- looking -----------------------------------------------------------------------------------


def show(slug: str) -> Paper:
    """Give one paper by its slug, in upper or lower case.

    Raises
    ------
    FewerError
        If there is no such paper; the closest slugs are named.

    Examples
    --------
    >>> show("TabM").arxiv
    '2410.24210'
    """
    known = papers()
    wanted = slug.strip().lower()
    if wanted not in known:
        raise FewerError(f"there is no paper {slug!r}; {nearest(wanted, known)}")
    return known[wanted]
