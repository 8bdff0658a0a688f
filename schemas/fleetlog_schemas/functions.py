"""Which hosts offer which Python functions, by their facts. Pure.

A host whose policy names modules says so in its facts: `functions`, the names that its workers have loaded;
`functions.queues`, the queues that it serves; and for as many as there is room, `function.NAME`: signature and summary.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
from collections.abc import Iterable, Mapping

from fleetlog_schemas import limits
from fleetlog_schemas.definitions import parameter_of
from fleetlog_schemas.hosts import Host
from fleetlog_schemas.signatures import signature_of
from fleetlog_schemas.spec import Function, SpecError, TaskSpec
from fleetlog_schemas.workers import Offered

NAMES_FACT = "functions"
QUEUES_FACT = "functions.queues"
ERRORS_FACT = "functions.errors"
ERRORS_CHARACTERS_MAX = 500
DESCRIBED_FACT = "function."
DESCRIPTIONS_BYTES_MAX = 8 * 1024
"""Of all signatures and summaries of one host: half of what its facts may take."""
DESCRIPTION_CHARACTERS_MAX = 200
VERSIONS_SHOWN_MAX = 3
"""Of what several versions of a function say."""
UNKNOWN = "function-unknown"
"""Code of a refusal: no host of the target offers the function."""
WRONG_ARGUMENTS = "function-arguments"
"""Code of a refusal: no host of the target offers a function of this name that takes these arguments."""


class Unfit(SpecError):
    """A function cannot be run as it is asked for. `code` is UNKNOWN or WRONG_ARGUMENTS."""

    def __init__(self, code: str, pointer: str, message: str) -> None:
        super().__init__(pointer, message)
        self.code = code


def facts_of(offered: Iterable[Offered], queues: Iterable[str], errors: Iterable[str] = ()) -> dict[str, str]:
    """Return the facts that say what a host offers, and which of its modules could not be loaded."""
    by_name = {one.name: one for one in offered}
    names = sorted(by_name)[: limits.FUNCTIONS_PER_HOST_MAX]
    facts = {NAMES_FACT: " ".join(names), QUEUES_FACT: " ".join(queues)}
    if text := "; ".join(errors):
        facts[ERRORS_FACT] = text[:ERRORS_CHARACTERS_MAX]
    room = DESCRIPTIONS_BYTES_MAX
    for name in names:
        text = f"{by_name[name].signature}\n{by_name[name].summary}"[:DESCRIPTION_CHARACTERS_MAX]
        room -= len(text.encode()) + len(name)
        if room < 0:
            break
        facts[DESCRIBED_FACT + name] = text
    return facts


def said_of_functions(facts: Mapping[str, object]) -> dict[str, str]:
    """Return those of a host's facts that are about functions; never none, for a host that said something is known to offer nothing."""
    about = {name: str(fact) for name, fact in facts.items() if name == NAMES_FACT or name.startswith((DESCRIBED_FACT, f"{NAMES_FACT}."))}
    return about or {NAMES_FACT: ""}


def described(host: Host, name: str) -> tuple[str, str]:
    """Return the signature and the summary of a function, as its host says them; empty where it does not."""
    signature, _, text = str(host.facts.get(DESCRIBED_FACT + name, "")).partition("\n")
    return signature, text


def offered_by(host: Host) -> tuple[str, ...]:
    """Return the names of the functions that a host offers."""
    return _words(str(host.facts.get(NAMES_FACT, "")))


@functools.lru_cache(maxsize=4_096)
def _words(text: str) -> tuple[str, ...]:
    """Return the words of a fact: a thousand calls ask for the same ones."""
    return tuple(text.split())


def offers(host: Host, name: str) -> bool:
    """Tell whether a host offers a function."""
    return name in offered_by(host)


def serves(host: Host, queue: str) -> bool:
    """Tell whether a host takes tasks of a queue that name no host."""
    return any(fnmatch.fnmatchcase(queue, pattern) for pattern in _words(str(host.facts.get(QUEUES_FACT, ""))))


def runs_on(spec: TaskSpec, function: Function, meant: list[Host]) -> list[Host]:
    """Return the hosts among which a function is run: all that the target means, or, where some are chosen, those that can.

    A host that has not said yet what it offers may offer it: where nobody else does, the task is for it if it is there, or is
    waited for, and it says itself what it has.

    Raises:
        Unfit: none of them can.
    """
    offering = offering_of(spec, function, meant)
    if not offering:
        silent = [host for host in meant if not host.facts and (host.online or spec.wait_offline_ms)]
        if not silent:
            raise Unfit(UNKNOWN, "/payload/name", why_nowhere(meant, function.name, spec.queue))
        return meant if spec.choose is None else silent
    problems = {text: _problem(spec, function, text) for text in {described(host, function.name)[0] for host in offering}}
    fitting = [host for host in offering if not problems[described(host, function.name)[0]][1]]
    if not fitting:
        raise _wrong_arguments(function, offering, problems)
    return meant if spec.choose is None else fitting


def offering_of(spec: TaskSpec, function: Function, meant: Iterable[Host]) -> list[Host]:
    """Return those of the hosts that offer a function and, where some are chosen, serve its queue."""
    return [host for host in meant if offers(host, function.name) and (spec.choose is None or serves(host, spec.queue))]


def fits(spec: TaskSpec, function: Function, signature: str) -> bool:
    """Tell whether arguments fit a function that a host describes so."""
    return not _problem(spec, function, signature)[1]


def _problem(spec: TaskSpec, function: Function, text: str) -> tuple[str, str]:
    signature = signature_of(text) if text else None
    if signature is None:
        return "", ""
    others = [*spec.parameters, *map(parameter_of, spec.options.secret_names)]
    return signature.problem(function.name, function.args, function.kwargs, others)


def _wrong_arguments(function: Function, offering: list[Host], problems: dict[str, tuple[str, str]]) -> Unfit:
    pointer, message = next(iter(problems.values()))
    if len(problems) > 1:
        by_message = {problems[described(host, function.name)[0]][1]: host.name for host in reversed(offering)}
        message = "hosts have different versions of it, and none takes these arguments: " + "; ".join(
            f"on {name}, {one}" for one, name in sorted(by_message.items(), key=lambda item: item[1])[:VERSIONS_SHOWN_MAX]
        )
    return Unfit(WRONG_ARGUMENTS, f"/payload{pointer}", message)


def why_nowhere(hosts: Iterable[Host], name: str, queue: str) -> str:
    """Return why no host of *hosts* runs a function, and what to do; nothing when one does."""
    known: set[str] = set()
    offering: list[Host] = []
    broken = ""
    for host in hosts:
        if not broken and ERRORS_FACT in host.facts:
            broken = f"; on {host.name}, {host.facts[ERRORS_FACT]}"
        names = offered_by(host)
        known.update(names)
        if name in names:
            offering.append(host)
            if serves(host, queue):
                return ""
    if offering:
        return f"{name} is offered by {len(offering)} of these hosts, and none of them serves the queue {queue!r}: see [functions] in their policy.toml"
    near = difflib.get_close_matches(name, sorted(known), n=3)
    if near:
        return f"no host of the target offers the function {name!r}; did you mean {' or '.join(near)}?{broken}"
    some = ", ".join(sorted(known)[:10]) or "none: a host offers functions when its policy.toml names their modules under [functions]"
    return f"no host of the target offers the function {name!r}; these are offered: {some}{broken}"
