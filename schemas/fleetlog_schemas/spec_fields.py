"""Fields of a specification with rules of their own: retries, the choice of hosts, waves; and how a broken rule is told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from fleetlog_schemas import limits
from fleetlog_schemas.graph import VARIABLE
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.parameters import ParameterValue

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHARE = re.compile(r"(\d{1,6})(%?)")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,62}")
_WORD_RULE = "is 1-63 of A-Z a-z 0-9 _ . / - and starts with a letter or digit"
INTEGERS = range(-(2**63), 2**63)
"""What JSON's other readers and MessagePack take for an integer."""
_FUNCTION_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")


class SpecError(ValueError):
    """A specification breaks a rule. `pointer` (RFC 6901) names the field."""

    def __init__(self, pointer: str, message: str) -> None:
        super().__init__(message)
        self.pointer = pointer
        self.message = message


class Blob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A reference to content that is kept outside the log."""

    sha256: str
    size: int
    name: str = ""


class Retry(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """When a command that ended badly is tried again. The default is never."""

    attempts_max: int = 1
    on: tuple[Outcome, ...] = (Outcome.FAILURE, Outcome.TIMEOUT, Outcome.ERROR)
    """Outcomes that are retried; `lost` only when it is named here, for it may run a command twice."""
    backoff_ms: int = 1_000
    backoff_ms_max: int = 60_000


class Choose(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Run on some of the hosts that the target means. Hosts that can take work now are taken first."""

    count: int = 1
    """How many; with `by: each`, how many for each value of the label."""
    by: Literal["load", "random", "spread", "each"] = "load"
    """The least loaded; any; spread evenly over the values of a label; so many for each value of a label."""
    label: str = ""
    """The label that `spread` and `each` go by; hosts without it are left out."""


