"""The journal on disk: what was written is there, what was torn is gone, what is damaged is not guessed at."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fleetlog_agent.journal import COMPACT_BYTES_MIN, RESERVE_BYTES, Journal, JournalError, read_journal
from fleetlog_agent.journal_records import Accepted, Commit, Ended, Forgotten, Key, SessionOpened
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.reports import ReportEnded
from fleetlog_testing.agent_rig import TASK, start_of


def accepted(attempt: int = 1) -> Accepted:
    return Accepted(start=start_of(attempt=attempt), slot=0, boot_id="b", accepted_ms=1, start_by_ms=2)


def ended(attempt: int = 1, tail: str = "") -> Ended:
    return Ended(
        end=ReportEnded(
            task_id=TASK, attempt=attempt, token="t", token_key_id="k", outcome=Outcome.SUCCESS, ran=Ran.YES, tail=tail
        )
    )


def filled(path: Path, commits: int) -> Journal:
    journal = Journal(path)
    for number in range(1, commits + 1):
        journal.append(Commit(counter=number, records=(accepted(number),)))
    return journal


def test_what_was_appended_is_read_back(tmp_path: Path) -> None:
    session = SessionOpened(
        ticket="t", epoch=3, seq=9, nonce="n", signing_keys={"k": "v"}, boot_id="b", offset_ms=5
    )
    journal = Journal(tmp_path / "journal")
    journal.append(Commit(counter=1, records=(session, accepted())))
    journal.append(Commit(counter=2, records=(ended(),)))
    state = Journal(tmp_path / "journal").state
    assert (state.counter, state.session) == (2, session)
    assert state.entries[Key(TASK, 1)].end == ended().end


@pytest.mark.parametrize("lost_bytes", [1, 7, 8, 100])
def test_an_interrupted_write_is_removed_and_the_rest_stays(tmp_path: Path, lost_bytes: int) -> None:
    path = tmp_path / "journal"
    filled(path, 3).close()
    path.write_bytes(path.read_bytes()[:-lost_bytes])
    journal = Journal(path)
    assert journal.state.counter == 2
    journal.append(Commit(counter=3, records=(accepted(9),)))
    assert set(read_journal(path)[0].attempts[TASK]) == {1, 2, 9}


@pytest.mark.parametrize("zeros", [5, 12, 4096])
def test_zeros_at_the_end_from_a_lost_write_are_removed(tmp_path: Path, zeros: int) -> None:
    path = tmp_path / "journal"
    filled(path, 2).close()
    with path.open("ab") as file:
        file.write(bytes(zeros))
    assert Journal(path).state.counter == 2


@pytest.mark.parametrize("at", [19, 22, 23, 28, 60], ids=["length", "length end", "checksum", "head", "body"])
def test_damage_in_the_middle_stops_the_agent_with_what_to_do(tmp_path: Path, at: int) -> None:
    path = tmp_path / "journal"
    filled(path, 3).close()
    body = bytearray(path.read_bytes())
    body[at] ^= 0xFF
    path.write_bytes(body)
    with pytest.raises(JournalError, match="accept the host again"):
        Journal(path)


def test_another_programs_file_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"something else that is longer than the head")
    with pytest.raises(JournalError, match="not a journal"):
        Journal(path)
    assert path.read_bytes().startswith(b"something else")


def test_a_journal_of_forgotten_attempts_is_rewritten_small_with_its_counter(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    counter = 0
    while not journal.wants_compaction:
        counter += 1
        journal.append(
            Commit(counter=counter, records=(accepted(counter), ended(counter, "x" * 2000), Forgotten(Key(TASK, counter))))
        )
    assert journal.bytes > COMPACT_BYTES_MIN
    journal.compact(read_journal(path)[0])
    journal.append(Commit(counter=counter + 1, records=(accepted(counter + 1),)))
    assert path.stat().st_size < 2_000
    state, length = read_journal(path)
    assert (state.counter, list(state.entries), length) == (counter + 1, [Key(TASK, counter + 1)], journal.bytes)


def test_the_journal_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    filled(tmp_path / "journal", 1)
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o600


def test_on_a_full_disk_the_reserve_takes_what_must_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "journal")
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= RESERVE_BYTES
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if (tmp_path / "reserve").exists():
            write(descriptor, data[:3])
            raise OSError(errno.ENOSPC, "no space")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    journal.append(Commit(1, ()))
    assert not journal.has_reserve
    assert read_journal(tmp_path / "journal")[0].counter == 1
    journal.restore_reserve()
    assert journal.has_reserve


def test_without_a_reserve_a_full_disk_is_an_error_and_the_file_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "journal")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match="no space"):
            journal.append(Commit(1, ()))
        journal.restore_reserve()
        assert not journal.has_reserve
        with pytest.raises(OSError, match="no space"):
            journal.append(Commit(1, ()))
    journal.append(Commit(1, ()))
    assert read_journal(tmp_path / "journal")[0].counter == 1
