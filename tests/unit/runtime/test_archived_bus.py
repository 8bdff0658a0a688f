"""The log reads as one across archive and stream, whatever is pruned and whenever."""

from __future__ import annotations

import asyncio
import itertools
import random
from pathlib import Path

import pytest

from fleetlog_runtime.pure import segments
from fleetlog_runtime.pure.bus import ArchiveMissing, Batch, Draft, NoAnswer, NotFound, Stored
from fleetlog_runtime.shell import archive as archive_shell
from fleetlog_runtime.shell import archived_bus as archived_shell
from fleetlog_runtime.shell.archive import chunk_of
from fleetlog_runtime.shell.archived_bus import ArchivedBus, unreadable
from fleetlog_runtime.shell.memory_bus import MemoryBroker, MemoryBus
from fleetlog_schemas import archive_events, chain, codec, events, ids, subjects
from fleetlog_schemas.archive import Archive, apply
from fleetlog_schemas.archive_events import LogPruned, SegmentSealed

_numbers = itertools.count(1)


def body_of(data: events.Data) -> bytes:
    event_id = ids.new_id(1_800_000_000_000, next(_numbers).to_bytes(10, "big"))
    return codec.encode(codec.Event(id=event_id, source="/test", data=data, time_ms=1_800_000_000_000))


class Log:
    """A log, its archive, and a keeper's moves made by hand."""

    def __init__(self, folder: Path, *, wait: bool = False) -> None:
        self.folder = folder
        self.broker = MemoryBroker()
        self.bus = MemoryBus(self.broker)
        self.archived = ArchivedBus(MemoryBus(self.broker), folder)
        self.known = Archive()
        self.everything: list[Stored] = []
        self._tick = 0
        if not wait:
            self.broker.store.now_ms = self._time_ms

    def _time_ms(self) -> int:
        self._tick += 1
        return 1_800_000_000_000 + self._tick * 10

    async def add(self, *subjects_: str) -> int:
        """Store one batch and return its last sequence."""
        number = next(_numbers)
        drafts = tuple(Draft(subject, b"%d %d" % (number, index)) for index, subject in enumerate(subjects_))
        return await self._stored(Batch(drafts=drafts, message_id=str(number)))

    async def _stored(self, batch: Batch) -> int:
        seq = await self.bus.append(batch)
        for one in range(seq - len(batch.drafts) + 1, seq + 1):
            self.everything.append(await self.bus.get("EVENTS", one))
        return seq

    async def say(self, data: events.Data) -> None:
        seq = await self._stored(Batch(drafts=(Draft(events.ARCHIVE, body_of(data)),), message_id=str(next(_numbers))))
        assert apply(self.known, codec.decode(self.everything[-1].body, seq=seq, subject=events.ARCHIVE))

    async def seal(self, through_seq: int) -> SegmentSealed:
        first = self.known.sealed_through
        sealed, file = segments.pack(self.everything[first:through_seq], self.known.chain_head)
        self.folder.mkdir(exist_ok=True)
        (self.folder / segments.name(sealed.first_seq)).write_bytes(file)
        await self.say(sealed)
        return sealed

    async def prune(self, through_seq: int) -> None:
        below = {}
        for subject in archive_events.PRUNABLE:
            last = max((one.seq for one in self.everything if one.subject == subject), default=0)
            below[subject] = min(through_seq + 1, last)
        await self.say(LogPruned(through_seq=through_seq, below=below, reason="age"))
        for subject, below_seq in below.items():
            await self.bus.purge("EVENTS", subject, below_seq)

    async def read(self, from_seq: int = 1) -> list[Stored]:
        found: list[Stored] = []
        last = self.everything[-1].seq
        if from_seq > last:
            return found
        async for chunk in self.archived.read("EVENTS", from_seq):
            assert not chunk or chunk[-1].batch_end
            found += chunk
            if found and found[-1].seq >= last:
                return found
        raise AssertionError


async def typical(log: Log) -> None:
    """Twelve messages, of which ten are sealed and six of those pruned; evt.catalog and evt.host stay among them."""
    for batch in (
        ("evt.catalog",), ("evt.request",), ("evt.dispatch", "evt.dispatch"), ("evt.result",), ("evt.host",),
        ("evt.request", "evt.catalog", "evt.dispatch"), ("evt.result",), ("evt.request",), ("evt.dispatch",),
    ):
        await log.add(*batch)
    await log.seal(6)
    await log.seal(10)
    await log.prune(10)


def run(tmp_path, scenario) -> None:
    async def main() -> None:
        log = Log(tmp_path / "archive")
        async with asyncio.timeout(30):
            await scenario(log)

    asyncio.run(main())


