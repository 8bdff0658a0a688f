"""The graph that the parts of a workflow make: bindings, the order that follows from `after`, and what is wrong with it. Pure.

A part stands below those that it is after. What is wrong is named by its place in the specification, and a cycle by the
parts on it: `a → b → a`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

PART_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
VARIABLE = re.compile(r"[a-z][a-z0-9_]{0,62}")
"""Name of a value that a part is given: as a parameter's."""
When = Literal["success", "any-success", "failure", "ended"]
Item = str | bool | int | float


class GraphError(ValueError):
    """The parts make no workflow. `pointer` (RFC 6901) names the field below the list of parts."""

    def __init__(self, pointer: str, message: str) -> None:
        super().__init__(message)
        self.pointer, self.message = pointer, message


class Binding(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Where a value comes from: one of a parameter of the workflow, the value of an earlier part, or the item."""

    parameter: str = ""
    part: str = ""
    item: bool = False
    path: str = ""
    """A pointer (RFC 6901) into the value: `/files/0`; empty: all of it."""
    by_host: bool = False
    """Of a part: an object of host names to what each host returned; otherwise it ran on one host."""


class PartLike(Protocol):
    """What the graph needs to know of a part."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def after(self) -> tuple[str, ...]:
        """The parts that must have ended before it."""
        ...

    @property
    def for_each(self) -> tuple[Item, ...] | Binding | None:
        """What it is run for."""
        ...

    @property
    def given(self) -> Mapping[str, Binding]:
        """What it is given."""
        ...


def bindings(part: PartLike) -> Iterator[tuple[str, Binding]]:
    """Yield every binding of a part, with where it stands in it."""
    if isinstance(part.for_each, Binding):
        yield "/for_each", part.for_each
    for name, one in part.given.items():
        yield f"/given/{name[:100]}", one


def ranks(parts: Sequence[PartLike]) -> list[list[str]]:
    """Return the names of the parts in the order in which they can run: those of one rank beside each other.

    Raises:
        GraphError: a name comes twice, `after` names no part, or the parts are in a cycle.
    """
    at: dict[str, int] = {}
    for index, part in enumerate(parts):
        if part.name in at:
            raise GraphError(f"/{index}/name", f"two parts are named {part.name}")
        at[part.name] = index
    for index, part in enumerate(parts):
        for number, name in enumerate(part.after):
            if name not in at:
                raise GraphError(f"/{index}/after/{number}", f"{part.name} is after {name[:100]}, and no part has that name")
            if name in part.after[:number]:
                raise GraphError(f"/{index}/after/{number}", f"{part.name} is after {name} twice")
    found: list[list[str]] = []
    placed: set[str] = set()
    while len(placed) < len(parts):
        rank = [part.name for part in parts if part.name not in placed and placed.issuperset(part.after)]
        if not rank:
            cycle = _cycle(parts, placed)
            raise GraphError(f"/{at[cycle[0]]}/after", f"the parts wait for each other: {' → '.join(cycle)}")
        found.append(rank)
        placed.update(rank)
    return found


def _cycle(parts: Sequence[PartLike], placed: set[str]) -> list[str]:
    """Return the parts on a cycle in the order in which they would run, the first one again at the end."""
    left = {part.name: [name for name in part.after if name not in placed] for part in parts if part.name not in placed}
    walked = [next(iter(left))]
    while (before := left[walked[-1]][0]) not in walked:
        walked.append(before)
    return [before, *reversed(walked[walked.index(before) :])]


def ancestors(parts: Sequence[PartLike]) -> dict[str, set[str]]:
    """Return, for each part, every part that has ended before it can begin. The parts make a graph without a cycle."""
    by_name = {part.name: part for part in parts}
    found: dict[str, set[str]] = {}
    for rank in ranks(parts):
        for name in rank:
            after = by_name[name].after
            found[name] = set(after).union(*(found[one] for one in after))
    return found


def descendants(parts: Sequence[PartLike], names: set[str]) -> set[str]:
    """Return these parts and every part that comes after one of them."""
    return {part for part, before in ancestors(parts).items() if part in names or before & names}


def check_parts(parts: Sequence[PartLike], parameters: set[str] | None) -> None:
    """Check names, order and bindings; *parameters* are those of the workflow, None when they are not known here.

    Raises:
        GraphError: the first thing that is wrong.
    """
    for index, part in enumerate(parts):
        if not PART_NAME.fullmatch(part.name):
            raise GraphError(f"/{index}/name", "a part's name is 1-63 of a-z 0-9 _ -, and begins with a letter or digit")
    before = ancestors(parts)
    fanned = {part.name for part in parts if part.for_each is not None}
    for index, part in enumerate(parts):
        for where, one in bindings(part):
            try:
                _check_binding(part, where, one, before[part.name], parameters)
                if one.by_host and one.part in fanned:
                    raise GraphError("/by_host", f"{one.part} runs for each item of a list: its value is a list of what each returned")
            except GraphError as error:
                raise GraphError(f"/{index}{where}{error.pointer}", error.message) from None
        for name in part.given:
            if not VARIABLE.fullmatch(name):
                raise GraphError(f"/{index}/given", f"{name[:100]!r} is no name of a value: 1-63 of a-z 0-9 _, a letter first")


def _check_binding(part: PartLike, where: str, one: Binding, before: set[str], parameters: set[str] | None) -> None:
    if bool(one.parameter) + bool(one.part) + one.item != 1:
        raise GraphError("", "name one of: parameter, part, item")
    if one.item and (where == "/for_each" or part.for_each is None):
        raise GraphError("/item", f"{part.name} has no for_each that an item could come from")
    if one.part and one.part not in before:
        raise GraphError("/part", f"{part.name} takes a value of {one.part[:100]} and does not come after it: name it in `after`")
    if one.parameter and parameters is not None and one.parameter not in parameters:
        raise GraphError("/parameter", f"the workflow has no parameter {one.parameter[:100]!r}")
    if one.by_host and not one.part:
        raise GraphError("/by_host", "only what a part returned is by host")
    if one.path and not one.path.startswith("/"):
        raise GraphError("/path", f"a path begins with /, as in /files/0, not {one.path[:40]!r}")