class Rollout(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Run on the hosts in waves: the next one begins when the last one has ended well."""

    waves: tuple[str, ...] = ()
    """How many hosts are done after each wave, as a count or a percentage of all: `1`, `5%`, `25%`, `100%`."""
    batch: str = ""
    """Size of each wave after those, as a count or a percentage of all; empty: the rest is one wave."""
    canary: str = ""
    """A target: those of the task's hosts that it means go first, as a wave of their own."""
    soak_ms: int = 0
    """How long the end of a wave must be over before the next one begins."""
    approve: tuple[int, ...] = ()
    """Waves (from 1) that wait until a person approves them; 0 stands for every wave after the first."""


def share(pointer: str, text: str) -> tuple[int, bool]:
    """Return a count, or a percentage and True, from its text.

    Raises:
        SpecError: it is neither.
    """
    match = _SHARE.fullmatch(text)
    if match is None or (match[2] and int(match[1]) > 100):
        raise SpecError(pointer, f"must be a count (3) or a percentage (5%), not {text[:40]!r}")
    return int(match[1]), bool(match[2])


def check_choose(choose: Choose, *, exact: bool) -> None:
    """Check a choice among hosts; *exact*: the task names its hosts. Raises SpecError."""
    if exact:
        raise SpecError("/choose", "exact hosts (host_ids) leave nothing to choose")
    in_range("/choose/count", choose.count, 1, limits.HOSTS_PER_TASK_MAX)
    if choose.by in ("spread", "each") and not choose.label:
        raise SpecError("/choose/label", f"name the label that `{choose.by}` goes by")
    in_range("/choose/label", utf8_bytes("/choose/label", choose.label), 0, limits.LABEL_BYTES_MAX)


def check_rollout(rollout: Rollout) -> None:
    """Check the rules of waves. Raises SpecError."""
    in_range("/rollout/waves", len(rollout.waves), 0, limits.WAVES_MAX)
    last: dict[bool, int] = {}
    for index, text in enumerate(rollout.waves):
        size, percent = share(f"/rollout/waves/{index}", text)
        if size <= last.get(percent, 0):
            raise SpecError(f"/rollout/waves/{index}", f"{text} is no more than the wave before it: each wave adds hosts")
        last[percent] = size
    if rollout.batch and share("/rollout/batch", rollout.batch)[0] == 0:
        raise SpecError("/rollout/batch", "a wave has at least one host")
    if not (rollout.waves or rollout.batch or rollout.canary.strip()):
        raise SpecError("/rollout", "say how large the waves are: waves, batch or canary")
    in_range("/rollout/canary", utf8_bytes("/rollout/canary", rollout.canary), 0, limits.ARGV_BYTES_MAX)
    in_range("/rollout/soak_ms", rollout.soak_ms, 0, limits.TIMEOUT_MS_MAX)
    in_range("/rollout/approve", len(rollout.approve), 0, limits.WAVES_MAX)
    for index, wave in enumerate(rollout.approve):
        in_range(f"/rollout/approve/{index}", wave, 0, limits.WAVES_MAX)


def utf8_bytes(pointer: str, text: str) -> int:
    """Return the length of *text* in UTF-8; an argument of a shell may be bytes that are no text."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise SpecError(pointer, "must be valid UTF-8") from None


def in_range(pointer: str, value: int, low: int, high: int) -> None:
    """Check a number. Raises SpecError."""
    if not low <= value <= high:
        raise SpecError(pointer, f"must be between {low} and {high}, not {value}")


def check_values(pointer: str, values: Mapping[str, ParameterValue]) -> None:
    """Check values of parameters that no definition declares. Raises SpecError."""
    bytes_total = 0
    for name, value in values.items():
        if not VARIABLE.fullmatch(name):
            raise SpecError(pointer, f"{name[:100]!r} is no name of a value: 1-63 of a-z 0-9 _, a letter first")
        check_integer(f"{pointer}/{name}", value)
        for text in value if isinstance(value, tuple) else (str(value),):
            if "\x00" in text:
                raise SpecError(f"{pointer}/{name}", "cannot contain a NUL character")
            bytes_total += utf8_bytes(f"{pointer}/{name}", text)
    in_range("/parameters", len(values), 0, limits.PARAMETERS_MAX)
    in_range("/parameters", bytes_total, 0, limits.PARAMETERS_BYTES_MAX)


def check_function_name(pointer: str, name: str) -> None:
    """Check the name of a function. Raises SpecError."""
    if not _FUNCTION_NAME.fullmatch(name):
        raise SpecError(pointer, "a function's name is 1-128 of A-Z a-z 0-9 _ . - and begins with a letter or _")


def check_integer(pointer: str, value: object) -> None:
    """Check that a value, if it is an integer, can be pushed and kept: MessagePack has none of more bits. Raises SpecError."""
    if isinstance(value, int) and value not in INTEGERS:
        raise SpecError(pointer, "must be an integer of 64 bits: give a larger one as a text")


def _check_json(pointer: str, value: Any) -> None:
    """Check what a function is given, without recursion: whoever decodes it later has a stack of unknown height."""
    waiting = [(value, 0)]
    while waiting:
        one, depth = waiting.pop()
        check_integer(pointer, one)
        if isinstance(one, dict | list | tuple):
            if depth > limits.FUNCTION_ARGUMENTS_DEPTH_MAX:
                raise SpecError(
                    pointer, f"lists and objects are nested more than {limits.FUNCTION_ARGUMENTS_DEPTH_MAX} deep: pass the name of a file"
                )
            waiting.extend((inner, depth + 1) for inner in (one.values() if isinstance(one, dict) else one))


def check_call(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Check a function's name and its arguments. Raises SpecError."""
    check_function_name("/payload/name", name)
    if args:
        _check_json("/payload/args", args)
    if kwargs:
        _check_json("/payload/kwargs", kwargs)
    size = len(msgspec.json.encode((args, kwargs)))
    if size > limits.FUNCTION_ARGUMENTS_BYTES_MAX:
        raise SpecError(
            "/payload/args", f"arguments have at most {limits.FUNCTION_ARGUMENTS_BYTES_MAX} bytes, not {size}: pass the name of a file"
        )


def check_word(pointer: str, word: str, what: str) -> None:
    """Check a tag, a key, a queue's name: *what* says which. Raises SpecError."""
    if not _TAG.fullmatch(word):
        raise SpecError(pointer, f"{what} {_WORD_RULE}")


def check_argv(pointer: str, argv: tuple[str, ...], *, at_least: int) -> None:
    """Check an argv, or a part of one. Raises SpecError."""
    if len(argv) < at_least or (at_least and not argv[0]):
        raise SpecError(pointer, "there is nothing to run: name a program")
    for index, part in enumerate(argv):
        if "\x00" in part:
            raise SpecError(f"{pointer}/{index}", "an argument cannot contain a NUL character")
    bytes_total = sum(utf8_bytes(f"{pointer}/{index}", part) + 1 for index, part in enumerate(argv))
    in_range(pointer, bytes_total, 0, limits.ARGV_BYTES_MAX)


def check_queue_name(pointer: str, name: str) -> None:
    """Check the name of a queue. Raises SpecError."""
    check_word(pointer, name, "a queue's name")


def is_digest(text: str) -> bool:
    """Tell whether a text is a SHA-256 as it is written here."""
    return _DIGEST.fullmatch(text) is not None


def check_blob(pointer: str, blob: Blob) -> None:
    """Check a reference to content. Raises SpecError."""
    if not is_digest(blob.sha256):
        raise SpecError(f"{pointer}/sha256", "a digest is 64 lower-case hexadecimal digits")
    in_range(f"{pointer}/size", blob.size, 0, limits.BLOB_BYTES_MAX)
    in_range(f"{pointer}/name", utf8_bytes(f"{pointer}/name", blob.name), 0, limits.PATH_BYTES_MAX)