def test_reading_from_anywhere_gives_every_message_once_and_as_it_was_stored(tmp_path):
    async def scenario(log):
        await typical(log)
        assert len(log.broker.store.streams["EVENTS"].messages) < len(log.everything)
        for from_seq in range(1, len(log.everything) + 1):
            assert await log.read(from_seq) == log.everything[from_seq - 1 :]
            for count in (1, 2, 5, 100):
                found = await log.archived.get_range("EVENTS", from_seq, count)
                assert found == log.everything[from_seq - 1 :][:count]
            assert await log.archived.get("EVENTS", from_seq) == log.everything[from_seq - 1]

    run(tmp_path, scenario)


def test_a_range_of_one_subject_crosses_the_boundary(tmp_path):
    async def scenario(log):
        await typical(log)
        for subject in (*events.SUBJECTS, "evt.*", "evt.>"):
            wanted = [s for s in log.everything if subject in (s.subject, "evt.*", "evt.>")]
            for from_seq in (1, 3, 7, 11):
                for count in (1, 2, 100):
                    found = await log.archived.get_range("EVENTS", from_seq, count, subject)
                    assert found == [s for s in wanted if s.seq >= from_seq][:count]

    run(tmp_path, scenario)


def test_a_time_leads_to_the_message_stored_then_also_when_it_was_pruned(tmp_path):
    async def scenario(log):
        await typical(log)
        for stored in log.everything:
            first = next(s.seq for s in log.everything if s.time_ms >= stored.time_ms)
            assert await log.archived.seq_at("EVENTS", stored.time_ms) == first
        assert await log.archived.seq_at("EVENTS", log.everything[-1].time_ms + 1) == len(log.everything) + 1
        assert await log.archived.seq_at("EVENTS", 0) == 1

    run(tmp_path, scenario)


def test_the_log_always_begins_at_one_and_what_never_was_is_not_found(tmp_path):
    async def scenario(log):
        await log.add("evt.request")
        await log.add("evt.dispatch")
        await log.seal(2)
        await log.add("evt.request")
        await log.prune(2)
        assert (await log.bus.state("EVENTS")).first_seq == 2
        assert (await log.archived.state("EVENTS")).first_seq == 1
        with pytest.raises(NotFound):
            await log.archived.get("EVENTS", 99)
        with pytest.raises(NotFound):
            await log.archived.get("EVENTS", 0)

    run(tmp_path, scenario)


def test_the_first_chunk_of_an_empty_log_is_empty_and_a_pruned_one_never_claims_to_be(tmp_path):
    async def scenario(log):
        async for chunk in log.archived.read("EVENTS", 1):
            assert chunk == []
            break
        await typical(log)
        async for chunk in log.archived.read("EVENTS", 1):
            assert chunk[0].seq == 1
            break
        async for chunk in log.archived.read("EVENTS", len(log.everything) + 1):
            assert chunk == []
            break

    run(tmp_path, scenario)


@pytest.mark.parametrize("seed", range(20))
def test_a_reader_misses_and_repeats_nothing_while_the_log_is_written_sealed_and_pruned(tmp_path, seed):
    chance = random.Random(seed)

    async def write(log: Log) -> None:
        for _ in range(120):
            await log.add(*chance.choices([*archive_events.PRUNABLE, events.HOST], k=chance.choice((1, 1, 1, 4))))
            if chance.random() < 0.2 and log.everything[-1].seq > log.known.sealed_through:
                await log.seal(log.everything[-1].seq)
            ends = [one.last_seq for one in log.known.sealed if one.last_seq > log.known.pruned_through]
            if ends and chance.random() < 0.3:
                await log.prune(chance.choice(ends))
            for _ in range(chance.choice((0, 0, 1, 30))):
                await asyncio.sleep(0)
        await log.add(events.CATALOG)

    async def scenario(log):
        writing = asyncio.create_task(write(log))
        found: list[Stored] = []
        async for chunk in log.archived.read("EVENTS", 1):
            found += chunk
            if found and found[-1].subject == events.CATALOG:
                break
            for _ in range(chance.choice((0, 1, 20))):
                await asyncio.sleep(0)
        await writing
        assert found == log.everything
        assert log.known.pruned_through > 0

        async def ranged(subject: str) -> list[Stored]:
            got: list[Stored] = []
            while page := await log.archived.get_range("EVENTS", got[-1].seq + 1 if got else 1, 7, subject):
                got += page
            return got

        assert await ranged("") == log.everything
        assert await ranged("evt.result") == [s for s in log.everything if s.subject == "evt.result"]

    run(tmp_path, scenario)


def test_a_missing_segment_is_an_error_that_names_it_and_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_shell, "ASK_AGAIN_SECONDS", 0.0)

    async def scenario(log):
        await typical(log)
        (log.folder / segments.name(7)).unlink()
        for ask in (log.archived.get("EVENTS", 9), log.archived.get_range("EVENTS", 5, 9), log.read(1)):
            with pytest.raises(ArchiveMissing, match=r"sequences 7 to 10 .*keeper\.archive_path"):
                await ask

    run(tmp_path, scenario)


