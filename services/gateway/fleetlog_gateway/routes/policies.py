"""What narrows admission beyond single tasks: freezes, windows, limits of queues; and what they narrow now.

They are folded here as hosts are, so that they are shown and changed with reporter and dispatcher down: a fleet that
misbehaves can always be frozen.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from fleetlog_gateway import decode, limits
from fleetlog_gateway.auth import Permission
from fleetlog_gateway.decode import Reason
from fleetlog_gateway.gateway import Gateway
from fleetlog_gateway.problems import HttpProblem, invalid
from fleetlog_gateway.recent import fingerprint
from fleetlog_gateway.registry import Answered, Call, Nothing, reply, route
from fleetlog_schemas import admission, events, policies, policy_events
from fleetlog_schemas.limits import FREEZES_MAX, QUEUES_MAX, WINDOWS_MAX
from fleetlog_schemas.spec import SpecError, check_queue_name
from fleetlog_schemas.targets import Directory, TargetError, resolve

Target = Annotated[str, Meta(max_length=limits.RULE_TARGET_CHARS_MAX)]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_SHORT_ID_MIN = 6
_CHANGES = ("invalid", "conflict", "bus-unavailable", "unsettled")


class AcceptedPolicy(msgspec.Struct, frozen=True):
    """The change is in the log, at this sequence."""

    seq: int


class AcceptedFreeze(msgspec.Struct, frozen=True):
    """A freeze that is in force from this sequence of the log on."""

    freeze_id: str
    seq: int
    hosts: int
    """Hosts that it means now."""


class AcceptedWindow(msgspec.Struct, frozen=True):
    """A window that is in force from this sequence of the log on."""

    seq: int
    hosts: int
    """Hosts that it means now."""


class Freeze(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to freeze, and why."""

    reason: Reason
    target: Target = "all"


