"""A definition as a TOML file, for people who keep them in git: one canonical text for each, and back.

Field names are those of the API, with two things made easier: times are `..._seconds` instead of milliseconds, and
`max_retries` stands for the attempts. Content (script, stdin, environment) stands in the file, or beside it
(`script_file`), or is a version of a task file (`task_file`). A function stands as `function`, `args` and `kwargs`; without a
target it goes to any one host that offers it, unless `anywhere = false`. Reading the canonical text gives the same definition, byte for byte. Pure.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import tomllib
from collections.abc import Callable
from typing import Any

import msgspec

from fleetlog.meant import by_name, decoder_text
from fleetlog.toml_text import toml_lines
from fleetlog_schemas.definitions import Definition
from fleetlog_schemas.spec import (
    Blob,
    Choose,
    Export,
    Function,
    Options,
    Part,
    Retry,
    Script,
    TaskSpec,
    Workflow,
)

ANYWHERE = ("all", Choose())
"""Target and choice of a function that names no host: any one that offers it and serves its queue."""
FILE_SUFFIX, FILE_BYTES_MAX = ".toml", 32 * 1024 * 1024
"""Of one file: a script and a stdin of the largest size, as text."""
_VERSION_LINE = re.compile(r"^version[ \t]*=[ \t]*[0-9]+[ \t]*(?=#|$)", re.MULTILINE)
_TABLE_LINE = re.compile(r"^[ \t]*\[", re.MULTILINE)


class TextError(ValueError):
    """A file that is no definition; the message says where and why."""


class Contents(msgspec.Struct):
    """What a definition refers to, by digest."""

    by_digest: dict[str, bytes] = {}
    kept: dict[str, str] = {}
    """Versions of task files, as `PATH@VERSION`, to their digests: what the server has by this name, and a file may say."""

    def add(self, content: bytes, name: str) -> dict[str, Any]:
        """Keep content and return the reference to it."""
        digest = hashlib.sha256(content).hexdigest()
        self.by_digest[digest] = content
        return {"sha256": digest, "size": len(content), "name": name}

    def of(self, blob: Blob) -> bytes:
        """Return what a reference means."""
        return self.by_digest[blob.sha256]


class Kept(msgspec.Struct, frozen=True):
    """A version of a task file, as the server has it."""

    name: str
    """`PATH@VERSION`."""
    content: bytes
    interpreter: tuple[str, ...]


class Read(msgspec.Struct, frozen=True):
    """A file that was read."""

    definition: Definition
    version: int
    """The version that it was pulled at, or that its last push made; 0: it says none."""
    contents: Contents
    schedules: Any = {}
    """What it says of schedules, by name; see `schedule_text`."""


def write(definition: Definition, version: int, contents: Contents) -> str:
    """Return the canonical text of a definition; *version* 0 is left out."""
    top: dict[str, Any] = {"name": definition.name, "version": version, "description": definition.description}
    top.update(_task_table(definition.spec, contents), parameters=msgspec.to_builtins(definition.parameters))
    if isinstance(definition.spec.payload, Workflow):
        top["parts"] = {part.name: _part_table(part, contents) for part in definition.spec.payload.parts}
    return "\n".join(toml_lines(_renamed(top, _to_seconds), "")) + "\n"


def _part_table(part: Part, contents: Contents) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(part)
    for key in ("name", "task"):
        found.pop(key, None)
    if part.task is not None:
        found = {**_task_table(part.task, contents), **found}
        # What has its usual value says nothing: a part is read among many.
        usual = {"max_retries": 0, "timeout_ms": TaskSpec(payload=part.task.payload).timeout_ms, "options": {}, "retry": {}}
        found = {key: value for key, value in found.items() if key not in usual or value != usual[key]}
    return found


def _task_table(spec_of: TaskSpec, contents: Contents) -> dict[str, Any]:
    """Return what a task is as a file has it: payload, surroundings and the rest beside each other."""
    spec: dict[str, Any] = msgspec.to_builtins(spec_of)
    payload, options = spec.pop("payload"), spec.pop("options", {})
    top: dict[str, Any] = {key: value for key, value in payload.items() if key != "parts"}
    if isinstance(spec_of.payload, Script):
        top.update(_content("script", spec_of.payload.content, contents))
        del top["content"]
    if isinstance(spec_of.payload, Function):
        top = {"kind": "function", **_call_table(spec_of.payload)}
        if (spec_of.target, spec_of.choose) == ANYWHERE:
            del spec["target"], spec["choose"]
        elif not spec_of.target and spec_of.choose is None:
            top["anywhere"] = False
    around = spec_of.options
    for part, blob in (("stdin", around.stdin), ("env", around.env)):
        if blob is not None:
            options.pop(part)
            own = _environment(contents.of(blob)) if part == "env" else None
            top.update({"env": own} if own is not None and blob.name == "env" else _content(part, blob, contents))
    if list(options.get("env_names", ())) == sorted(top["env"] if isinstance(top.get("env"), dict) else ()):
        options.pop("env_names", None)
    retry = spec.get("retry", {})
    top["max_retries"] = retry.pop("attempts_max", 1) - 1
    spec.pop("timeout_ms", None)
    top["timeout_ms"] = spec_of.timeout_ms
    top.update(spec, options=options)
    return top


def _call_table(call: Function) -> dict[str, Any]:
    """Return the fields that stand for a call: its arguments as TOML has them, or as JSON where there is a null among them."""
    if b"null" in msgspec.json.encode((call.args, call.kwargs)):
        return {"function": call.name, "arguments_json": msgspec.json.encode({"args": call.args, "kwargs": call.kwargs}).decode()}
    return {"function": call.name, "args": list(call.args), "kwargs": call.kwargs}


def _content(part: str, blob: Blob, contents: Contents) -> dict[str, Any]:
    """Return the fields that stand for content: text, or base64 where it is none."""
    content = contents.of(blob)
    if part == "script" and contents.kept.get(blob.name) == blob.sha256:
        return {"task_file": blob.name}
    name = {f"{part}_name": blob.name} if blob.name != _usual_name(part) else {}
    try:
        return {part: content.decode(), **name}
    except UnicodeDecodeError:
        return {f"{part}_base64": base64.b64encode(content).decode(), **name}


def _usual_name(part: str) -> str:
    return "" if part == "script" else part


def _environment(content: bytes) -> dict[str, str] | None:
    """Return the environment that these bytes are, when they are exactly what this module makes of one."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        return None
    try:
        return found if environment_bytes(found) == content else None
    except UnicodeEncodeError:
        return None