def test_a_damaged_segment_is_refused_and_named(tmp_path):
    async def scenario(log):
        await typical(log)
        path = log.folder / segments.name(1)
        file = bytearray(path.read_bytes())
        file[-20] ^= 1
        path.write_bytes(file)
        with pytest.raises(ArchiveMissing, match=r"0000000000000001\.segment is damaged.*archive verify"):
            await log.read(1)

    run(tmp_path, scenario)


def test_what_nobody_has_any_more_is_unreadable_for_every_reader_and_no_hole(tmp_path):
    async def scenario(log):
        await typical(log)
        log.broker.store.streams["EVENTS"].remove(11)
        wanted = [unreadable(11) if one.seq == 11 else one for one in log.everything]
        assert await log.read(1) == wanted
        assert await log.read(11) == wanted[10:]
        assert await log.archived.get_range("EVENTS", 10, 100) == wanted[9:]
        with pytest.raises(NotFound):
            await log.archived.get("EVENTS", 11)
        with pytest.raises(segments.Damaged, match="cannot read sequence 11"):
            segments.pack(wanted[10:], log.known.chain_head)

    run(tmp_path, scenario)


def test_what_the_bus_has_lost_is_read_from_the_archive_when_it_was_sealed_before(tmp_path):
    async def scenario(log):
        for _ in range(6):
            await log.add("evt.request", "evt.host")
        await log.seal(8)
        for seq in (3, 4, 7):
            log.broker.store.streams["EVENTS"].remove(seq)
        for from_seq in (1, 3, 4, 5, 7, 8):
            assert await log.read(from_seq) == log.everything[from_seq - 1 :]
            assert await log.archived.get_range("EVENTS", from_seq, 50) == log.everything[from_seq - 1 :]
        assert await log.archived.get("EVENTS", 7) == log.everything[6]

    run(tmp_path, scenario)


def test_a_service_without_the_folder_asks_the_keeper_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_shell, "CHUNK_BYTES", 100)

    async def scenario(log):
        await typical(log)
        far = ArchivedBus(MemoryBus(log.broker), tmp_path / "nowhere")
        asked = []

        async def give(_subject, body, reply):
            asked.append(body)
            await log.bus.publish(reply, chunk_of(log.folder, body))

        await log.bus.subscribe(subjects.ask("keeper", "segment"), give, queue="keeper")
        assert await far.get_range("EVENTS", 1, 100) == log.everything
        assert len(asked) > 4

    run(tmp_path, scenario)


def test_a_keeper_that_gives_other_bytes_is_not_believed(tmp_path):
    async def scenario(log):
        await typical(log)
        far = ArchivedBus(MemoryBus(log.broker), tmp_path / "nowhere")

        async def lie(_subject, _body, reply):
            _, file = segments.pack([log.everything[0]], chain.START)
            await log.bus.publish(reply, b"+" + file)

        await log.bus.subscribe(subjects.ask("keeper", "segment"), lie)
        with pytest.raises(ArchiveMissing, match="damaged"):
            await far.get("EVENTS", 2)

    run(tmp_path, scenario)


@pytest.mark.parametrize("body", [b"", b"nonsense", b'{"first_seq":-5}', b'{"first_seq":1,"offset":-1}', b'{"first_seq":99999999999999999999}'])
def test_a_strange_question_to_the_keeper_gets_an_answer(tmp_path, body):
    assert chunk_of(tmp_path, body)[:1] == b"-"


class Damaged(MemoryBus):
    """Gives what stands for an unreadable message where the disk lost one, as a bus whose every copy lacks it does."""

    async def read(self, stream, from_seq, *, ahead=True):
        async for chunk in super().read(stream, from_seq):
            present = {stored.seq: stored for stored in chunk}
            yield [present.get(seq, unreadable(seq)) for seq in range(chunk[0].seq, chunk[-1].seq + 1)] if chunk else chunk


def test_what_a_bus_says_is_unreadable_is_read_from_the_archive_when_it_was_sealed(tmp_path):
    async def scenario(log):
        for _ in range(5):
            await log.add("evt.request", "evt.host")
        await log.seal(6)
        for seq in (3, 9):
            log.broker.store.streams["EVENTS"].remove(seq)
        log.archived = ArchivedBus(Damaged(log.broker), log.folder)
        assert await log.read(1) == [unreadable(9) if one.seq == 9 else one for one in log.everything]

    run(tmp_path, scenario)


class Away(MemoryBus):
    """Does not answer what is asked of it the first times."""

    silent = 3

    async def get_last(self, stream, subject):
        if self.silent:
            self.silent -= 1
            raise NoAnswer("the bus is away")
        return await super().get_last(stream, subject)


def test_a_follower_waits_for_a_bus_that_is_away(tmp_path, monkeypatch):
    monkeypatch.setattr(archived_shell, "RETRY_SECONDS", 0.0)

    async def scenario(log):
        await typical(log)
        bus = Away(log.broker)
        log.archived = ArchivedBus(bus, log.folder)
        assert await log.read(1) == log.everything
        assert bus.silent == 0

    run(tmp_path, scenario)
