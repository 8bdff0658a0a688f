"""Definitions: what can be run again. Static configuration around a task's specification, with typed parameters.

A definition holds no state. Its `spec` is what every task of it begins with; what only one task can have (exact hosts,
a plan's hash) is not in it. Values of parameters reach a process as environment variables and in no other way: no
command is ever put together with one (decision 16); the name of an export's file may have one as a part. The agent makes the variables from
the values that stand in the task; only what is secret is in a blob.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from fleetlog_schemas import limits, patterns
from fleetlog_schemas.exports import check_declared, parameters_of
from fleetlog_schemas.graph import GraphError, check_parts
from fleetlog_schemas.parameters import Parameter as Parameter  # noqa: PLC0414  # taken from here by others
from fleetlog_schemas.parameters import ParameterValue, as_text
from fleetlog_schemas.spec import Blob, Export, Options, Origin, SpecError, TaskSpec, Workflow, check_spec
from fleetlog_schemas.spec_fields import INTEGERS, check_integer

ENVIRONMENT_PREFIX = "FLEETLOG_PARAM_"
"""Before a parameter's name in upper case: the variable in which a process finds its value."""
NAME_RULE = "1-63 of a-z 0-9 _ -, and begins with a letter or digit"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_PARAMETER_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_SIZED = ("string", "integer", "number", "list")


