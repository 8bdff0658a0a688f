"""What a specification refers to: content by digest, each with the pointer to it; and that no name of it deceives."""

from __future__ import annotations

from typing import NamedTuple

from fleetlog_gateway.gateway import Gateway
from fleetlog_gateway.problems import invalid
from fleetlog_schemas.files import reference_of
from fleetlog_schemas.spec import Blob, Build, Script, SpecError, TaskSpec, Workflow


class Content(NamedTuple):
    """One of them."""

    pointer: str
    blob: Blob


def contents_of(spec: TaskSpec) -> dict[str, Content]:
    """Return what a specification refers to: `script`, `stdin`, `env`; of a workflow's parts, as `build/script`."""
    script = spec.payload.content if isinstance(spec.payload, Script) else None
    given = (
        ("script", "/payload/content", script), ("stdin", "/options/stdin", spec.options.stdin),
        ("env", "/options/env", spec.options.env),
    )
    found = {name: Content(pointer, blob) for name, pointer, blob in given if blob is not None}
    for index, one in enumerate(spec.payload.inputs if isinstance(spec.payload, Build) else ()):
        found[f"input/{one.path}"] = Content(f"/payload/inputs/{index}/content", one.content)
    for index, part in enumerate(spec.payload.parts if isinstance(spec.payload, Workflow) else ()):
        of_part = contents_of(part.task) if part.task is not None else {}
        found |= {
            f"{part.name}/{name}": Content(f"/payload/parts/{index}/task{one.pointer}", one.blob)
            for name, one in of_part.items()
        }
    return found


def check_names(gateway: Gateway, spec: TaskSpec, prefix: str) -> None:
    """Refuse other content under the name of a version of a task file: people trust that name. Raises HttpProblem."""
    for pointer, blob in contents_of(spec).values():
        if "@" not in blob.name:
            continue
        try:
            path, version = reference_of(blob.name)
        except SpecError:
            continue
        file = gateway.access.files.named(path)
        one = file.of_version(version) if file is not None else None
        if one is not None and one.sha256 != blob.sha256:
            raise invalid(f"{prefix}{pointer}/name", f"the task file {blob.name} has other content: give it another name")