def environment_bytes(environment: dict[str, str]) -> bytes:
    """Return an environment as it is stored."""
    return json.dumps(environment, ensure_ascii=False, sort_keys=True).encode()


def _to_seconds(key: str, value: Any) -> tuple[str, Any]:
    if not re.search(r"_ms(_max)?$", key) or not isinstance(value, int):
        return key, value
    seconds = value / 1000
    return key.replace("_ms", "_seconds"), int(seconds) if seconds.is_integer() else seconds


def _to_ms(key: str, value: Any) -> tuple[str, Any]:
    if not re.search(r"_seconds(_max)?$", key):
        return key, value
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**40:
        raise TextError(f"{key}: must be a number of seconds")
    return key.replace("_seconds", "_ms"), round(value * 1000)


def _renamed(table: dict[str, Any], rename: Callable[[str, Any], tuple[str, Any]]) -> dict[str, Any]:
    """Return a table whose times have the other unit; names that people chose stay."""
    found = {}
    for key, value in table.items():
        new_key, new = rename(key, value)
        if key == "parts" and isinstance(new, dict):
            new = {name: _renamed(part, rename) if isinstance(part, dict) else part for name, part in new.items()}
        elif isinstance(new, dict) and key not in ("parameters", "env", "given", "kwargs"):
            new = _renamed(new, rename)
        found[new_key] = new
    return found