class Definition(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What can be run again."""

    name: str
    spec: TaskSpec
    """What each task of it begins with. An empty target: it is given with each run."""
    description: str = ""
    parameters: dict[str, Parameter] = {}


class Fault(msgspec.Struct, frozen=True):
    """One thing that is wrong, and where (RFC 6901)."""

    pointer: str
    message: str


class WrongParameters(ValueError):
    """Values that a definition does not take: all that is wrong with them."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(fault.message for fault in faults))
        self.faults = tuple(faults)


class Arguments(msgspec.Struct, frozen=True):
    """Values of parameters that were checked."""

    values: dict[str, ParameterValue]
    """Without secrets: they are kept in the log."""
    secrets: dict[str, str] = {}
    """Those that are secret, as variables of the environment: they are kept in a blob."""


def is_name(text: str) -> bool:
    """Tell whether a definition could have this name. It has no dot and no slash, so it is never a path."""
    return _NAME.fullmatch(text) is not None


def variable(parameter: str) -> str:
    """Return the environment variable that has a parameter's value."""
    return ENVIRONMENT_PREFIX + parameter.upper()


def parameter_of(variable_name: str) -> str:
    """Return the parameter whose value an environment variable has; nothing when it has none."""
    return variable_name.removeprefix(ENVIRONMENT_PREFIX).lower() if variable_name.startswith(ENVIRONMENT_PREFIX) else ""


def variables(values: Mapping[str, ParameterValue]) -> dict[str, str]:
    """Return the environment variables in which a process finds values of parameters."""
    return {variable(name): as_text(value) for name, value in values.items()}


def check_definition(definition: Definition) -> None:
    """Check every rule that types cannot express.

    Raises:
        SpecError: the first rule that is broken, with the field it points to.
    """
    if not is_name(definition.name):
        raise SpecError("/name", f"a definition's name is {NAME_RULE}")
    _check_bytes("/description", definition.description, limits.DESCRIPTION_BYTES_MAX)
    _check_template(definition.spec)
    check_known_parameters(definition.spec, definition.parameters, "/spec")
    if len(definition.parameters) > limits.PARAMETERS_MAX:
        raise SpecError("/parameters", f"a definition has at most {limits.PARAMETERS_MAX} parameters")
    for name, parameter in definition.parameters.items():
        pointer = f"/parameters/{escaped(name)}"
        if not _PARAMETER_NAME.fullmatch(name):
            raise SpecError(pointer, "a parameter's name is 1-63 of a-z 0-9 _, and begins with a letter")
        _check_parameter(pointer, parameter)
    if isinstance(definition.spec.payload, Export):
        check_declared(definition.spec.payload.to, definition.parameters)
    size = len(msgspec.json.encode(definition))
    if size > limits.DEFINITION_BYTES_MAX:
        raise SpecError("", f"a definition has at most {limits.DEFINITION_BYTES_MAX} bytes, not {size}: large texts are"
                        " a script's content")


def _check_template(spec: TaskSpec) -> None:
    for field in ("name", "host_ids", "key", "rerun_of", "plan_hash", "definition", "parameters"):
        if getattr(spec, field):
            raise SpecError(f"/spec/{field}", "belongs to a task, not to a definition")
    if isinstance(spec.payload, Workflow):
        _check_template_parts(spec.payload)
    if spec.options.secret_names:
        raise SpecError("/spec/options/secret_names", "a secret is nothing static: declare a parameter of type secret")
    for index, name in enumerate(spec.options.env_names):
        if name.startswith(ENVIRONMENT_PREFIX):
            raise SpecError(f"/spec/options/env_names/{index}", f"{ENVIRONMENT_PREFIX} is for parameters")
    target = spec.target if spec.target.strip() or isinstance(spec.payload, Workflow) else "all"
    try:
        check_spec(msgspec.structs.replace(spec, target=target, key="definition"))
    except SpecError as error:
        raise SpecError(f"/spec{error.pointer}", error.message) from None


def _check_template_parts(workflow: Workflow) -> None:
    """Refuse in a workflow's parts what only the gateway writes, when one is submitted."""
    if workflow.taken:
        raise SpecError("/spec/payload/taken", "belongs to a task, not to a definition")
    for index, part in enumerate(workflow.parts):
        pointer = f"/spec/payload/parts/{index}"
        if part.declared or (part.task is not None and part.definition):
            raise SpecError(f"{pointer}/task", f"give {part.name} either a task, or the name of a definition")
        for field in ("rerun_of", "plan_hash", "definition"):
            if part.task is not None and getattr(part.task, field):
                raise SpecError(f"{pointer}/task/{field}", "belongs to a task, not to a definition")


def check_known_parameters(spec: TaskSpec, parameters: Iterable[str], prefix: str = "") -> None:
    """Check that what a workflow, or the path of an export, takes of its parameters is among *parameters*. Raises SpecError."""
    if isinstance(spec.payload, Export):
        for name in set(parameters_of(spec.payload.to)) - set(parameters):
            raise SpecError(f"{prefix}/payload/to", f"%{{{name}}}: there is no parameter {name}")
    if isinstance(spec.payload, Workflow):
        try:
            check_parts(spec.payload.parts, set(parameters))
        except GraphError as error:
            raise SpecError(f"{prefix}/payload/parts{error.pointer}", error.message) from None


def _check_parameter(pointer: str, parameter: Parameter) -> None:
    of_type = parameter.type
    _check_bytes(f"{pointer}/description", parameter.description, limits.DESCRIPTION_BYTES_MAX)
    if of_type not in _SIZED and (parameter.min is not None or parameter.max is not None):
        raise SpecError(f"{pointer}/min", f"a parameter of type {of_type} has neither min nor max")
    least, most = parameter.min, parameter.max
    for field, bound in (("min", least), ("max", most)):
        check_integer(f"{pointer}/{field}", bound)
    if least is not None and most is not None and least > most:
        raise SpecError(f"{pointer}/min", "min is above max")
    if (of_type == "enum") != bool(parameter.values):
        raise SpecError(f"{pointer}/values", "an enum names its values, and nothing else does")
    if len(parameter.values) > limits.PARAMETER_VALUES_MAX or len(set(parameter.values)) != len(parameter.values):
        raise SpecError(f"{pointer}/values", f"at most {limits.PARAMETER_VALUES_MAX} values, each once")
    for index, value in enumerate(parameter.values):
        if fault := _text_fault(value):
            raise SpecError(f"{pointer}/values/{index}", fault)
    if parameter.pattern:
        if of_type not in ("string", "list"):
            raise SpecError(f"{pointer}/pattern", f"a parameter of type {of_type} has no pattern")
        try:
            patterns.check_pattern(parameter.pattern)
        except patterns.PatternError as error:
            raise SpecError(f"{pointer}/pattern", str(error)) from None
    if parameter.default is None:
        return
    if parameter.required or of_type == "secret":
        raise SpecError(f"{pointer}/default", "what is required or secret has no default")
    if fault := _fault_of(parameter, parameter.default):
        raise SpecError(f"{pointer}/default", fault)


def _check_bytes(pointer: str, text: str, bytes_max: int) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise SpecError(pointer, "must be valid UTF-8") from None
    if size > bytes_max:
        raise SpecError(pointer, f"has at most {bytes_max} bytes, not {size}")


def check_arguments(parameters: Mapping[str, Parameter], given: Mapping[str, Any]) -> Arguments:
    """Return the values with which a task runs: those that are given, else the defaults.

    Raises:
        WrongParameters: one is unknown, missing or not as it was declared. A secret's value is never repeated.
    """
    faults = [
        Fault(f"/parameters/{escaped(name)}", f"there is no such parameter; there are: {', '.join(parameters) or 'none'}")
        for name in given if name not in parameters
    ]
    values: dict[str, ParameterValue] = {}
    secrets: dict[str, str] = {}
    for name, parameter in parameters.items():
        pointer = f"/parameters/{name}"
        value = given.get(name)
        if value is None:
            value = parameter.default
        if value is None:
            if parameter.required:
                faults.append(Fault(pointer, f"{name} is required{': ' if parameter.description else ''}{parameter.description}"))
            continue
        if fault := _fault_of(parameter, value):
            faults.append(Fault(pointer, f"{name} {fault}"))
            continue
        if parameter.type == "secret":
            secrets[variable(name)] = str(value)
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    if sum(len(text.encode()) for text in (*secrets.values(), *map(as_text, values.values()))) > limits.PARAMETERS_BYTES_MAX:
        faults.append(Fault("/parameters", f"all values have at most {limits.PARAMETERS_BYTES_MAX} bytes"))
    if faults:
        raise WrongParameters(faults)
    return Arguments(values, secrets)


def _fault_of(parameter: Parameter, value: Any) -> str:
    """Return what is wrong with a value; empty when nothing is."""
    match parameter.type:
        case "boolean":
            return "" if isinstance(value, bool) else "must be true or false"
        case "integer" | "number":
            return _number_fault(parameter, value)
        case "list":
            if not isinstance(value, list | tuple) or len(value) > limits.PARAMETER_VALUES_MAX:
                return f"must be a list of at most {limits.PARAMETER_VALUES_MAX} texts"
            faults = (_line_fault(item) or _pattern_fault(parameter, item, len(value)) for item in value)
            return next(filter(None, faults), "") or _size_fault(parameter, len(value), "items")
        case "enum":
            return "" if value in parameter.values else f"must be one of {', '.join(parameter.values)}"[:300]
        case _:
            fault = _text_fault(value) or _pattern_fault(parameter, value)
            return fault or _size_fault(parameter, len(value), "characters")


def _number_fault(parameter: Parameter, value: Any) -> str:
    if parameter.type == "integer":
        if isinstance(value, bool) or not isinstance(value, int) or value not in INTEGERS:
            return "must be an integer of 64 bits"
    elif isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        return "must be a number"
    return _size_fault(parameter, value, "")


def _is_finite(value: float) -> bool:
    return value in INTEGERS if isinstance(value, int) else math.isfinite(value)


def _size_fault(parameter: Parameter, size: float, unit: str) -> str:
    if parameter.min is not None and size < parameter.min:
        return f"must be at least {parameter.min:g} {unit}".rstrip()
    if parameter.max is not None and size > parameter.max:
        return f"must be at most {parameter.max:g} {unit}".rstrip()
    return ""


def _text_fault(value: Any) -> str:
    if not isinstance(value, str):
        return "must be a text"
    if "\x00" in value:
        return "cannot contain a NUL character"
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "must be valid UTF-8"
    return f"has at most {limits.PARAMETER_BYTES_MAX} bytes" if size > limits.PARAMETER_BYTES_MAX else ""


def _line_fault(value: Any) -> str:
    fault = _text_fault(value)
    if not fault and (not value or "\n" in value or "\r" in value):
        return "must be a list of texts of one line each, none of them empty"
    return fault


def _pattern_fault(parameter: Parameter, value: str, among: int = 1) -> str:
    return patterns.fault(parameter.pattern, value, among) if parameter.pattern else ""


def from_texts(parameter: Parameter, texts: Sequence[str]) -> Any:
    """Return the value that was typed: one text, or the items of a list. What is wrong with it is told by `check_arguments`.

    Raises:
        ValueError: several texts for one that is no list.
    """
    if parameter.type == "list":
        return [text for text in texts if text]
    if len(texts) != 1:
        raise ValueError("is given more than once, and is no list")
    (text,) = texts
    try:
        match parameter.type:
            case "integer":
                return int(text)
            case "number":
                return int(text) if text.lstrip("-").isdigit() else float(text)
            case "boolean":
                return {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}[text.lower()]
    except (ValueError, KeyError):
        return text
    return text


def json_schema(definition: Definition) -> dict[str, Any]:
    """Return what its parameters may be, as JSON Schema (2020-12)."""
    found: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "title": definition.name, "type": "object",
        "properties": {name: _schema_of(one) for name, one in definition.parameters.items()},
        "required": [name for name, one in definition.parameters.items() if one.required],
        "additionalProperties": False,
    }
    if definition.description:
        found["description"] = definition.description
    return found


