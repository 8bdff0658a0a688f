"""Subjects, streams and keyed hashes: what the rest of the system takes for granted of them."""

from __future__ import annotations

import pytest

from fleetlog_schemas import events, limits, subjects, tokens


def covers(pattern: str, subject: str) -> bool:
    """Tell whether a NATS pattern covers a subject."""
    parts, tokens_of = pattern.split("."), subject.split(".")
    for index, part in enumerate(parts):
        if part == ">":
            return len(tokens_of) > index
        if index >= len(tokens_of) or part not in ("*", tokens_of[index]):
            return False
    return len(parts) == len(tokens_of)


def streams_of(subject: str) -> list[str]:
    return [stream.name for stream in subjects.STREAMS if any(covers(pattern, subject) for pattern in stream.subjects)]


@pytest.mark.parametrize(
    ("subject", "stream"),
    [
        *((subject, subjects.EVENTS) for subject in events.SUBJECTS),
        (subjects.report("h1"), subjects.REPORTS),
        (subjects.output("h1", 3), subjects.OUTPUT),
        (subjects.leader("dispatcher"), subjects.LEADERS),
    ],
)
def test_what_is_stored_is_stored_once(subject: str, stream: str) -> None:
    assert streams_of(subject) == [stream]


@pytest.mark.parametrize(
    "subject",
    [subjects.push("h1"), subjects.heartbeat("h1"), subjects.session("h1"), subjects.blob("h1"), subjects.ask("reporter", "tasks")],
)
def test_pushes_heartbeats_and_requests_are_not_stored(subject: str) -> None:
    assert streams_of(subject) == []


def test_every_event_type_stands_on_subjects_that_have_writers() -> None:
    for row in events.REGISTRY.values():
        assert set(row.subject.split()) <= set(events.SUBJECTS)
        assert len(row.subject.split()) == len(row.written_by.split()), "one writer for each subject"
        assert row.read_by


def test_one_subject_of_the_log_has_one_writer() -> None:
    writers: dict[str, set[str]] = {}
    for row in events.REGISTRY.values():
        for subject, writer in zip(row.subject.split(), row.written_by.split(), strict=True):
            writers.setdefault(subject, set()).add(writer)
    # Only people's requests may come from a schedule instead: the scheduler's own fence is on its ticks.
    assert writers.pop(events.REQUEST) == {"gateway", "scheduler"}
    assert all(len(who) == 1 for who in writers.values()), writers


def test_an_agent_may_publish_only_under_its_own_id() -> None:
    allowed = [pattern.format(id="h1") for pattern in subjects.AGENT_PUBLISH]
    own = [subjects.report("h1"), subjects.output("h1", 1), subjects.heartbeat("h1"), subjects.session("h1"), subjects.blob("h1")]
    foreign = [subjects.report("h2"), subjects.heartbeat("h2"), subjects.push("h1"), "evt.result", subjects.output("h2", 1)]
    assert all(any(covers(pattern, subject) for pattern in allowed) for subject in own)
    assert not any(covers(pattern, subject) for pattern in allowed for subject in foreign)
    assert all(subjects.host_of(subject) == "h1" for subject in own)


def test_the_log_cannot_be_deleted_from_and_takes_what_the_codec_lets_through() -> None:
    log = next(stream for stream in subjects.STREAMS if stream.name == subjects.EVENTS)
    assert log.deny_delete
    assert log.atomic
    assert log.discard_new, "a full log refuses, it does not forget"
    assert log.message_bytes_max > limits.EVENT_BYTES_MAX
    assert all(stream.bytes_max > 0 and stream.why for stream in subjects.STREAMS)


def test_a_token_fits_one_attempt_on_one_host_and_nothing_else() -> None:
    key = b"k" * 32
    token = tokens.attempt_token(key, "t", "h", 1)
    others = [
        tokens.attempt_token(b"x" * 32, "t", "h", 1), tokens.attempt_token(key, "u", "h", 1),
        tokens.attempt_token(key, "t", "i", 1), tokens.attempt_token(key, "t", "h", 2),
        tokens.attempt_token(key, "th", "", 1), tokens.ticket(key, "h", 1, 1), tokens.blob_token(key, "h", "t"),
    ]
    assert tokens.matches(token, tokens.attempt_token(key, "t", "h", 1))
    assert not any(tokens.matches(token, other) for other in others)
    assert len({token, *others}) == len(others) + 1


def test_a_token_that_is_no_ascii_does_not_match_and_does_not_fail() -> None:
    assert not tokens.matches(tokens.ticket(b"k", "h", 1, 1), "ü" * 32)
    assert tokens.key_id(b"a") != tokens.key_id(b"b")
