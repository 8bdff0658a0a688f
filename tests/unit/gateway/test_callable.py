"""Functions that no host can run are refused at submit, by what this gateway has read of the hosts."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from fleetlog_gateway.access import Access, fold, learn_facts
from fleetlog_gateway.asking import RawAnswer
from fleetlog_gateway.callable import check_callable, unfit
from fleetlog_gateway.problems import HttpProblem
from fleetlog_schemas import events, host_events
from fleetlog_schemas.codec import Event
from fleetlog_schemas.functions import UNKNOWN, WRONG_ARGUMENTS, facts_of
from fleetlog_schemas.offers import Offer, Offers, OffersQuestion
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


class Around:
    """What `check_callable` needs of a gateway."""

    def __init__(self, access: Access, offers: Offers | None) -> None:
        self.access, self.offers_lock, self.offers_again_s = access, asyncio.Lock(), 0.0
        self.asker = self.bus = self.tail = self
        self.next_seq = 7
        self.last_seq = 9
        self.asked: list[Any] = []
        self.on_read = lambda: None
        self._offers = offers

    async def ask(self, service: str, question: str, content: OffersQuestion, timeout_ms: int) -> RawAnswer:
        self.asked.append(content)
        if self._offers is None:
            raise HttpProblem("service-unavailable", "the reporter does not answer")
        return RawAnswer(seq=7, data=msgspec.Raw(msgspec.json.encode(self._offers)))

    async def state(self, _stream: str) -> Around:
        return self

    async def grown_past(self, seq: int, _seconds: float) -> bool:
        assert seq == self.last_seq
        self.on_read()
        return True

    def check(self, *names: str) -> list[str]:
        """Return the codes with which calls of these functions are refused."""

        async def each() -> list[str]:
            codes = []
            for name in names:
                try:
                    await check_callable(self, TaskSpec(payload=Function(name), target="all", choose=Choose()), "/spec")  # type: ignore[arg-type]
                    codes.append("")
                except HttpProblem as problem:
                    assert problem.errors[0].pointer == "/spec/payload/name"
                    codes.append(problem.code)
            return codes

        return asyncio.run(each())


def said(*names: str) -> dict[str, str]:
    return dict(facts_of([Offered(name, "default", "m", "") for name in names], ["default"]))


def test_the_reporter_is_asked_once_for_what_was_said_before_this_gateway_began() -> None:
    around = Around(fleet(), Offers([Offer(said("old"), [A, "a host that nobody knows"]), Offer(said(), [B])]))
    assert around.check("old", "new") == ["", UNKNOWN]
    assert [one.at_least_seq for one in around.asked] == [6]


def test_what_a_host_said_meanwhile_is_newer_than_the_answer() -> None:
    access = fleet()
    learn_facts(access, host_events.FactsChanged(host_id=A, facts=dict(said("new"))))
    assert Around(access, Offers([Offer(said("old"), [A, B])])).check("new", "old") == ["", ""]
    learn_facts(access, host_events.FactsChanged(host_id=B, facts={}))
    assert Around(access, None).check("new", "old") == ["", UNKNOWN]


def test_before_it_refuses_a_gateway_reads_to_the_end_of_the_log() -> None:
    around = Around(fleet(), Offers([Offer(said("old"), [A, B])]))
    around.on_read = lambda: learn_facts(around.access, host_events.FactsChanged(host_id=A, facts=dict(said("new"))))
    assert around.check("new") == [""]


def test_where_the_reporter_is_silent_the_dispatcher_says_it_and_the_reporter_is_left_alone_for_a_while() -> None:
    around = Around(fleet(), None)
    assert around.check("new", "new", "new") == ["", "", ""]
    assert len(around.asked) == 1