_SIZES = {
    "integer": ("minimum", "maximum"), "number": ("minimum", "maximum"), "string": ("minLength", "maxLength"),
    "list": ("minItems", "maxItems"),
}


def _schema_of(parameter: Parameter) -> dict[str, Any]:
    found: dict[str, Any] = {"type": {"list": "array", "enum": "string", "secret": "string"}.get(parameter.type, parameter.type)}
    pattern = {"pattern": f"^(?:{parameter.pattern})$"} if parameter.pattern else {}
    match parameter.type:
        case "enum":
            found["enum"] = list(parameter.values)
        case "secret":
            found["writeOnly"] = True
        case "list":
            found["items"] = {"type": "string", "minLength": 1, **pattern}
            found["maxItems"] = limits.PARAMETER_VALUES_MAX
        case _:
            found.update(pattern)
    sizes = zip(_SIZES.get(parameter.type, ()), (parameter.min, parameter.max), strict=False)
    found.update({name: size for name, size in sizes if size is not None})
    if parameter.description:
        found["description"] = parameter.description
    if parameter.default is not None:
        found["default"] = msgspec.to_builtins(parameter.default)
    return found


class Chosen(msgspec.Struct, frozen=True):
    """What is said with one run, beside the parameters."""

    target: str = ""
    """Instead of the definition's target."""
    narrow: str = ""
    """Only those of the target's hosts that this means too."""
    plan_hash: str = ""


