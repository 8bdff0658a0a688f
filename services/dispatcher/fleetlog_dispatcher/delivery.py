"""What is sent to hosts now: starts, cancels, forgets. Pure; a function of folded state and of what was sent before.

Loss is healed by sending again: a start until the host confirms it or its deadline is over, a cancel until the end
is in the log, a forget whenever the host still holds what is settled. Nobody waits for a forget, so those of a host
gather until the next sweep: each would take its host from the next command.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import msgspec

from fleetlog_dispatcher.ends import start_deadline_ms
from fleetlog_dispatcher.live import Flight, Key, Live, backoff_ms
from fleetlog_dispatcher.sessions import Keys
from fleetlog_dispatcher.state import State
from fleetlog_runtime.pure.effects import Send
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_schemas import limits, pushes, tokens
from fleetlog_schemas.exports import blob_name
from fleetlog_schemas.hosts import Host
from fleetlog_schemas.spec import Build, Export, Script, TaskSpec, Workflow

ATTEMPTS_PER_PUSH_MAX = 200
"""Attempts in one push: one signature for many, and small enough to be encoded and checked in a few milliseconds."""
FORGETS_TOGETHER = 32
"""Forgets of one host that wait for no sweep: far fewer than an agent holds (`agent.held_max`)."""
FORGETTING_PER_ROUND_MAX = 100
"""Hosts that are told to forget in one round: their signatures take some milliseconds, and then it is another's turn."""
_ENVELOPE_BYTES = 4_096
"""Room for what surrounds the attempts of a push."""

_T = TypeVar("_T")
_encoder = msgspec.msgpack.Encoder()


def sends(settings: DispatcherSettings, keys: Keys, state: State, live: Live, now_ms: int) -> Iterator[Send]:
    """Yield the pushes that are due, host by host: cancels before starts, forgets last."""
    forgetting = set(islice(live.forgetting, FORGETTING_PER_ROUND_MAX))
    hosts = live.cancels.keys() | live.fresh.keys() | forgetting | live.outdated.keys()
    if live.sweep:
        hosts |= live.flights.keys()
    for host_id in sorted(hosts):
        host = state.hosts.by_id.get(host_id)
        if host is None or not reachable(state, live, host):
            continue
        starts, cancels = _due(settings, live, host_id, now_ms)
        forgets = live.forgets.get(host_id, {}) if host_id in forgetting else {}
        epoch, seq, expires_ms = host.epoch, state.position, now_ms + settings.push_expiry_ms
        for named in _chunks(_named(keys, host_id, key, flight) for key, flight in cancels.items()):
            yield Send(pushes.CancelPush(host_id, epoch, expires_ms, seq, named))
        for started in _chunks(_start(keys, flight) for flight in starts.values()):
            yield Send(pushes.StartPush(host_id, epoch, expires_ms, seq, started))
        for named in _chunks(pushes.NamedAttempt(task_id=key[0], attempt=key[1]) for key in forgets):
            yield Send(pushes.ForgetPush(host_id, epoch, expires_ms, seq, named))
        if host_id in live.outdated and not (starts or cancels or forgets):
            # Nothing to say but the epoch: an agent that believes in an older session then asks for a new one.
            yield Send(pushes.ForgetPush(host_id, epoch, expires_ms, seq, ()))


def reachable(state: State, live: Live, host: Host) -> bool:
    """Tell whether a push would reach a host, and be obeyed there."""
    presence = live.presence.get(host.host_id)
    lagging = presence is not None and presence.newest_seq > state.position
    return bool(host.epoch) and not host.revoked and not host.blocked and presence is not None and not lagging


def _due(
    settings: DispatcherSettings, live: Live, host_id: str, now_ms: int
) -> tuple[dict[Key, Flight], dict[Key, Flight | None]]:
    """Return the starts and the cancels that are due now."""
    cancels = dict(live.cancels.get(host_id, {}))
    starts: dict[Key, Flight] = {}
    candidates = live.flights.get(host_id, {}) if live.sweep else live.fresh.get(host_id, {})
    for key, flight in candidates.items():
        stopping = flight.task.interrupts(flight.command)
        overdue = not flight.seen_held and now_ms >= start_deadline_ms(settings, flight)
        if stopping or overdue:
            if now_ms >= flight.cancelled_ms + backoff_ms(settings, flight.cancels):
                cancels[key] = flight
        elif not flight.seen_held and (
            key in live.fresh.get(host_id, ()) or now_ms >= flight.pushed_ms + backoff_ms(settings, flight.pushes)
        ):
            starts[key] = flight
    return starts, cancels


def _named(keys: Keys, host_id: str, key: Key, flight: Flight | None) -> pushes.NamedAttempt:
    stop = "cancelled"
    if flight is not None:
        interrupted = flight.task.interrupts(flight.command)
        stop = (flight.command.stop or flight.task.stop) if interrupted else "undelivered"
    return pushes.NamedAttempt(
        task_id=key[0], attempt=key[1], reason=stop, token=tokens.attempt_token(keys.token, key[0], host_id, key[1]),
        token_key_id=keys.token_key_id,
    )


def _start(keys: Keys, flight: Flight) -> pushes.StartAttempt:
    task, host_id, number = flight.task, flight.command.host_id, flight.attempt.number
    spec = task.spec
    assert not isinstance(spec.payload, Workflow), "it has no commands"
    return pushes.StartAttempt(
        task_id=task.task_id, attempt=number, payload=spec.payload, options=spec.options, timeout_ms=spec.timeout_ms,
        token=tokens.attempt_token(keys.token, task.task_id, host_id, number), token_key_id=keys.token_key_id,
        submitted_by=task.submitted_by, task_name=spec.name,
        blob_tokens={name: tokens.blob_token(keys.blob, host_id, name) for name in _content(task.task_id, spec)},
        parameters=spec.definition.parameters if spec.definition else spec.parameters,
    )


def _content(task_id: str, spec: TaskSpec) -> Iterator[str]:
    """Yield what a host may ask for to run a task: digests of blobs, and the name of what it exports."""
    match spec.payload:
        case Script(content=content):
            yield content.sha256
        case Build(inputs=inputs):
            yield from (given.content.sha256 for given in inputs)
        case Export():
            yield blob_name(task_id)
    for blob in (spec.options.env, spec.options.stdin):
        if blob is not None:
            yield blob.sha256


def _chunks(entries: Iterable[_T]) -> Iterator[tuple[_T, ...]]:
    """Cut *entries* into pieces that fit into one push each."""
    chunk: list[_T] = []
    size = _ENVELOPE_BYTES
    for entry in entries:
        entry_bytes = len(_encoder.encode(entry))
        if chunk and (len(chunk) >= ATTEMPTS_PER_PUSH_MAX or size + entry_bytes > limits.PUSH_BYTES_MAX):
            yield tuple(chunk)
            chunk, size = [], _ENVELOPE_BYTES
        chunk.append(entry)
        size += entry_bytes
    if chunk:
        yield tuple(chunk)