class Because(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why it is done."""

    reason: Reason = ""


class SetWindow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A time of the week in which hosts may get work (maintenance), or may not (blackout)."""

    kind: Literal["maintenance", "blackout"]
    target: Target
    days: Annotated[tuple[int, ...], Meta(max_length=7)]
    """Days on which it begins: 0 is Monday."""
    begins: str
    """HH:MM on the wall clock of the zone."""
    lasts_minutes: int
    """Real minutes; at most a week."""
    zone: Annotated[str, Meta(max_length=100)] = "UTC"
    """An IANA name, such as Europe/Berlin."""
    reason: Reason = ""


class RemoveQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why it is removed."""

    reason: Reason = ""


class LimitQueue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many commands of the queue may be in flight at once."""

    in_flight_max: Annotated[int, Meta(ge=0, le=limits.QUEUE_IN_FLIGHT_MAX)]
    """0: no limit."""
    reason: Reason = ""


class QueueLimit(msgspec.Struct, frozen=True):
    """A queue that has a limit, or something in it."""

    queue: str
    in_flight_max: int
    """0: no limit."""
    in_flight: int | None = None
    """Null when the dispatcher does not answer; so is `waiting`."""
    waiting: int | None = None


def _answered(gateway: Gateway, data: Any) -> web.Response:
    return reply({"seq": gateway.tail.next_seq - 1, "data": data})


def _check_target(target: str) -> str:
    """Return the target of a rule, whose syntax must be right; it may mean no host yet. Raises HttpProblem."""
    try:
        resolve(target, (), lenient=True)
    except TargetError as error:
        raise invalid("/target", str(error)) from None
    return target.strip()


def _directory(gateway: Gateway) -> Directory:
    return Directory(gateway.access.hosts.by_id.values())


def _hosts_meant(gateway: Gateway, target: str) -> int:
    return len(policies.meant(target, _directory(gateway)))


@route("GET", "/api/v1/admission", auth=Permission.READ, answer=Answered[admission.AdmissionAnswer],
       problems=("service-unavailable",))
async def show_admission(call: Call[Nothing, Nothing]) -> web.Response:
    """Say what narrows admission now: what is in flight, freezes, windows, queues, busy hosts. Asks the dispatcher."""
    answer = await call.gateway.asker.ask("dispatcher", "admission", admission.AdmissionQuestion())
    return reply({"seq": answer.seq, "data": answer.data})


@route("GET", "/api/v1/freezes", auth=Permission.READ, answer=Answered[list[admission.FreezeView]])
async def freezes(call: Call[Nothing, Nothing]) -> web.Response:
    """List the freezes in force, oldest first. Needs no other service."""
    gateway = call.gateway
    found = sorted(gateway.access.policies.freezes.values(), key=lambda one: one.since_ms)
    directory = _directory(gateway)
    return _answered(gateway, [admission.freeze_view(one, directory) for one in found])


class _AlreadyFrozen(Exception):
    """The same request was stored before."""


@route("POST", "/api/v1/freezes", auth=Permission.RUN, body=Freeze, answer=AcceptedFreeze, status=202, idempotent=True,
       problems=(*_CHANGES, "too-many-policies", "idempotency-key", "idempotency-key-reused"))
async def freeze(call: Call[Freeze, Nothing]) -> web.Response:
    """Let no host that the target means get any more work until the freeze is thawed; what runs goes on.

    A reason is needed. Hosts that join or change their labels are looked at anew; a target may mean no host yet. With an
    `Idempotency-Key` (a UUIDv7, which becomes the id of the freeze) the request may be repeated.
    """
    gateway, body = call.gateway, call.body
    target, reason = _check_target(body.target), decode.check_reason(body.reason, required=True)
    freeze_id = decode.idempotency_key(call.request) or gateway.make_id()

    def decide() -> events.Data:
        known = gateway.access.policies.freezes
        if freeze_id in known:
            raise _AlreadyFrozen
        if len(known) >= FREEZES_MAX:
            raise HttpProblem("too-many-policies", f"{FREEZES_MAX} freezes are in force: thaw some first")
        return policy_events.FleetFrozen(freeze_id=freeze_id, target=target, reason=reason)

    async def append() -> AcceptedFreeze:
        try:
            seq = await gateway.change(events.CATALOG, decide, call.principal, "look at the freezes, then try again")
        except _AlreadyFrozen:
            seq = gateway.tail.next_seq - 1
        return AcceptedFreeze(freeze_id=freeze_id, seq=seq, hosts=_hosts_meant(gateway, target))

    asked = fingerprint(b"freeze", msgspec.json.encode(body))
    return reply(await gateway.recent.once(freeze_id, asked, append), status=202)


@route("POST", "/api/v1/freezes/{id}/thaw", auth=Permission.RUN, body=Because, body_optional=True, answer=AcceptedPolicy,
       status=202, problems=(*_CHANGES, "freeze-not-found"))
async def thaw(call: Call[Because, Nothing]) -> web.Response:
    """End a freeze. `{id}` is its id, or at least the last 6 characters of it."""
    reason = decode.check_reason(call.body.reason)
    return await _change(
        call, lambda: policy_events.FleetThawed(freeze_id=_freeze_id(call.gateway, call.path["id"]), reason=reason)
    )


def _freeze_id(gateway: Gateway, given: str) -> str:
    known = gateway.access.policies.freezes
    if given in known:
        return given
    fits = [one for one in known if len(given) >= _SHORT_ID_MIN and one.endswith(given)]
    if len(fits) != 1:
        which = "more than one freeze" if fits else "no freeze in force"
        raise HttpProblem("freeze-not-found", f"{which} is named {given[:60]!r}: `fleetlog thaw` lists them")
    return fits[0]


@route("GET", "/api/v1/windows", auth=Permission.READ, answer=Answered[list[admission.WindowView]])
async def windows(call: Call[Nothing, Nothing]) -> web.Response:
    """List the windows by name, and which are open now. Needs no other service."""
    gateway = call.gateway
    found = sorted(gateway.access.policies.windows.values(), key=lambda one: one.name)
    directory, now_ms = _directory(gateway), gateway.now_ms()
    return _answered(gateway, [admission.window_view(one, directory, now_ms) for one in found])


@route("PUT", "/api/v1/windows/{name}", auth=Permission.RUN, body=SetWindow, answer=AcceptedWindow, status=202,
       problems=(*_CHANGES, "too-many-policies"))
async def set_window(call: Call[SetWindow, Nothing]) -> web.Response:
    """Make a window, or change it.

    A host that a maintenance window means gets work only while one of its windows is open; a blackout is the opposite.
    """
    gateway, body, name = call.gateway, call.body, call.path["name"]
    if not _NAME.fullmatch(name):
        raise invalid("/name", "a window's name is 1-63 of A-Z a-z 0-9 _ . - and starts with a letter or digit")
    window = policy_events.Window(
        kind=body.kind, target=_check_target(body.target), days=tuple(sorted(set(body.days))), begins=body.begins,
        lasts_minutes=body.lasts_minutes, zone=body.zone,
    )
    reason = decode.check_reason(body.reason)
    try:
        policies.check_window(window)
    except policies.PolicyError as error:
        raise invalid(error.pointer, error.message) from None

    def decide() -> events.Data:
        known = gateway.access.policies.windows
        if name not in known and len(known) >= WINDOWS_MAX:
            raise HttpProblem("too-many-policies", f"{WINDOWS_MAX} windows are in force: remove some first")
        return policy_events.WindowSet(name=name, window=window, reason=reason)

    seq = await gateway.change(events.CATALOG, decide, call.principal, "look at the windows, then try again")
    return reply(AcceptedWindow(seq=seq, hosts=_hosts_meant(gateway, window.target)), status=202)


@route("DELETE", "/api/v1/windows/{name}", auth=Permission.RUN, query=RemoveQuery, answer=AcceptedPolicy, status=202,
       problems=(*_CHANGES, "bad-query", "window-not-found"))
async def remove_window(call: Call[Nothing, RemoveQuery]) -> web.Response:
    """Remove a window."""
    name, reason = call.path["name"], decode.check_reason(call.query.reason)

    def decide() -> events.Data:
        if name not in call.gateway.access.policies.windows:
            raise HttpProblem("window-not-found", f"no window is named {name[:60]!r}: `fleetlog window ls` shows them")
        return policy_events.WindowRemoved(name=name, reason=reason)

    return await _change(call, decide)


@route("GET", "/api/v1/queues", auth=Permission.READ, answer=Answered[list[QueueLimit]])
async def queues(call: Call[Nothing, Nothing]) -> web.Response:
    """List the queues that have a limit, and, when the dispatcher answers, those that have something in them."""
    gateway = call.gateway
    found = {name: QueueLimit(name, limit) for name, limit in gateway.access.policies.queues.items()}
    try:
        answer = await gateway.asker.ask(
            "dispatcher", "admission", admission.AdmissionQuestion(), limits.ASK_EXTRA_MS_MAX
        )
        told = decode.json_answer(answer.data, _Queues, "dispatcher").queues
    except HttpProblem:
        told = []
    else:
        found = {name: QueueLimit(name, one.in_flight_max, 0, 0) for name, one in found.items()}
    for one in told:
        limit = gateway.access.policies.queues.get(one.queue, 0)
        found[one.queue] = QueueLimit(one.queue, limit, one.in_flight, one.waiting)
    return _answered(gateway, [found[name] for name in sorted(found)])


class _Queues(msgspec.Struct, frozen=True):
    queues: list[admission.QueueView]


@route("PUT", "/api/v1/queues/{name}", auth=Permission.RUN, body=LimitQueue, answer=AcceptedPolicy, status=202,
       problems=(*_CHANGES, "too-many-policies"))
async def limit_queue(call: Call[LimitQueue, Nothing]) -> web.Response:
    """Limit how many commands of a queue are in flight at once, over all tasks and hosts; 0 takes the limit away."""
    gateway, body, name = call.gateway, call.body, call.path["name"]
    reason = decode.check_reason(body.reason)
    try:
        check_queue_name("/name", name)
    except SpecError as error:
        raise invalid(error.pointer, error.message) from None

    def decide() -> events.Data:
        known = gateway.access.policies.queues
        if body.in_flight_max and name not in known and len(known) >= QUEUES_MAX:
            raise HttpProblem("too-many-policies", f"{QUEUES_MAX} queues have a limit: take some away first")
        return policy_events.QueueLimited(queue=name, in_flight_max=body.in_flight_max, reason=reason)

    return await _change(call, decide)


async def _change(call: Call[Any, Any], decide: Callable[[], events.Data]) -> web.Response:
    seq = await call.gateway.change(events.CATALOG, decide, call.principal, "look at it, then try again")
    return reply(AcceptedPolicy(seq=seq), status=202)
