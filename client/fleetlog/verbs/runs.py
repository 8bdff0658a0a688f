"""run: a definition by its name, or a script by its file. The word alone decides, never what lies in the folder."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from fleetlog.client import new_task_id
from fleetlog.console import Console
from fleetlog.exits import CliError, Exit
from fleetlog.http import GatewayError, flag_of, segment
from fleetlog.verbs.about import verbs_of
from fleetlog.verbs.spec import secret_of
from fleetlog.verbs.submit import go_on, hosts_of, plan_of, print_plan, run_file
from fleetlog_schemas.definitions import Parameter, WrongParameters, check_arguments, from_texts, is_name

_TAKEN = frozenset({
    "file", "target", "narrow", "parameter", "secret", "definition_version", "plan", "plan_hash", "detach", "yes", "typed",
    "verb", "run", "path", "rest", "data", "url", "output_form", "color", "wait_timeout_ms",
})
"""Options that say something of one run; the others are the definition's."""
NOT_FOUND = 404


def run(console: Console) -> int:
    """Run a definition, or a script, on hosts."""
    return run_definition(console) if is_name(console.options.file) else run_file(console)


def run_definition(console: Console) -> int:
    """Run a definition on hosts."""
    options = console.options
    _refuse_others(options)
    body: dict[str, Any] = {
        "parameters": given_parameters(console, console.options.file, console.options.definition_version), "target": options.target, "narrow": options.narrow,
        "version": options.definition_version, "plan_hash": options.plan_hash,
    }
    if options.plan or not (options.yes or options.plan_hash):
        plan = plan_of(console, f"/definitions/{segment(options.file)}/plan", body)
        if options.plan:
            return print_plan(console, plan)
        if console.confirm_hosts(hosts_of(plan)):
            body["plan_hash"] = plan["plan_hash"]  # what was confirmed is what runs
    task_id = new_task_id()
    try:
        task_id = console.client.run(options.file, task_id=task_id, **body)
    except KeyboardInterrupt:
        console.say(f"\ninterrupted while submitting:  fleetlog show {task_id}  says whether it was")
        return Exit.INTERRUPTED
    return go_on(console, task_id, "last")


def _refuse_others(options: argparse.Namespace) -> None:
    """Refuse what would change the definition. Raises CliError."""
    from fleetlog import parser

    grammar = parser.build()
    usual = grammar.parse_args(["run", options.file])
    changed = [
        name for name, value in vars(options).items()
        if name not in _TAKEN and hasattr(usual, name) and value != getattr(usual, name)
    ]
    if changed or options.rest:
        actions = verbs_of(grammar)["run"]._actions  # noqa: SLF001  # argparse has no other way
        what = next((one.option_strings[-1] for one in actions if one.dest in changed[:1]), "-- ARGS")
        raise CliError(
            Exit.TYPED_WRONG, f"{what}: the definition {options.file} says that itself",
            f"change it by fleetlog definition push; for the file write ./{options.file}",
        )


def given_parameters(console: Console, definition: str, version: int = 0) -> dict[str, Any]:
    """Return the values that were typed, checked before anything is sent.

    Raises:
        CliError: there is no such definition, or it does not take them.
    """
    options = console.options
    declared = _declared(console, definition, version)
    given = typed_values(declared, options.parameter)
    for name, path in getattr(options, "secret", ()):
        if name not in declared or declared[name].type != "secret":
            raise CliError(Exit.TYPED_WRONG, f"--secret {name}: this definition has no secret of that name")
        given[name] = secret_of(name, path)
    try:
        check_arguments(declared, given)
    except WrongParameters as wrong:
        told = [f"{flag_of(fault.pointer)}: {fault.message}" for fault in wrong.faults]
        raise CliError(Exit.TYPED_WRONG, "\n  ".join(told), f"fleetlog definition schema {definition}") from None
    return given


def typed_values(declared: Mapping[str, Parameter], typed: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return the values that were typed as NAME=VALUE; whether they fit is checked by others.

    Raises:
        CliError: one is a secret, or is given more than once and is no list.
    """
    texts: dict[str, list[str]] = {}
    for name, text in typed:
        if name in declared and declared[name].type == "secret":
            raise CliError(
                Exit.TYPED_WRONG, f"-p {name}: a secret's value does not belong on the command line, where every user sees it",
                f"export {name} and write --secret {name}, or --secret {name}=@FILE",
            )
        texts.setdefault(name, []).append(text)
    given: dict[str, Any] = {}
    for name, found in texts.items():
        try:
            given[name] = from_texts(declared.get(name, Parameter("list")), found)
        except ValueError as error:
            raise CliError(Exit.TYPED_WRONG, f"-p {name}: {error}") from None
    return given


def _declared(console: Console, definition: str, version: int) -> dict[str, Parameter]:
    import msgspec

    try:
        answer = console.gateway.get(f"/definitions/{segment(definition)}", version=version)
    except GatewayError as error:
        if error.status == NOT_FOUND:
            raise CliError(Exit.NOT_FOUND, error.message, f"for the file write ./{definition}") from None
        raise
    return msgspec.convert(answer["data"]["definition"].get("parameters", {}), dict[str, Parameter])
