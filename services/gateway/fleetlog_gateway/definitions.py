"""From a definition to a task: read a version, check the parameters, and make the environment that carries secrets.

The gateway resolves the version when the task is submitted, and writes the whole specification into the log: no reader
looks anything up. Values of secrets go into the environment's blob, and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import msgspec

from fleetlog_gateway.gateway import Gateway
from fleetlog_gateway.problems import FieldError, HttpProblem, invalid
from fleetlog_runtime.pure.bus import AppendRefused, AppendUnsettled, BusFull, NoAnswer, NotFound, NotSent
from fleetlog_schemas import codec, definition_events, subjects
from fleetlog_schemas.catalog import Known
from fleetlog_schemas.definitions import (
    Chosen,
    WrongParameters,
    check_arguments,
    task_of,
    variable,
)
from fleetlog_schemas.limits import BLOB_BYTES_MAX
from fleetlog_schemas.spec import Blob, SpecError, TaskSpec, Workflow
from fleetlog_schemas.workflows import resolved


async def version_of(gateway: Gateway, known: Known, version: int) -> Known:
    """Return a version of a definition, read from where the log has it; 0 is the present one. Raises HttpProblem."""
    if version in (0, known.version):
        return known
    seq = known.seq_of(version)
    try:
        stored = await gateway.bus.get(subjects.EVENTS, seq) if seq else None
    except NotFound:
        stored = None
    if stored is None:
        raise HttpProblem(
            "version-not-found", f"{known.definition.name} has no version {version} that is listed; the present one is"
            f" {known.version}",
        )
    event = codec.decode(stored.body, seq=stored.seq, subject=stored.subject, time_ms=stored.time_ms)
    if not isinstance(event.data, definition_events.DefinitionSet):
        raise HttpProblem("internal", f"at {seq} the log has no version of a definition")
    return msgspec.structs.replace(
        known, version=event.data.version, definition=event.data.definition, message=event.data.message,
        changed_by=event.authid or "", changed_ms=event.time_ms,
    )


class Made(msgspec.Struct, frozen=True):
    """A task that a definition becomes, and the content of its environment, not yet stored."""

    spec: TaskSpec
    environment: bytes | None
    """None: there is none, or it is the definition's own, which is stored."""


async def make_task(gateway: Gateway, known: Known, given: Mapping[str, Any], chosen: Chosen) -> Made:
    """Return the task that running this version with these parameters is. Raises HttpProblem."""
    try:
        arguments = check_arguments(known.definition.parameters, given)
    except WrongParameters as wrong:
        raise HttpProblem(
            "invalid", str(wrong), errors=[FieldError(fault.pointer, fault.message) for fault in wrong.faults]
        ) from None
    env, content = known.definition.spec.options.env, None
    if arguments.secrets:
        content = await _environment(gateway, env, arguments.secrets)
        env = Blob(hashlib.sha256(content).hexdigest(), len(content), "env")
    try:
        spec = task_of(known.definition, known.definition_id, known.version, arguments, env, chosen)
        spec = resolved(gateway.access.definitions, spec)
    except SpecError as error:
        raise invalid(error.pointer, error.message) from None
    return Made(spec=spec, environment=content)


async def _environment(gateway: Gateway, own: Blob | None, secrets: Mapping[str, str]) -> bytes:
    """Return the environment of one task: the definition's own, and the secrets."""
    environment = await read_environment(gateway, own) if own is not None else {}
    merged = {**environment, **secrets}
    content = json.dumps(merged, ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogateescape")
    if len(content) > BLOB_BYTES_MAX:
        raise invalid("/parameters", f"the whole environment has more than {BLOB_BYTES_MAX} bytes")
    return content


async def read_environment(gateway: Gateway, blob: Blob) -> dict[str, str]:
    """Return the environment that a blob holds. Raises HttpProblem when it is gone, or is none."""
    try:
        content = await gateway.bus.get_blob(blob.sha256)
        decoded: Any = json.loads(content.decode("utf-8", "surrogateescape"))
    except NotFound:
        raise HttpProblem("conflict", f"the environment {blob.sha256[:12]} is not there any more") from None
    except (ValueError, RecursionError):
        decoded = None
    if not isinstance(decoded, dict) or not all(isinstance(value, str) for value in decoded.values()):
        raise invalid("/options/env", "the environment is no JSON object of names to texts")
    return decoded


async def keep(gateway: Gateway, content: bytes) -> str:
    """Store content and return its digest. Raises HttpProblem."""
    try:
        return await gateway.bus.put_blob(content)
    except NotSent:
        raise HttpProblem("bus-unavailable", "the bus cannot be reached: nothing was stored") from None
    except BusFull:
        raise HttpProblem("log-full", "the bus has no room for this content") from None
    except (AppendUnsettled, AppendRefused, NoAnswer):
        raise HttpProblem("unsettled", "the bus did not confirm in time: send the same content again") from None


async def latest(gateway: Gateway, old: TaskSpec) -> Made:
    """Return what the present version of a task's definition makes of the same parameters.

    What was a default then is the default of now; secrets are taken from the environment of the old task.

    Raises:
        HttpProblem: it came from no definition, or that is removed, or does not take these parameters any more.
    """
    origin = old.definition
    if origin is None:
        raise invalid("/latest", "this task came from no definition: there is no newer version of it")
    known = gateway.access.definitions.named(origin.definition_id)
    if known is None:
        raise HttpProblem(
            "definition-not-found", f"the definition {origin.name} was removed: without `latest`, its version"
            f" {origin.version} runs again",
        )
    try:
        before = (await version_of(gateway, known, origin.version)).definition.parameters
    except HttpProblem:
        before = known.definition.parameters  # too old to be listed: what was given then is given now
    given: dict[str, Any] = {
        name: value for name, value in origin.parameters.items() if name not in before or before[name].default != value
    }
    secrets = [name for name, one in known.definition.parameters.items() if one.type == "secret"]
    if secrets and old.options.env is not None:
        environment = await read_environment(gateway, old.options.env)
        given.update({name: environment[variable(name)] for name in secrets if variable(name) in environment})
    everywhere = "" if isinstance(old.payload, Workflow) else "all"
    return await make_task(gateway, known, given, Chosen(target=old.target or everywhere))


