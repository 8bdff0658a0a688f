"""Everything that a request may need, in one place; and the few things that several routes do alike."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Callable
from typing import Any

from fleetlog_gateway import access as access_rules
from fleetlog_gateway import limits
from fleetlog_gateway.access import Access
from fleetlog_gateway.addresses import Addresses
from fleetlog_gateway.appending import Appender, Unsettled
from fleetlog_gateway.asking import Asker
from fleetlog_gateway.auth import FailureLimit, Principal, Refusals, Tokens
from fleetlog_gateway.problems import HttpProblem
from fleetlog_gateway.readiness import Readiness
from fleetlog_gateway.recent import Recent
from fleetlog_gateway.revoking import Revoker
from fleetlog_gateway.sse import Streams
from fleetlog_gateway.tail import Tail
from fleetlog_runtime.pure.bus import Bus, Stored
from fleetlog_runtime.pure.egress import Allowed
from fleetlog_runtime.shell.home import Home
from fleetlog_runtime.shell.publisher import Publisher
from fleetlog_schemas import codec, events, host_events, hosts, ids, subjects

FACTS_CHANGED = b'"fleetlog.host.facts-changed.v1"'
HEAD_BYTES = 512
"""Of an event, within which its type stands."""


@dataclasses.dataclass(slots=True)
class Gateway:
    """One running gateway."""

    bus: Bus
    home: Home
    now_ms: Callable[[], int]
    log: Any
    access: Access
    tail: Tail
    publisher: Publisher
    appender: Appender
    asker: Asker
    streams: Streams
    tokens: Tokens
    addresses: Addresses
    revoker: Revoker
    readiness: Readiness
    egress: Allowed = dataclasses.field(default_factory=Allowed)
    """What webhooks may reach beside the public network."""
    recent: Recent[Any] = dataclasses.field(default_factory=Recent)
    failures: FailureLimit = dataclasses.field(default_factory=FailureLimit)
    refusals: Refusals = dataclasses.field(default_factory=Refusals)
    offers_lock: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)
    offers_again_s: float = 0.0
    """When the reporter, which said nothing, is asked again what hosts offer; by the clock of the event loop."""
    refused: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    """Something was refused: the counts want to be written when the minute is over."""

    def make_id(self) -> str:
        """Return a new UUIDv7."""
        return ids.new_id(self.now_ms(), os.urandom(10))

    def count_refusal(self, reason: str) -> None:
        """Count a request that was refused for who asked."""
        self.refusals.count(reason, self.now_ms())
        self.refused.set()

    def refuse_remote(self, reason: str, remote: str) -> None:
        """Count a failed authentication. Raises HttpProblem when this remote has had too many."""
        self.count_refusal(reason)
        self.failures.failed(remote, self.now_ms())

    def host(self, name: str) -> hosts.Host:
        """Return the host of this id or name. Raises HttpProblem."""
        found = self.access.hosts.named(name)
        if found is None:
            raise HttpProblem("host-not-found", f"no host is named {name[:100]!r}: `fleetlog host ls` shows the hosts")
        return found

    def living_host(self, name: str) -> hosts.Host:
        """Return the host of this id or name, which must not be revoked. Raises HttpProblem."""
        found = self.host(name)
        if found.revoked:
            raise HttpProblem("host-revoked", f"{found.name} was revoked: it can only join again with a new key")
        return found

    async def store(
        self, data: list[events.Data], principal: Principal, task_id: str = "", *, new_tasks: bool = False
    ) -> int:
        """Append *data* on `evt.request`, all or nothing, and return the last sequence as soon as it is durable.

        Raises:
            HttpProblem: nothing was stored; or unsettled: then it names the task to look at.
        """
        if new_tasks:
            await self.appender.check_room()
        try:
            return await self.appender.append(data, principal.name)
        except Unsettled:
            look = f"ask for task {task_id}, or send" if task_id else "send"
            raise HttpProblem(
                "unsettled", f"the bus did not confirm in time: {look} the same request again", task_id=task_id
            ) from None

    async def change(self, subject: str, decide: Any, principal: Principal, what: str) -> int:
        """Append what *decide* returns with the fence of *subject*, read it back, and return its sequence.

        Raises:
            HttpProblem: refused, conflicting, or unsettled: then *what* says what to look at.
        """
        try:
            return await self.appender.fenced(
                subject, decide, lambda: self.access.last_seq.get(subject, 0), principal.name
            )
        except Unsettled:
            raise HttpProblem("unsettled", f"the bus did not confirm in time: {what}") from None


def fold_stored(access: Access, stored: Stored, log: Any) -> bool:
    """Fold a message of the log into *access*; what cannot be read is passed over with an alarm, and False returned.

    Raises:
        TooNew: this version must not decide on such a log.
    """
    says_facts = stored.subject == events.RESULT and stored.body.find(FACTS_CHANGED, 0, HEAD_BYTES) > 0
    if stored.subject not in access_rules.SUBJECTS and not says_facts:
        return True
    try:
        event = codec.decode(stored.body, seq=stored.seq, subject=stored.subject, time_ms=stored.time_ms)
    except codec.TooNew as error:
        if error.minreader > codec.READER and not says_facts:
            raise  # deciding on a state that is only half understood would be guessing
        access_rules.passed(access, stored.subject, stored.seq)
    except codec.Malformed as error:
        log.warning("malformed event passed over", seq=stored.seq, subject=stored.subject, error=str(error))
        access_rules.passed(access, stored.subject, stored.seq)
        return False
    else:
        if isinstance(event.data, host_events.FactsChanged):
            access_rules.learn_facts(access, event.data)
        else:
            access_rules.fold(access, event)
    return True


async def load_access(bus: Bus, through_seq: int, log: Any) -> Access:
    """Return the state that this gateway decides on at *through_seq*, from its subjects alone."""
    access = Access()
    found: list[Stored] = []
    for subject in access_rules.SUBJECTS:
        next_seq = 1
        while next_seq <= through_seq:
            page = await bus.get_range(subjects.EVENTS, next_seq, limits.ACCESS_PAGE, subject)
            found += [stored for stored in page if stored.seq <= through_seq]
            if not page:
                break
            next_seq = page[-1].seq + 1
    for stored in sorted(found, key=lambda stored: stored.seq):
        fold_stored(access, stored, log)
    return access
