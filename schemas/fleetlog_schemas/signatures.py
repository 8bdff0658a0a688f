"""Whether arguments fit a function, by the signature that its hosts say of it. Pure.

What a person reads, `(path: str, days: int = 30) -> int`, is also what is checked: names, what must be given, and the hints
that say a JSON type by themselves. Any other hint, and a signature that cannot be read (cut, or with a default that is no
expression), is left to the host. Nothing of the text is evaluated.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache, reduce
from operator import or_
from typing import Any, Literal

import msgspec

SIGNATURES_KNOWN_MAX = 4_096
"""Signatures that are kept read: of that many functions and versions."""
_PLAIN: dict[str, Any] = {
    "int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict, "set": list, "frozenset": list, "tuple": list, "None": None,
}
_P = inspect.Parameter


class Signature:
    """What a function takes."""

    def __init__(self, text: str, found: inspect.Signature) -> None:
        self._text, self._found = text, found
        self._names = [one.name for one in found.parameters.values()]
        self._quick: Any = None
        if all(one.kind is _P.POSITIONAL_OR_KEYWORD for one in found.parameters.values()):
            fields = [
                (one.name, one.annotation) if one.default is _P.empty else (one.name, one.annotation, None) for one in found.parameters.values()
            ]
            self._quick = msgspec.defstruct("Arguments", fields, forbid_unknown_fields=True, kw_only=True)

    def problem(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], others: Collection[str] = ()
    ) -> tuple[str, str]:
        """Return where a call is wrong, as a pointer into it, and what is; two empty texts when it fits.

        *others* are names whose values come from elsewhere: the function gets those that it has.
        """
        if self._quick is not None and not others and len(args) <= len(self._names):
            given = dict(zip(self._names, args, strict=False))
            if given.keys().isdisjoint(kwargs):
                try:
                    msgspec.convert({**given, **kwargs}, self._quick)
                except msgspec.ValidationError:
                    pass  # the long way says which one
                else:
                    return "", ""
        return self._problem(name, args, kwargs, others)

    def _problem(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], others: Collection[str]) -> tuple[str, str]:
        known = self._found.parameters
        any_name = any(one.kind is _P.VAR_KEYWORD for one in known.values())
        taken = {other: msgspec.UNSET for other in others if other not in kwargs and (any_name if other not in known else True)}
        try:
            bound = self._found.bind(*args, **taken, **kwargs)
        except TypeError as error:
            unknown = next((key for key in kwargs if key not in known), "")
            return (f"/kwargs/{unknown}" if unknown and not any_name else "/args"), f"{name}{self._text}: {error}"
        for parameter, value in bound.arguments.items():
            one = known[parameter]
            values = {"": value}
            if one.kind is _P.VAR_POSITIONAL:
                values = {str(index): each for index, each in enumerate(value)}
            elif one.kind is _P.VAR_KEYWORD:
                values = value
            for part, each in values.items():
                if each is msgspec.UNSET:
                    continue
                try:
                    msgspec.convert(each, one.annotation)
                except msgspec.ValidationError as error:
                    key = part or parameter
                    where = f"/kwargs/{key}" if key in kwargs else f"/args/{self._names.index(parameter) + int(part or 0)}"
                    return where, f"argument {parameter} of {name}: {error}"
        return "", ""


@lru_cache(SIGNATURES_KNOWN_MAX)
def signature_of(text: str) -> Signature | None:
    """Return what a signature says; None when it cannot be read."""
    try:
        (read,) = ast.parse(f"def f{text}: pass").body
        if not isinstance(read, ast.FunctionDef):
            return None
        found = inspect.Signature(list(_parameters(read.args)))
        return Signature(text, found)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None


def _parameters(given: ast.arguments) -> list[inspect.Parameter]:
    positional = [(one, _P.POSITIONAL_ONLY) for one in given.posonlyargs] + [(one, _P.POSITIONAL_OR_KEYWORD) for one in given.args]
    optional = len(positional) - len(given.defaults)
    found = [_parameter(one, kind, optional=index >= optional) for index, (one, kind) in enumerate(positional)]
    if given.vararg is not None:
        found.append(_parameter(given.vararg, _P.VAR_POSITIONAL))
    for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        found.append(_parameter(one, _P.KEYWORD_ONLY, optional=default is not None))
    if given.kwarg is not None:
        found.append(_parameter(given.kwarg, _P.VAR_KEYWORD))
    return found


def _parameter(one: ast.arg, kind: Any, *, optional: bool = False) -> inspect.Parameter:
    hint = Any if one.annotation is None else _type(one.annotation)
    return inspect.Parameter(one.arg, kind, annotation=hint, default=None if optional else _P.empty)


def _type(hint: ast.expr) -> Any:
    """Return the type that a hint says, as far as JSON has it; Any for every other."""
    match hint:
        case ast.Constant(value=None):
            return None
        case ast.Name(id=name):
            return _PLAIN.get(name, Any)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _any_of([left, right])
        case ast.Subscript(value=ast.Name(id=name), slice=inside):
            return _generic(name, list(inside.elts) if isinstance(inside, ast.Tuple) else [inside])
        case _:
            return Any


def _generic(name: str, inside: list[ast.expr]) -> Any:
    match name, inside:
        case "list" | "List" | "Sequence" | "set" | "frozenset" | "Iterable", [one]:
            return list[_type(one)]  # type: ignore[misc]
        case "dict" | "Dict" | "Mapping", [_, value]:
            return dict[str, _type(value)]  # type: ignore[misc]
        case "tuple" | "Tuple", _:
            return list
        case "Optional", [one]:
            return _any_of([one, ast.Constant(None)])
        case "Union", _:
            return _any_of(inside)
        case "Literal", _:
            values = [one.value for one in inside if isinstance(one, ast.Constant)]
            return Literal[tuple(values)] if len(values) == len(inside) else Any
        case _:
            return Any


def _any_of(hints: list[ast.expr]) -> Any:
    types = [_type(one) for one in hints]
    if Any in types or sum(getattr(one, "__origin__", one) in (list, dict) for one in types) > 1:
        return Any
    return reduce(or_, types)