def read(text: str, beside: Callable[[str], bytes], kept: Callable[[str], Kept]) -> Read:
    """Return the definition of a file's text; *beside* reads a file that it names, *kept* a task file of the server.

    Raises:
        TextError: it is no TOML, or no definition.
    """
    try:
        top = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise TextError(f"not TOML: {error}") from None
    contents, schedules = Contents(), top.pop("schedule", {})
    top = _renamed(top, _to_ms)
    version = top.pop("version", 0)
    if isinstance(version, bool) or not isinstance(version, int) or not 0 <= version < 2**53:
        raise TextError("version: must be the number of a version")
    parts = found if isinstance(found := top.get("parts"), dict) else {}
    spec = {key: value for key, value in top.items() if key not in ("name", "description", "parameters")}
    for table in (spec, *(part for part in parts.values() if isinstance(part, dict))):
        _take_kept(table, contents, kept)
    _take_task(spec, contents, beside)
    made = {"name": top.get("name", ""), "spec": spec}
    made.update({key: top[key] for key in ("description", "parameters") if key in top})
    try:
        return Read(msgspec.convert(made, Definition), version, contents, schedules)
    except msgspec.ValidationError as error:
        raise TextError(_plain(str(error), list(top.get("parts", ())))) from None


def _take_kept(table: dict[str, Any], contents: Contents, kept: Callable[[str], Kept]) -> None:
    """Put a task file's content and interpreter where a file names it: the script of a version, which never changes."""
    if "task_file" not in table:
        return
    if others := sorted(table.keys() & {"script", "script_base64", "script_file", "script_name", "argv", "function"}):
        raise TextError(f"task_file: stands in the place of {', '.join(others)}")
    if not isinstance(name := table.pop("task_file"), str):
        raise TextError('task_file: must be a text, as "maintenance/cleanup.py" or "maintenance/cleanup.py@3"')
    one = kept(name)
    contents.kept[one.name] = hashlib.sha256(one.content).hexdigest()
    table.update(script_base64=base64.b64encode(one.content).decode(), script_name=one.name)
    table.setdefault("interpreter", list(one.interpreter))


def _take_task(spec: dict[str, Any], contents: Contents, beside: Callable[[str], bytes]) -> None:
    """Turn what a file says of a task into its specification, in place."""
    _take_payload(spec, contents, beside)
    _take_surroundings(spec, contents, beside)
    retries = spec.pop("max_retries", 0)
    if isinstance(retries, bool) or not isinstance(retries, int):
        raise TextError("max_retries: must be a number")
    retry = spec.setdefault("retry", {})
    if not isinstance(retry, dict) or "attempts_max" in retry:
        raise TextError("retry: is a table; how often is said by max_retries")
    retry["attempts_max"] = retries + 1


_OF_PARTS = frozenset(Part.__struct_fields__) - {"name", "task", "declared"}
"""What a file says of a part beside its task."""


def _take_parts(parts: Any, contents: Contents, beside: Callable[[str], bytes]) -> list[dict[str, Any]]:
    """Return the parts of a workflow, which a file has as tables by name."""
    if not isinstance(parts, dict) or not all(isinstance(part, dict) for part in parts.values()):
        raise TextError("parts: are tables, one for each part: [parts.build]")
    found = []
    for name, table in parts.items():
        part = {key: value for key, value in table.items() if key in _OF_PARTS}
        if "definition" not in part:
            if "target" in part:
                table["target"] = part.pop("target")
            task = {key: value for key, value in table.items() if key not in part}
            try:
                _take_task(task, contents, beside)
            except TextError as error:
                raise TextError(f"parts.{name}: {error}") from None
            part["task"] = task
        elif others := sorted(table.keys() - part.keys()):
            raise TextError(f"parts.{name}: runs a definition, and so has no {', '.join(others)} of its own")
        found.append({"name": name, **part})
    return found


def _plain(message: str, parts: list[str]) -> str:
    """Return a message of the decoder with the field as the file has it."""
    plain = re.sub(r" - at `\$\.spec`|\$\.(spec\.)?(payload\.)?", "", decoder_text(message, Definition, TaskSpec, Retry, options=Options))
    return re.sub(r"_ms(_max)?\b", r"_seconds\1", by_name(plain, parts))


_PLAIN = ("argv", "interpreter", "args", "steps", "artifacts", "inputs")
"""Fields of payloads that a file has as they are."""


