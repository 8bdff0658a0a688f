"""What the log knows of hosts: identity, labels, sessions, presence, alerts."""

from __future__ import annotations

from typing import Any

import pytest

from fleetlog_schemas import events, host_events
from fleetlog_schemas.hosts import REFUSALS_PER_HOST_MAX, Host
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_testing.history import History, make_id


def enrolled(history: History, host_id: str = "h1", name: str = "web1") -> Host:
    history.add(host_events.HostEnrolled(host_id=host_id, name=name, labels={"env": "prod"}, public_key="U1"))
    return history.hosts.by_id[host_id]


def opened(history: History, epoch: int, *, counter: int = 0, nonce: str = "n") -> list[str]:
    session = host_events.Session(host_id="h1", epoch=epoch, nonce=nonce, boot_id="b", version="1", counter=counter)
    history.add(host_events.SessionsOpened(sessions=(session,)))
    return history.host_ids


def online(history: History, epoch: int) -> list[str]:
    history.add(host_events.HostsOnline(hosts=(host_events.HostEpoch("h1", epoch),)))
    return history.host_ids


def offline(history: History, epoch: int, reason: str = "goodbye") -> list[str]:
    history.add(host_events.HostsOffline(hosts=(host_events.HostEpoch("h1", epoch),), reason=reason))
    return history.host_ids


def refused(history: History) -> None:
    history.add(host_events.SessionsRefused(hosts=(host_events.SessionRefusal("h1", "ticket", "it does not fit"),)))


def test_a_host_goes_from_joined_over_offline_to_online_and_back() -> None:
    history = History()
    host = enrolled(history)
    assert (host.presence, host.fresh, host.labels) == ("joined", True, {"env": "prod"})
    assert opened(history, 1, counter=3) == ["h1"]
    assert (host.presence, host.fresh, host.counter, host.session_seq) == ("offline", False, 3, len(history.events))
    assert online(history, 1) == ["h1"]
    assert (host.presence, host.ticket_used) == ("online", True)
    assert offline(history, 1) == ["h1"]
    assert (host.presence, host.offline_reason) == ("offline", "goodbye")
    assert online(history, 1) == ["h1"], "the same session after silence"
    assert (host.presence, host.offline_reason) == ("online", "")


@pytest.mark.parametrize("epoch", [0, 2, 3])
def test_a_session_has_the_next_epoch_or_is_void(epoch: int) -> None:
    history = History()
    host = enrolled(history)
    assert opened(history, epoch) == []
    assert host.epoch == 0


def test_presence_of_another_session_changes_nothing() -> None:
    history = History()
    host = enrolled(history)
    opened(history, 1)
    online(history, 1)
    opened(history, 2)
    assert offline(history, 1) == []
    assert online(history, 1) == []
    assert (host.epoch, host.ticket_used) == (2, False)
    assert offline(history, 2) == ["h1"]
    assert offline(history, 2) == [], "it is offline already"


def test_the_previous_ticket_stays_good_until_the_current_one_is_used() -> None:
    history = History()
    host = enrolled(history)
    opened(history, 1)
    online(history, 1)
    first_seq = host.session_seq
    opened(history, 2)
    assert (host.previous_epoch, host.previous_seq) == (1, first_seq)
    opened(history, 3)
    assert (host.previous_epoch, host.previous_seq) == (1, first_seq), "session 2 was never used"
    second_seq = host.session_seq
    online(history, 3)
    opened(history, 4)
    assert (host.previous_epoch, host.previous_seq) == (3, second_seq)


def test_a_refused_host_stays_refused_until_a_person_accepts_it() -> None:
    history = History()
    host = enrolled(history)
    opened(history, 1, counter=9)
    online(history, 1)
    refused(history)
    assert (host.presence, host.online) == ("refused", False)
    assert online(history, 1) == []
    history.add(host_events.HostAccepted(host_id="h1", reason="restored on purpose"))
    assert (host.blocked, host.fresh, host.counter) == (None, True, 0)
    assert host.refusals[0].code == "session-ticket"


def test_a_revoked_host_is_out_and_can_only_come_back_by_enrolling() -> None:
    history = History()
    host = enrolled(history)
    opened(history, 1)
    online(history, 1)
    history.add(host_events.HostRevoked(host_id="h1", public_key="U1", reason="sold"))
    assert (host.presence, host.online) == ("revoked", False)
    assert online(history, 1) == []
    assert history.hosts.named("web1") is None
    again = enrolled(history)
    assert (again.presence, again.fresh, again.epoch) == ("offline", True, 1), "epochs go on counting"


