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


def decoder_text(message: str, *types: type[msgspec.Struct]) -> str:
    """Return a message of msgspec in plain words; the fields of *types* are those that there are."""
    names = [name for one in types for name in one.__struct_fields__]
    message = _UNKNOWN.sub(lambda found: f"there is no field {found[1]}{nearest(found[1], names)}", message)
    message = _MISSING.sub(lambda found: f"{found[1]} is missing", message)
    return _OTHER_KIND.sub(lambda found: f"must be {_kind(found[1])}, not {_kind(found[2])}", message)


def _kind(text: str) -> str:
    return " or ".join(_KINDS.get(one.strip(), one.strip()) for one in text.split("|"))


def choice_text(message: str) -> str:
    """Return a message of argparse; of a choice that there is not, with the nearest instead of all, where one is near."""
    matched = _CHOICE.fullmatch(message)
    if matched is None:
        return message
    near = nearest(matched[2], re.findall(r"'([^']*)'", matched[3]))
    return f"there is no {matched[1]} {matched[2]!r}{near}" if near else message


def by_name(place: str, parts: list[str]) -> str:
    """Return a place in a specification as the file has it: a part by its name, its task's fields beside its own."""

    def named(found: re.Match[str]) -> str:
        index = int(found[1])
        return f"parts.{parts[index] if index < len(parts) else index}"

    return re.sub(r"(?:payload\.)?parts[.\[](\d+)\]?(?:\.task\b)?(?:\.payload\b)?", named, place)
