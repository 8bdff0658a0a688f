"""The files that tasks left: which there are, their bytes, and where they come from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from fleetlog_gateway import decode
from fleetlog_gateway.finding import check_identifier
from fleetlog_gateway.gateway import Gateway
from fleetlog_gateway.problems import HttpProblem
from fleetlog_runtime.pure.bus import Bus
from fleetlog_runtime.shell import stored_artifacts
from fleetlog_schemas import events, questions
from fleetlog_schemas.codec import parse_rfc3339, rfc3339
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.spec import Build, TaskSpec
from fleetlog_schemas.version import VERSION

BUILD_TYPE = "urn:fleetlog:build:v1"


class Attempt(msgspec.Struct, frozen=True):
    """What is needed of an attempt."""

    number: int
    started_at: str | None
    ended_at: str | None
    outcome: str | None
    artifacts: tuple[events.Artifact, ...] = ()


class Command(msgspec.Struct, frozen=True):
    """What is needed of a command."""

    host_id: str
    host: str
    attempts: tuple[Attempt, ...]


class Ran(msgspec.Struct, frozen=True):
    """A task, as far as its artifacts go."""

    task_id: str
    spec: TaskSpec
    submitted_by: str
    submitted_at: str
    commands: tuple[Command, ...]


class ArtifactView(msgspec.Struct, frozen=True):
    """A file that a build left on one host."""

    host: str
    host_id: str
    attempt: int
    name: str
    size: int
    sha256: str
    outcome: str | None
    """How the attempt that left it ended."""
    kept: bool
    """It can be fetched. Otherwise its digest is all that is left."""
    kept_until: str | None
    """At the latest; it goes earlier when newer ones need the room."""


class Kept(msgspec.Struct, frozen=True):
    """An artifact, and of which attempt it is."""

    command: Command
    attempt: Attempt
    artifact: events.Artifact


async def ran(gateway: Gateway, given: str) -> Ran:
    """Return the task that *given* names. Raises HttpProblem."""
    answer = await gateway.asker.report("task", questions.TaskQuestion, {"task_id": check_identifier(given)})
    return decode.json_answer(answer.data, Ran, "reporter")


def kept(task: Ran) -> list[Kept]:
    """Return the artifacts of a task, by host and in the order of its rules: those of the last attempt that left any."""
    found = []
    for command in task.commands:
        attempt = next((one for one in reversed(command.attempts) if one.artifacts), None)
        found += [Kept(command, attempt, one) for one in attempt.artifacts] if attempt else []
    return found


async def views(gateway: Gateway, task: Ran) -> list[ArtifactView]:
    """Return the artifacts of a task, and whether they are still kept. Raises NoAnswer."""
    found = kept(task)
    first_seq = await stored_artifacts.kept_since_seq(gateway.bus) if found else 0
    return [
        ArtifactView(
            host=one.command.host, host_id=one.command.host_id, attempt=one.attempt.number, name=one.artifact.name,
            size=one.artifact.size, sha256=one.artifact.sha256, outcome=one.attempt.outcome,
            kept=not one.artifact.size or one.artifact.first_seq >= first_seq, kept_until=_kept_until(one.attempt),
        )
        for one in found
    ]


def _kept_until(attempt: Attempt) -> str | None:
    return rfc3339(parse_rfc3339(attempt.ended_at) + stored_artifacts.AGE_MS_MAX) if attempt.ended_at else None


def find(task: Ran, host: str, name: str) -> Kept:
    """Return one artifact; *host* is a host's id or name. Raises HttpProblem."""
    for one in kept(task):
        if host in (one.command.host_id, one.command.host) and one.artifact.name == name:
            return one
    raise HttpProblem("artifact-not-found", f"the task left no {name[:130]!r} on {host[:260]!r}: `fleetlog artifact ls` names what it left")


async def content(bus: Bus, task_id: str, one: Kept) -> AsyncIterator[bytes]:
    """Yield the bytes of an artifact. Raises HttpProblem when OUTPUT has not all of them any more."""
    try:
        async for piece in stored_artifacts.content(bus, one.command.host_id, task_id, one.attempt.number, one.artifact):
            yield piece
    except stored_artifacts.Gone as gone:
        raise HttpProblem("artifact-gone", str(gone)) from None


def _subject(one: Kept, *, several: bool) -> dict[str, Any]:
    name = f"{one.command.host}/{one.artifact.name}" if several else one.artifact.name
    return {"name": name, "digest": {"sha256": one.artifact.sha256}}


def provenance(task: Ran, build: Build) -> dict[str, Any]:
    """Return where a build's artifacts come from: an in-toto statement with a SLSA provenance (https://slsa.dev/provenance/v1).

    Its subjects are what good attempts left. What others left is a by-product: to find out what went wrong, not to be used.
    """
    found = kept(task)
    times = [one.attempt for one in found] or [attempt for command in task.commands for attempt in command.attempts[-1:]]
    several = len(task.commands) > 1
    options = msgspec.to_builtins(task.spec.options)
    options.pop("env", None)
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [_subject(one, several=several) for one in found if one.attempt.outcome == Outcome.SUCCESS],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "steps": msgspec.to_builtins(build.steps), "artifacts": msgspec.to_builtins(build.artifacts), "options": options,
                    "definition": msgspec.to_builtins(task.spec.definition), "parameters": msgspec.to_builtins(task.spec.parameters),
                },
                "internalParameters": {"submitted_by": task.submitted_by, "submitted_at": task.submitted_at},
                "resolvedDependencies": [
                    {"name": one.path, "digest": {"sha256": one.content.sha256}} for one in build.inputs
                ],
            },
            "runDetails": {
                "builder": {
                    "id": "urn:fleetlog:hosts:" + ",".join(command.host_id for command in task.commands),
                    "version": {"fleetlog": VERSION},
                },
                "metadata": {
                    "invocationId": f"urn:fleetlog:task:{task.task_id}",
                    "startedOn": min((one.started_at for one in times if one.started_at), default=None),
                    "finishedOn": max((one.ended_at for one in times if one.ended_at), default=None),
                },
                "byproducts": [
                    {"name": "host", "annotations": {
                        "host": command.host, "host_id": command.host_id, "attempts": len(command.attempts),
                        "outcome": command.attempts[-1].outcome if command.attempts else None,
                    }}
                    for command in task.commands
                ] + [
                    {**_subject(one, several=several), "annotations": {"attempt": one.attempt.number, "outcome": one.attempt.outcome}}
                    for one in found if one.attempt.outcome != Outcome.SUCCESS
                ],
            },
        },
    }
