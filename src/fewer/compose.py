"""From the words of a race to objects: a spec names fillings, and they make one loop.

``"hast + pcoreset"`` is looked up in the catalogue; each filling goes into its slot, the other
slots keep the baseline.  A loop's own numbers are set by naming the loop:
``"active-learning(per_round=20) + margin"``.

A name may stand for several fillings, such as ``mlp``, which learns from labels in one loop and from rows in
another.  The other names of the spec decide, then those of the race (:func:`together`); a name for
which nobody decides stands for the filling that is called so without a room in front.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewer import catalogue
from fewer.core.errors import FewerError, nearest
from fewer.core.loop import Loop, Task
from fewer.core.spec import Call, parse, parse_one

_VERSIONED = re.compile(r"-v\d+$")
"""As the names of Gymnasium's environments end."""


@dataclass(frozen=True, slots=True)
class _Use:
    """A call, and what the catalogue says of its name."""

    call: Call
    make: str
    loops: tuple[str, ...]
    slots: tuple[str, ...]
    is_loop: bool
    yields: tuple[str, ...] = ()


def loop(spec: str) -> Loop[Any, Any]:
    """Build the loop that a spec describes.

    Parameters
    ----------
    spec : str
        Names of fillings joined by ``+``; at most one name of a loop, to set its numbers.

    Returns
    -------
    Loop
        With each filling in its slot and the baseline in the others.

    Raises
    ------
    FewerError
        For an unknown name (the nearest known ones are named), a slot filled twice, fillings of
        different loops, or arguments that a filling does not take.

    Examples
    --------
    >>> loop("margin").query
    Margin()
    >>> loop("margin + k-centre")
    Traceback (most recent call last):
        ...
    fewer.core.errors.FewerError: margin and k-centre both fill the slot query of active-learning; keep one of them
    """
    meanings = [_look_up(call) for call in parse(spec)]
    homes = _homes(meanings)
    if not homes:
        parts = ", ".join(f"{each[0].call.name} ({' or '.join(map(_loop_name, _loops(each)))})" for each in meanings)
        raise FewerError(f"these belong to different loops and cannot be joined: {parts}")
    home = catalogue.resolve(homes[0])
    uses = [next(use for use in each if homes[0] in use.loops) for each in meanings]
    slots: dict[str, Any] = {}
    filled_by: dict[str, str] = {}
    for use in uses:
        if use.is_loop:
            if "" in filled_by:
                raise FewerError(f"the loop {use.call.name} is named twice in {spec!r}; name it once")
            filled_by[""] = use.call.name
            given = _arguments(home, use.call)
        else:
            made = _make(_yielding(use, uses))
            # one name may fill several slots at once; then it makes a mapping from slot to filling
            given = made if len(use.slots) > 1 else dict.fromkeys(use.slots, made)
        for slot, filling in given.items():
            if slot in filled_by:
                raise FewerError(
                    f"{filled_by[slot]} and {use.call.name} both fill the slot {slot} of {_loop_name(homes[0])}; "
                    "keep one of them"
                )
            filled_by[slot] = use.call.name
            slots[slot] = filling
    return home(**slots)


def together(specs: Sequence[str], task: Task) -> list[str]:
    """Write the specs of a race so that each alone stands for what it stands for beside the others.

    Where all can run in one loop, they do.  If they can in several, it is one that takes the task, and of those
    the one that the first spec would choose alone.  Where the task has no demonstrations and one file of them is named,
    with ``demos=``, it is that of all entries that ask for some and name none.

    Parameters
    ----------
    specs : sequence of str
        One for each entry.
    task : Task
        What they are raced on.

    Returns
    -------
    list of str
        The same, with the loop's name in front of those that would choose another one.

    Examples
    --------
    >>> from fewer.tasks.digits import digits
    >>> together(["tabm", "mlp", "margin"], digits())
    ['tabm', 'mlp', 'margin']
    >>> together(["mlp", "tabm"], digits())
    ['learn-from-rows + mlp', 'tabm']
    """
    specs = _sharing_demonstrations(specs, task)
    possible = [_possible(spec) for spec in specs]
    common = [home for home in possible[0] if all(home in homes for homes in possible)] if possible else []
    if len(common) > 1:
        common = [home for home in common if isinstance(task, catalogue.resolve(home).accepts)] or common
    return [
        f"{_loop_name(common[0])} + {spec}" if common and homes[0] != common[0] else spec
        for spec, homes in zip(specs, possible, strict=True)
    ]


def task(spec: str) -> Task:
    """Build the task that a spec describes.

    Parameters
    ----------
    spec : str
        A task's name with its arguments, ``"mnist5k"`` or ``"csv('churn.csv', target='left')"``.

    Raises
    ------
    FewerError
        For an unknown name, wrong arguments, or data that cannot be read.

    Examples
    --------
    >>> task("digits").metric
    'accuracy'
    """
    call = parse_one(spec)
    known = catalogue.parts("task")
    if call.name not in known:
        said = f"an environment of Gymnasium is gym({spec!r})" if _VERSIONED.search(spec) else nearest(call.name, known)
        raise FewerError(f"unknown task {call.name!r}; {said}")
    return _called(catalogue.resolve(known[call.name].make), call)


