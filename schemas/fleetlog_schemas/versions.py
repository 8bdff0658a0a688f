"""Since which version agents know what a task can ask for.

Agents are older than the server whenever a fleet is upgraded: what a host's agent does not know must be told before
anything is sent to it, for an agent that cannot read a push can only drop it. So every kind of payload and every option
stands in one table with the version that brought it; a test compares the table with the types.
"""

from __future__ import annotations

import re
from functools import cache

import msgspec

from fleetlog_schemas.spec import Options, TaskSpec, kind

KINDS_SINCE = {
    "shell": "0.1.0", "script": "0.1.0", "function": "0.3.0", "build": "0.3.0", "export": "0.3.0", "workflow": "0.3.0",
}
"""Kind of payload to the first version whose agent runs it."""
OPTIONS_SINCE = {
    "env": "0.1.0", "env_names": "0.1.0", "secret_names": "0.1.0", "stdin": "0.1.0", "cwd": "0.1.0", "user": "0.1.0",
    "umask": "0.1.0", "memory_bytes_max": "0.1.0", "files_max": "0.1.0", "output_bytes_max": "0.1.0", "exit_codes": "0.1.0",
}
"""Option to the first version whose agent obeys it. An option at its default is not sent, and asks for nothing."""
PARAMETERS_SINCE = "0.3.0"
"""First version whose agent makes variables of a definition's parameters; an older one would run without them."""
RETURNS_SINCE = "0.3.0"
"""First version whose agent takes what a process left in FLEETLOG_RETURN; with an older one a part returns nothing."""
_DEFAULTS = msgspec.structs.asdict(Options())
_NUMBERS = re.compile(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})")


@cache
def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, to compare them; of what is no version, none."""
    match = _NUMBERS.match(version)
    return tuple(int(part) for part in match.groups()) if match else ()


NEWEST_SINCE = max(numbers(since) for since in (*KINDS_SINCE.values(), *OPTIONS_SINCE.values(), PARAMETERS_SINCE, RETURNS_SINCE))
"""From here on an agent knows everything."""


def knows_everything(agent_version: str) -> bool:
    """Tell whether an agent of that version knows all kinds and options; one whose version cannot be read may."""
    had = numbers(agent_version)
    return not had or had >= NEWEST_SINCE


def unknown_to(agent_version: str, spec: TaskSpec, *, returns: bool = False) -> str:
    """Return what of *spec* an agent of that version does not know, as a sentence; empty when it knows everything.

    *returns*: what the task returns is taken by another part of its workflow. Of a version that cannot be read nothing is said: then the agent's own answer counts.
    """
    if knows_everything(agent_version):
        return ""
    had, since = numbers(agent_version), KINDS_SINCE[kind(spec)]
    if had < numbers(since):
        return f"its agent {agent_version} does not know the kind {kind(spec)}: upgrade it to {since} or newer"
    parameters = spec.definition.parameters if spec.definition is not None else spec.parameters
    if parameters and had < numbers(PARAMETERS_SINCE):
        return f"its agent {agent_version} does not know parameters: upgrade it to {PARAMETERS_SINCE} or newer"
    if returns and had < numbers(RETURNS_SINCE):
        return (
            f"its agent {agent_version} does not know FLEETLOG_RETURN, and another part takes what this one returns: upgrade it to"
            f" {RETURNS_SINCE} or newer"
        )
    for name, since in OPTIONS_SINCE.items():
        if had < numbers(since) and getattr(spec.options, name) != _DEFAULTS[name]:
            return f"its agent {agent_version} does not know the option {name}: upgrade it to {since} or newer"
    return ""
