"""What a person may have meant: errors of decoders and of the command line, in words that say what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import msgspec

_UNKNOWN = re.compile(r"Object contains unknown field `([^`]*)`")
_OTHER_KIND = re.compile(r"Expected `([^`]*)`, got `([^`]*)`")
_MISSING = re.compile(r"Object missing required field `([^`]*)`")
_CHOICE = re.compile(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", re.DOTALL)
_REQUIRED = re.compile(r"the following arguments are required: (.*)")
_LISTED_MAX = 16
"""Choices that are named in an error when none is near; of more, --help is the better list."""
_OTHER_WORDS = {
    "add": ("set", "push"), "create": ("set", "push", "add"), "delete": ("rm", "revoke"), "describe": ("show",), "edit": ("set", "push"),
    "get": ("show",), "history": ("ls",), "hosts": ("host",), "info": ("show",), "kill": ("cancel",), "list": ("ls",),
    "ps": ("ls",), "remove": ("rm", "revoke"), "retry": ("rerun",), "rm": ("revoke",), "set": ("push", "label"), "shell": ("exec",),
    "ssh": ("exec",), "start": ("up",), "status": ("show", "ls"), "stop": ("cancel",), "tasks": ("ls",),
}
"""What other programs call a verb to what it may be called here."""
_KINDS = {
    "array": 'a list (["..."])', "object": "a table", "str": 'a text ("...")', "int": "a whole number", "float": "a number",
    "bool": "true or false", "null": "nothing",
}
"""What a decoder calls a kind of value to what a person calls it."""


def nearest(text: str, names: Iterable[str]) -> str:
    """Return `: did you mean NAME?` of the one that is most like *text*; nothing when none is."""
    from difflib import get_close_matches  # only when something is wrong: the command line starts without it

    found = get_close_matches(text, list(names), n=1)
    return f": did you mean {found[0]}?" if found else ""


def decoder_text(message: str, *types: type[msgspec.Struct], options: type[msgspec.Struct] | None = None) -> str:
    """Return a message of msgspec in plain words; the fields of *types* are those that there are, and of a table `options`."""
    below = options.__struct_fields__ if options else ()
    names = [*below, *(name for one in types for name in one.__struct_fields__)]

    def unknown(found: re.Match[str]) -> str:
        if found[1] in below:
            return f"{found[1]} is one of the options: write it below [options]"
        return f"there is no field {found[1]}{nearest(found[1], names)}"

    message = _UNKNOWN.sub(unknown, message)
    message = _MISSING.sub(lambda found: f"{found[1]} is missing", message)
    return _OTHER_KIND.sub(lambda found: f"must be {_kind(found[1])}, not {_kind(found[2])}", message)


def _kind(text: str) -> str:
    return " or ".join(_KINDS.get(one.strip(), one.strip()) for one in text.split("|"))


def typed_text(message: str) -> str:
    """Return a message of argparse in plain words: what is missing, or which choice was meant by one that there is not."""
    if (missing := _REQUIRED.fullmatch(message)) is not None:
        which = ": on which hosts? all, web01, 'web*' or env=prod" if missing[1] == "-t/--target" else ""
        return f"{missing[1]} is missing{which}"
    matched = _CHOICE.fullmatch(message)
    if matched is None:
        return message
    typed, choices = matched[2], [one.strip("'") for one in matched[3].split(", ")]
    meant = [one for one in _OTHER_WORDS.get(typed, ()) if one in choices]
    near = f": did you mean {meant[0]}?" if meant else nearest(typed, choices)
    if not near and len(choices) <= _LISTED_MAX:
        near = f": it is one of {', '.join(choices)}"
    return f"there is no {matched[1]} {typed!r}{near}"


def by_name(place: str, parts: list[str]) -> str:
    """Return a place in a specification as the file has it: a part by its name, its task's fields beside its own."""

    def named(found: re.Match[str]) -> str:
        index = int(found[1])
        return f"parts.{parts[index] if index < len(parts) else index}"

    return re.sub(r"(?:payload\.)?parts[.\[](\d+)\]?(?:\.task\b)?(?:\.payload\b)?", named, place)
