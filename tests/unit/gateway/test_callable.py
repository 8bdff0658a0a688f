"""Functions that no host can run are refused at submit, by what this gateway has read of the hosts."""

from __future__ import annotations

from typing import Any

from fleetlog_gateway.access import Access, fold, learn_facts
from fleetlog_gateway.callable import unfit
from fleetlog_schemas import events, host_events
from fleetlog_schemas.codec import Event
from fleetlog_schemas.functions import UNKNOWN, WRONG_ARGUMENTS, facts_of
from fleetlog_schemas.spec import Choose, Function, TaskSpec
from fleetlog_schemas.workers import Offered

A, B = ("0196a000-0000-7000-8000-00000000000" + end for end in "ab")


def told(access: Access, data: events.Data) -> None:
    seq = access.last_seq.get(events.HOST, 0) + 1
    fold(access, Event(id="e", source="t", data=data, time_ms=1, seq=seq, subject=events.HOST))


def fleet() -> Access:
    access = Access()
    for host_id, name in ((A, "a"), (B, "b")):
        told(access, host_events.HostEnrolled(host_id=host_id, name=name, public_key=name, token_sha256="", labels={}))
    return access


def offer(access: Access, host_id: str, *signatures: str) -> None:
    facts = facts_of([Offered(f"f{index}", "default", "m", one) for index, one in enumerate(signatures)], ["default"])
    learn_facts(access, host_events.FactsChanged(host_id=host_id, facts={"cores": 2, **facts}))


def code(access: Access, function: Function, target: str = "all", **fields: Any) -> str:
    spec = TaskSpec(payload=function, target=target, choose=Choose(), **fields)
    error = unfit(access, spec, function)
    return error.code if error else ""


def test_what_is_refused_follows_what_hosts_say_and_who_they_are() -> None:
    access = fleet()
    assert code(access, Function("f0")) == UNKNOWN
    offer(access, A, "(a: int) -> None")
    for _ in range(2):  # the second time by what is remembered
        assert code(access, Function("f0", (1,))) == ""
        assert code(access, Function("f0", ("x",))) == WRONG_ARGUMENTS
        assert code(access, Function("f0", (1,)), "b") == UNKNOWN
    offer(access, A, "(a: str) -> None")
    assert code(access, Function("f0", (1,))) == WRONG_ARGUMENTS
    assert code(access, Function("f0", ("x",))) == ""
    told(access, host_events.HostRevoked(host_id=A, public_key="a", reason=""))
    assert code(access, Function("f0", ("x",))) == UNKNOWN


def test_what_only_the_dispatcher_can_say_is_left_to_it() -> None:
    access = fleet()
    assert code(access, Function("f0"), "nobody") == "", "a target that means no host"
    assert code(access, Function("f0"), wait_offline_ms=1) == "", "hosts that were never heard, and are waited for"


def test_exact_hosts_are_asked_and_no_others() -> None:
    access = fleet()
    offer(access, A, "() -> None")
    for host_id, expected in ((A, None), (B, UNKNOWN)):
        spec = TaskSpec(payload=Function("f0"), target="", host_ids=(host_id,))
        error = unfit(access, spec, Function("f0"))
        assert (error and error.code) == expected