def test_the_first_enrolment_of_a_key_stands() -> None:
    history = History()
    enrolled(history)
    history.add(host_events.HostEnrolled(host_id="h1", name="other", labels={}, public_key="U2"))
    assert history.host_ids == []
    assert history.hosts.by_id["h1"].name == "web1"


def test_labels_are_set_and_removed_one_by_one() -> None:
    history = History()
    host = enrolled(history)
    history.add(host_events.HostLabelled(host_id="h1", labels={"dc": "b", "env": "test"}))
    assert host.labels == {"env": "test", "dc": "b"}
    history.add(host_events.HostLabelled(host_id="h1", labels={"env": None, "nothing": None}))
    assert host.labels == {"dc": "b"}


def test_maintenance_keeps_its_reason_while_it_lasts() -> None:
    history = History()
    host = enrolled(history)
    history.add(host_events.MaintenanceSet(host_id="h1", on=True, reason="disk"))
    assert (host.maintenance, host.maintenance_reason) == (True, "disk")
    history.add(host_events.MaintenanceSet(host_id="h1", on=False, reason="done"))
    assert (host.maintenance, host.maintenance_reason) == (False, "")


def test_reports_raise_the_journal_counter_and_never_lower_it() -> None:
    history = History()
    host = enrolled(history)
    opened(history, 1, counter=5)
    end = events.End(task_id=make_id(), host_id="h1", attempt=1, outcome=Outcome.SUCCESS, ran=Ran.YES)
    for counter, seen in ((9, 9), (7, 9)):
        history.add(events.AttemptsEnded(attempts=(end,), counters={"h1": counter, "h9": 1}))
        assert host.counter == seen
    history.add(host_events.HostAccepted(host_id="h1"))
    history.add(events.AttemptsEnded(attempts=(end,), counters={"h1": 50}))
    assert host.counter == 0, "what an accepted host reported before its new session does not count"


def test_alerts_are_bounded_and_the_newest_stay() -> None:
    history = History()
    host = enrolled(history)
    for minute in range(REFUSALS_PER_HOST_MAX + 5):
        history.wait(60_000)
        history.add(host_events.ReportsRefused(host_id="h1", minute=minute, counts={"token": minute, "form": 1}))
    assert len(host.refusals) == REFUSALS_PER_HOST_MAX
    assert host.refusals[-1].message == f"reports refused in one minute: 1 for form, {REFUSALS_PER_HOST_MAX + 4} for token"


@pytest.mark.parametrize(
    "data",
    [
        host_events.HostLabelled(host_id="h9", labels={}),
        host_events.MaintenanceSet(host_id="h9", on=True),
        host_events.HostAccepted(host_id="h9"),
        host_events.HostRevoked(host_id="h9", public_key="U"),
        host_events.FactsChanged(host_id="h9", facts={}),
        host_events.ReportsRefused(host_id="h9", minute=1, counts={}),
        host_events.SessionsRefused(hosts=(host_events.SessionRefusal("h9", "ticket", "m"),)),
        host_events.HostsOnline(hosts=(host_events.HostEpoch("h9", 1),)),
        host_events.HostsOffline(hosts=(host_events.HostEpoch("h9", 1),)),
        host_events.SessionsOpened(sessions=(host_events.Session("h9", 1, "n", "b", "v", 0),)),
        events.TasksTimedOut(task_ids=()),
    ],
)
def test_events_about_unknown_hosts_change_nothing(data: Any) -> None:
    history = History()
    history.add(data)
    assert history.host_ids == []
    assert history.hosts.by_id == {}


def test_facts_are_kept_as_they_were_last_found() -> None:
    history = History()
    host = enrolled(history)
    history.add(host_events.FactsChanged(host_id="h1", facts={"cpu.count": 4, "virtual": True}))
    history.add(host_events.FactsChanged(host_id="h1", facts={"cpu.count": 8}))
    assert host.facts == {"cpu.count": 8}


def test_a_host_is_found_by_id_or_name() -> None:
    history = History()
    host = enrolled(history)
    assert history.hosts.named("h1") is host
    assert history.hosts.named("web1") is host
    assert history.hosts.named("web2") is None
