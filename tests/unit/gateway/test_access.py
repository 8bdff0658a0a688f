"""Hosts, invitations, revocations and policies as the log has them."""

from __future__ import annotations

import itertools

from fleetlog_gateway.access import Access, fold, open_invitations, passed
from fleetlog_schemas import events, host_events, policy_events
from fleetlog_schemas.codec import Event
from fleetlog_schemas.policies import Policies

_seq = itertools.count(1)


def happened(access: Access, data: events.Data, time_ms: int = 1_000, subject: str = events.ACCESS) -> int:
    seq = next(_seq)
    fold(access, Event(id=f"e{seq}", source="/test", data=data, time_ms=time_ms, seq=seq, subject=subject))
    return seq


def invited(token: str = "t", expires_ms: int = 5_000) -> host_events.HostInvited:
    return host_events.HostInvited(token_sha256=token, name="web1", labels={"a": "b"}, expires_ms=expires_ms)


def enrolled(host_id: str = "h1", token: str = "t", key: str = "K1") -> host_events.HostEnrolled:
    return host_events.HostEnrolled(host_id=host_id, name="web1", labels={"a": "b"}, public_key=key, token_sha256=token)


def test_an_invitation_is_open_until_it_is_used_or_expires() -> None:
    access = Access()
    happened(access, invited("t"))
    happened(access, invited("u"))
    assert open_invitations(access, 1_000) == 2
    happened(access, enrolled(token="t"))
    assert open_invitations(access, 1_000) == 1
    assert open_invitations(access, 5_000) == 0


def test_the_first_enrolment_with_a_token_is_the_one_that_used_it() -> None:
    access = Access()
    happened(access, invited("t"))
    happened(access, enrolled("h1", "t", "K1"))
    happened(access, enrolled("h2", "t", "K2"))
    assert access.used == {"t": "h1"}


def test_expired_invitations_are_forgotten_so_that_memory_stays_bounded() -> None:
    access = Access()
    happened(access, invited("t", expires_ms=5_000))
    happened(access, enrolled("h1", "t"))
    happened(access, invited("u", expires_ms=9_000), time_ms=6_000)
    assert set(access.invitations) == {"u"}
    assert access.used == {}


def test_a_revoked_key_stays_revoked_with_the_time_of_its_first_revocation() -> None:
    access = Access()
    happened(access, enrolled("h1", "", "K1"))
    happened(access, host_events.HostRevoked("h1", "K1"), time_ms=7_000)
    happened(access, host_events.HostRevoked("h1", "K1"), time_ms=8_000)
    assert access.revoked == {"K1": 7_000}
    assert access.hosts.by_id["h1"].revoked


def test_the_fence_of_each_subject_is_the_last_sequence_read_of_it() -> None:
    access = Access()
    first = happened(access, enrolled())
    second = happened(access, host_events.HostLabelled("h1", {"x": "y"}), subject=events.HOST)
    assert access.last_seq == {events.ACCESS: first, events.HOST: second}
    passed(access, events.ACCESS, second + 5)
    assert access.last_seq[events.ACCESS] == second + 5


def test_labels_and_maintenance_are_folded() -> None:
    access = Access()
    happened(access, enrolled())
    happened(access, host_events.HostLabelled("h1", {"x": "y", "a": None}), subject=events.HOST)
    happened(access, host_events.MaintenanceSet("h1", on=True, reason="disk"), subject=events.HOST)
    host = access.hosts.by_id["h1"]
    assert (host.labels, host.maintenance_reason) == ({"x": "y"}, "disk")


def test_freezes_windows_and_limits_are_folded_with_a_fence_of_their_own() -> None:
    access = Access()
    window = policy_events.Window("blackout", "all", (0,), "02:00", 60)
    begun: list[events.Data] = [
        policy_events.FleetFrozen("f", "web*", "disks"), policy_events.WindowSet("w", window), policy_events.QueueLimited("q", 3),
    ]
    last = [happened(access, data, subject=events.CATALOG) for data in begun][-1]
    assert access.policies.freezes["f"].reason == "disks"
    assert access.policies.windows["w"].window == window
    assert access.policies.queues == {"q": 3}
    assert access.last_seq == {events.CATALOG: last}
    over: list[events.Data] = [policy_events.FleetThawed("f"), policy_events.WindowRemoved("w"), policy_events.QueueLimited("q", 0)]
    for data in over:
        happened(access, data, subject=events.CATALOG)
    assert access.policies == Policies()
