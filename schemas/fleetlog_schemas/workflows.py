"""From what a workflow names to what it runs: the definitions of its parts, as they are when it is submitted. Pure.

The gateway and the scheduler do this before anything is stored, so that no reader looks a definition up afterwards.
"""

from __future__ import annotations

import msgspec

from fleetlog_schemas import definitions
from fleetlog_schemas.catalog import Catalog
from fleetlog_schemas.spec import Part, SpecError, TaskSpec, Workflow


def resolved(catalog: Catalog, spec: TaskSpec) -> TaskSpec:
    """Return *spec* with the present version of each definition that a part names; any other task as it is.

    Raises:
        SpecError: there is no such definition, or it does not take what the part gives it.
    """
    if not isinstance(spec.payload, Workflow):
        return spec
    parts = []
    for index, part in enumerate(spec.payload.parts):
        try:
            parts.append(_resolved_part(catalog, part))
        except SpecError as error:
            raise SpecError(f"/payload/parts/{index}{error.pointer}", error.message) from None
    return msgspec.structs.replace(spec, payload=msgspec.structs.replace(spec.payload, parts=tuple(parts)))


def _resolved_part(catalog: Catalog, part: Part) -> Part:
    if not part.definition:
        if part.target:
            raise SpecError("/target", f"{part.name} runs no definition: its target stands in its task")
        return part
    if part.task is not None:
        if part.task.definition is None:
            raise SpecError("/task", f"give {part.name} either a task, or the name of a definition")
        return part
    known = catalog.named(part.definition)
    if known is None:
        raise SpecError("/definition", f"no definition is named {part.definition[:100]!r}: `fleetlog definition ls` shows them")
    if isinstance(known.definition.spec.payload, Workflow):
        raise SpecError("/definition", f"{part.definition} is a workflow, and a part is none: put its parts here")
    declared = known.definition.parameters
    for name, one in declared.items():
        if one.type == "secret" and (one.required or name in part.parameters or name in part.given):
            # Whatever a workflow has is in the log, and a secret never is.
            raise SpecError(f"/parameters/{name}", f"{name} is a secret, and a workflow cannot keep one: let the hosts read it"
                            " from a file of theirs, or make it a parameter that is not required")
    for name in part.given:
        if name not in declared:
            raise SpecError(f"/given/{name}", f"{part.definition} has no parameter {name}; there are: {', '.join(declared) or 'none'}")
    fixed = {name: one for name, one in declared.items() if name not in part.given}
    try:
        arguments = definitions.check_arguments(fixed, part.parameters)
    except definitions.WrongParameters as wrong:
        raise SpecError(wrong.faults[0].pointer, wrong.faults[0].message) from None
    task = definitions.task_of(
        known.definition, known.definition_id, known.version, arguments, known.definition.spec.options.env,
        definitions.Chosen(target=part.target),
    )
    return msgspec.structs.replace(
        part, task=task, parameters={}, declared={name: declared[name] for name in part.given}
    )
