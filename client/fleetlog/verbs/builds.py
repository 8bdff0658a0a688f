"""build: run steps on hosts and keep the files that they make."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from fleetlog.console import Console
from fleetlog.exits import CliError, Exit
from fleetlog.verbs import spec as specs
from fleetlog.verbs.artifacts import content_of
from fleetlog.verbs.submit import submit
from fleetlog_schemas.builds import ArtifactRule, Build, Input, Step, When
from fleetlog_schemas.limits import BLOB_BYTES_MAX
from fleetlog_schemas.spec import TaskSpec

_OF_TASK = re.compile(r"(last|[0-9a-f-]{6,36}):([^/:]+)")


def build(console: Console) -> int:
    """Run a build."""
    options = console.options
    if not options.step:
        raise CliError(Exit.TYPED_WRONG, "there is nothing to run", "write --step 'make' --artifact dist/app")
    rules: list[tuple[When, str]] = [("success", given) for given in options.artifact]
    rules += [("ended", given) for given in options.artifact_ended]
    inputs = [given.partition("=") for given in options.input]
    payload = Build(
        steps=tuple(Step(argv=("/bin/sh", "-ec", text), name=_heading(text)) for text in options.step),
        artifacts=tuple(_rule(given, when) for when, given in rules),
        inputs=tuple(Input(path=path or _name_of(source), content=specs.UNSENT) for source, _, path in inputs),
    )
    spec = specs.of_payload(options, payload)
    return submit(console, _with_inputs(console, spec, payload, [source for source, _, _ in inputs]), specs.Content(options))


def _rule(given: str, when: When) -> ArtifactRule:
    path, _, name = given.partition("=")
    return ArtifactRule(path=path.rstrip("/"), name=name, when=when)


def _with_inputs(console: Console, spec: TaskSpec, payload: Build, sources: list[str]) -> TaskSpec:
    given = tuple(
        msgspec.structs.replace(one, content=console.client.put_blob(_read(console, source), source.rpartition("/")[2]))
        for one, source in zip(payload.inputs, sources, strict=True)
    )
    return msgspec.structs.replace(spec, payload=msgspec.structs.replace(payload, inputs=given))


def _read(console: Console, source: str) -> bytes:
    of_task = _OF_TASK.fullmatch(source)
    if of_task is not None and not Path(source).exists():
        return content_of(console.gateway, of_task[1], of_task[2], BLOB_BYTES_MAX)
    return specs.read_file(source)


def _name_of(source: str) -> str:
    of_task = _OF_TASK.fullmatch(source)
    return of_task[2] if of_task else source.rpartition("/")[2]


def _heading(text: str) -> str:
    """Return a step's text as its name, where it can be one; otherwise it goes by its number."""
    line = " ".join(text.split())
    return line if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _./:-]{0,62}", line) else ""
