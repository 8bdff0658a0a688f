"""What every answer says while something is frozen, and how a plan is compared with the last task."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st

from fleetlog_gateway.difference import difference
from fleetlog_gateway.frozen import HEADER, headers_of
from fleetlog_schemas.policies import Freeze, Policies
from fleetlog_schemas.questions import Previous
from fleetlog_schemas.spec import Shell, TaskSpec


def policies(*freezes: Freeze) -> Policies:
    return Policies(freezes={one.freeze_id: one for one in freezes})


def told(header: str) -> dict[str, str]:
    """Return the fields of a header, read as a client reads them."""
    pairs = (field.partition("=") for field in header.split("; ")[1:])
    return {name: unquote(text) for name, _, text in pairs}


def test_nothing_is_said_while_nothing_is_frozen() -> None:
    assert headers_of(Policies()) == {}


def test_the_freeze_of_every_host_goes_before_an_older_one_of_some() -> None:
    header = headers_of(policies(
        Freeze("1", "web*", "disks", "bob", 1_000), Freeze("2", "all", "incident", "ann", 3_000),
        Freeze("3", "all", "later", "cid", 4_000),
    ))[HEADER]
    assert header.startswith("3; ")
    assert told(header) == {
        "id": "2", "target": "all", "by": "ann", "since": "1970-01-01T00:00:03.000Z", "reason": "incident",
    }


@given(st.text(max_size=300), st.text(max_size=300))
def test_whatever_was_typed_stays_one_short_header_of_plain_characters(target: str, reason: str) -> None:
    header = headers_of(policies(Freeze("1", target, reason, "ann", 1_000)))[HEADER]
    assert header.isascii()
    assert header.isprintable()
    assert len(header) < 8_000
    assert told(header)["reason"][:199] == reason[:199].encode("utf-8", "replace").decode()


def spec(**fields: Any) -> TaskSpec:
    return TaskSpec(**{"payload": Shell(argv=("true",)), "target": "web*", **fields})


def test_a_plan_differs_in_hosts_and_in_what_was_asked_but_not_in_how_it_came_about() -> None:
    before = Previous("t", "s", None, spec(plan_hash="a", rerun_of="x", parallel=3), ["web1", "web2"])
    found = difference(before, spec(plan_hash="b", tags=("night",)), ["web2", "web3", "web4"])
    assert (found.hosts_added, found.hosts_removed) == ("web[3-4]", "web1")
    assert found.fields == {"parallel": [3, 0], "tags": [(), ("night",)]}


def test_a_rerun_is_compared_by_the_names_of_its_hosts() -> None:
    before = Previous("t", "s", "success", spec(), ["web1"])
    found = difference(before, spec(target="", host_ids=("h1",)), ["web1"])
    assert (found.hosts_added, found.hosts_removed, found.fields) == ("", "", {"target": ["web*", ""]})