def task_of(
    definition: Definition, definition_id: str, version: int, arguments: Arguments, env: Blob | None, chosen: Chosen,
) -> TaskSpec:
    """Return the task that one run of a definition is; *env* has the definition's own environment, and all secrets.

    Raises:
        SpecError: nothing says on which hosts.
    """
    spec = definition.spec
    target = chosen.target.strip() or spec.target.strip()
    if not target and not isinstance(spec.payload, Workflow):
        raise SpecError("/target", "this definition has no target of its own: say on which hosts")
    if chosen.narrow.strip():
        target = f"({target}) and ({chosen.narrow.strip()})"
    return msgspec.structs.replace(
        spec, target=target, name=definition.name, key=definition_id, plan_hash=chosen.plan_hash,
        options=_with_env(spec.options, env, sorted(arguments.secrets)),
        definition=Origin(definition_id, version, definition.name, arguments.values),
    )


def _with_env(options: Options, env: Blob | None, secrets: Sequence[str]) -> Options:
    names = tuple(sorted({*options.env_names, *secrets}))
    return msgspec.structs.replace(options, env=env, env_names=names, secret_names=tuple(secrets))


def escaped(name: str) -> str:
    """Return a name as a part of a pointer (RFC 6901)."""
    return name[:100].replace("~", "~0").replace("/", "~1")