def _look_up(call: Call) -> list[_Use]:
    """What a name may stand for, the one it stands for alone first."""
    loops, fillings = catalogue.parts("loop"), catalogue.parts("filling")
    if call.name in loops:
        return [_Use(call, loops[call.name].make, (loops[call.name].make,), (), True)]
    papers = catalogue.papers()
    paper = papers.get(call.name)
    uses = []
    if paper is not None and paper.fills is not None and paper.loops:
        uses.append(_Use(call, paper.fills, paper.loops, paper.slots, False, paper.yields))
    found = [fillings[call.name]] if call.name in fillings else []
    # a paper may have a form in another room, too
    found += [part for name, part in fillings.items() if name == f"{part.room}.{call.name}"]
    uses += [_Use(call, part.make, part.loops, part.slots, False, part.yields) for part in found]
    if uses:
        return uses
    if paper is not None:
        if paper.fills is None:
            raise FewerError(f"{call.name} is planned and not there yet; 'fewer list --state works' shows what is")
        raise FewerError(f"{call.name} works after the fact and is not raced; see 'fewer show {call.name}'")
    working = [slug for slug, paper in papers.items() if paper.loop]
    raise FewerError(f"unknown name {call.name!r}; {nearest(call.name, [*loops, *fillings, *working])}")


def _loops(meanings: Sequence[_Use]) -> list[str]:
    return list(dict.fromkeys(home for use in meanings for home in use.loops))


def _homes(meanings: Sequence[Sequence[_Use]]) -> list[str]:
    """The loops in which all names have something to stand for, in the order of the first name's."""
    return [home for home in _loops(meanings[0]) if all(home in _loops(each) for each in meanings)]


def _possible(spec: str) -> list[str]:
    try:
        return _homes([_look_up(call) for call in parse(spec)])
    except FewerError:  # loop() says so, to whoever knows which entry it is
        return []


def _yielding(use: _Use, uses: Sequence[_Use]) -> _Use:
    """Leave slots to the others that insist on them, unless the user insists as well."""
    wanted = {slot for other in uses if other is not use for slot in other.slots if slot not in other.yields}
    left = [slot for slot in use.yields if slot in wanted and slot not in use.call.named]
    if not left:
        return use
    call = dataclasses.replace(use.call, named=dict(use.call.named) | dict.fromkeys(left))
    return dataclasses.replace(use, call=call, slots=tuple(slot for slot in use.slots if slot not in left))


def _make(use: _Use) -> Any:
    made = _called(catalogue.resolve(use.make), use.call)
    # whoever gives None for a slot that may be left leaves it, to another filling or to the baseline
    left = {slot for slot in use.yields if slot in use.call.named and use.call.named[slot] is None}
    if len(use.slots) > 1 and not (isinstance(made, Mapping) and set(made) == set(use.slots) - left):
        raise TypeError(f"{use.make} must make a mapping of the slots {use.slots}")
    return made


def _sharing_demonstrations(specs: Sequence[str], task: Task) -> list[str]:
    """Name the demonstrations of a race in all entries that need some."""
    if not any("demos" in spec for spec in specs):  # said in no entry, so there is nothing to share
        return list(specs)
    calls = [parse(spec) for spec in specs]
    given = {call.named["demos"] for each in calls for call in each if isinstance(call.named.get("demos"), str)}
    if len(given) != 1:
        return list(specs)
    with contextlib.suppress(FewerError, AttributeError):
        task.demonstrations(0)  # pyright: ignore[reportAttributeAccessIssue]
        return list(specs)
    (demos,) = given
    return [
        " + ".join(
            str(dataclasses.replace(call, named={**call.named, "demos": demos}) if _asks_for(call, "demos") else call)
            for call in each
        )
        for each in calls
    ]


def _asks_for(call: Call, name: str) -> bool:
    """Whether all that a call may stand for take an argument that it does not give."""
    try:
        made = [inspect.signature(catalogue.resolve(use.make)) for use in _look_up(call) if not use.is_loop]
    except FewerError:  # loop() says so
        return False
    if not made or name in call.named:
        return False
    return all(name in each.parameters and name not in _bound(each, call) for each in made)


def _bound(signature: inspect.Signature, call: Call) -> Mapping[str, Any]:
    try:
        return signature.bind_partial(*call.positional, **call.named).arguments
    except TypeError:  # loop() says so
        return {}


def _called(make: Any, call: Call) -> Any:
    try:
        inspect.signature(make).bind(*call.positional, **call.named)
    except TypeError:
        taken = ", ".join(
            parameter.name
            if parameter.default is inspect.Parameter.empty
            else f"{parameter.name}={parameter.default!r}"
            for parameter in inspect.signature(make).parameters.values()
        )
        raise FewerError(f"{call} does not fit; {call.name} takes ({taken})") from None
    try:
        return make(*call.positional, **call.named)
    except TypeError as error:  # a text where a number belongs
        raise FewerError(f"{call}: {error}") from error


def _arguments(home: type[Loop[Any, Any]], call: Call) -> dict[str, Any]:
    """The numbers of a loop that may be set by name: its fields whose default is a number, a truth value or a text."""
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(home)
        if field.default is not dataclasses.MISSING and isinstance(field.default, bool | int | float | str)
    }
    wrong = [name for name in call.named if name not in defaults]
    if call.positional or wrong:
        given = wrong[0] if wrong else repr(call.positional[0])
        raise FewerError(f"{call.name} cannot be given {given}; it takes {', '.join(sorted(defaults))} by name")
    for name, value in call.named.items():
        kind = type(defaults[name])
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise FewerError(f"{call.name}: {name} is {value!r}; give a value like {defaults[name]!r}")
    return dict(call.named)


def _loop_name(make: str) -> str:
    for name, part in catalogue.parts("loop").items():
        if part.make == make:
            return name
    return make