def _take_payload(spec: dict[str, Any], contents: Contents, beside: Callable[[str], bytes]) -> None:
    blob = _take_content(spec, "script", contents, beside)
    of_kind = spec.pop("kind", "script" if blob else "build" if "steps" in spec else "export" if "what" in spec else "shell")
    payload: dict[str, Any] = {"kind": of_kind}
    payload.update({key: spec.pop(key) for key in (*_PLAIN, *(Export.__struct_fields__ if of_kind == "export" else ())) if key in spec})
    if blob:
        payload["content"] = blob
    if "function" in spec:
        payload = {"kind": "function", "name": spec.pop("function"), **_arguments(spec, payload)}
        if spec.pop("anywhere", True) and "target" not in spec and "choose" not in spec:
            spec["target"], spec["choose"] = ANYWHERE[0], {}
    if "parts" in spec:
        payload = {"kind": "workflow", "parts": _take_parts(spec.pop("parts"), contents, beside)}
    spec["payload"] = payload


def _arguments(spec: dict[str, Any], payload: dict[str, Any]) -> dict[str, Any]:
    if "arguments_json" not in spec:
        return {"args": payload.get("args", []), "kwargs": spec.pop("kwargs", {})}
    try:
        found = json.loads(spec.pop("arguments_json"))
        return {"args": found["args"], "kwargs": found["kwargs"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise TextError('arguments_json: is a text such as {"args": [1, null], "kwargs": {}}') from None


def _take_surroundings(spec: dict[str, Any], contents: Contents, beside: Callable[[str], bytes]) -> None:
    options = spec.setdefault("options", {})
    if not isinstance(options, dict) or {"env", "stdin"} & set(options):
        raise TextError("options: is a table; env and stdin stand outside of it")
    if stdin := _take_content(spec, "stdin", contents, beside):
        options["stdin"] = stdin
    environment = spec.get("env")
    if isinstance(environment, dict):
        if not all(isinstance(value, str) for value in environment.values()):
            raise TextError("env: values are texts")
        del spec["env"]
        options["env"] = contents.add(_encoded("env", lambda: environment_bytes(environment)), "env")
        options.setdefault("env_names", sorted(environment))
    elif env := _take_content(spec, "env", contents, beside):
        options["env"] = env


def _take_content(
    spec: dict[str, Any], part: str, contents: Contents, beside: Callable[[str], bytes]
) -> dict[str, Any] | None:
    """Return the reference to content that stands in the file or beside it; None when there is none."""
    given = [key for key in (part, f"{part}_base64", f"{part}_file") if key in spec]
    name = spec.pop(f"{part}_name", None)
    if not given:
        if name is not None:
            raise TextError(f"{part}_name: there is no {part}")
        return None
    if len(given) > 1:
        raise TextError(f"give one of {', '.join(given)}")
    (key,) = given
    value = spec.pop(key)
    if not isinstance(value, str) or not isinstance(name, str | None):
        raise TextError(f"{key}: must be a text")
    usual = _usual_name(part)
    if key.endswith("_file"):
        content, usual = beside(value), value.rpartition("/")[2] if part == "script" else usual
    elif key.endswith("_base64"):
        try:
            content = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise TextError(f"{key}: not base64") from None
    else:
        content = _encoded(key, value.encode)
    return contents.add(content, usual if name is None else name)


def _encoded(key: str, encode: Callable[[], bytes]) -> bytes:
    try:
        return encode()
    except UnicodeEncodeError:
        raise TextError(f"{key}: must be valid UTF-8") from None


def with_version(text: str, version: int) -> str:
    """Return a file's text with its line `version = N` set, or added before the rest, which stays as it is."""
    first_table = _TABLE_LINE.search(text)
    head = text[: first_table.start()] if first_table else text
    line = f"version = {version}"
    if _VERSION_LINE.search(head):
        changed = _VERSION_LINE.sub(lambda found: line + " " * found.group().endswith(" "), head, count=1)
    else:
        changed = f"{line}\n{head}"
    new = changed + text[len(head) :]
    try:
        if tomllib.loads(new) == {**tomllib.loads(text), "version": version}:
            return new
    except tomllib.TOMLDecodeError:
        pass
    return text  # the line stands within a text: better an old number than another script


def canonical(found: Read) -> str:
    """Return the canonical text of what a file says, without its version: what is compared."""
    return write(found.definition, 0, found.contents)

