"""The desk: takes a question off the bus, finds the moment it is about, and sends back one answer.

Whatever is asked, there is an answer: the data with the sequence it reflects, or a problem that says what to do.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import duckdb
import msgspec
import structlog

from fleetlog_reporter.answers import past
from fleetlog_reporter.answers.sql_files import question_sql
from fleetlog_reporter.apply import Projector
from fleetlog_reporter.follow import Follower
from fleetlog_reporter.made import Exports
from fleetlog_reporter.readers import HOSTS, Moment, Readers, moment_of
from fleetlog_reporter.store import Damaged
from fleetlog_runtime.pure.bus import Bus
from fleetlog_runtime.pure.bus import NoAnswer as BusSilent
from fleetlog_schemas import questions
from fleetlog_schemas.records import Task
from fleetlog_schemas.view import TaskView

T = TypeVar("T")

BEHIND_SECONDS_MAX = 5.0
"""How long a question waits for a sequence: a person waits no longer, and a program asks again."""
QUESTIONS_MAX = 64
"""Questions answered at once; more are told to come again."""
FEW_COMMANDS = 50
"""An answer about a task with no more is made on the event loop, in less time than a thread takes to be woken."""
NUMBER_MAX = 2**53
"""Largest number in a question: what every JSON reader keeps exactly; sequences and times are far below."""
Number = Annotated[int, msgspec.Meta(ge=0, le=NUMBER_MAX)]
TEXT_MAX = 300
"""Characters of a text that was sent and is quoted back."""


class NoAnswer(Exception):
    """A question that cannot be answered, and why."""

    def __init__(self, status: int, code: str, message: str, pointer: str = "") -> None:
        super().__init__(message)
        self.problem = questions.Problem(status=status, code=code, message=message, pointer=pointer)


class Pasts(msgspec.Struct, frozen=True):
    """A position that a question about the past is about."""

    seq: int
    time_ms: int


Handler = Callable[["Desk", Any], Awaitable[tuple[int, Any]]]


class Desk:
    """Everything that answers need."""

    def __init__(
        self, bus: Bus, follower: Follower, readers: Readers, folder: Path, now_ms: Callable[[], int],
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        """Answer from what *follower* folds and *readers* show; *folder* takes temporary files."""
        self.bus, self.follower, self.readers, self.folder, self.now_ms = bus, follower, readers, folder, now_ms
        self.damaged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Gets Damaged when a question found the file broken."""
        self.exports = Exports(folder, asyncio.get_running_loop().time)
        self.medians: dict[str, float | None] = {}
        """Seconds that earlier commands of the same payload took, by task id: asked once for each open task."""
        self._log = log
        self._verifying = asyncio.Lock()
        self._open = 0

    @property
    def projector(self) -> Projector:
        """The fold as it stands now."""
        return self.follower.projector

    @property
    def verifying(self) -> asyncio.Lock:
        """Held while the projection is verified: one at a time."""
        return self._verifying

    async def answer(self, kind: type[msgspec.Struct], handler: Handler, body: bytes) -> bytes:
        """Return the answer to the question of *body*, as it goes over the bus."""
        try:
            if self._open >= QUESTIONS_MAX:
                raise NoAnswer(503, "busy", f"{QUESTIONS_MAX} questions are being answered: ask again")
            self._open += 1
            try:
                await self.follower.current()
                seq, data = await handler(self, _decode(kind, body))
            finally:
                self._open -= 1
            answer = questions.Answer(seq=seq, data=data)
            if isinstance(data, TaskView) and len(data.commands) <= FEW_COMMANDS:
                return _pack(answer)
            return await asyncio.to_thread(_pack, answer)
        except NoAnswer as refused:
            problem = refused.problem
        except BusSilent as error:
            problem = questions.Problem(status=503, code="bus-unavailable", message=f"the bus does not answer the reporter: {error}")
        except questions.AnswerTooLarge as error:
            problem = questions.Problem(status=413, code="answer-too-large", message=str(error))
        except Damaged as error:
            if not self.damaged.done():
                self.damaged.set_exception(error)
            problem = questions.Problem(
                status=503, code="rebuilding", message="the projection's file is damaged; it is being built again from the log"
            )
        except Exception as error:  # noqa: BLE001 - not a loop: whoever asked gets an answer, and the fault is recorded
            self._log.exception("question-failed", question=kind.__name__)
            problem = questions.Problem(
                status=500, code="internal", message=f"the reporter failed to answer ({type(error).__name__}); its diagnostics say more"
            )
        return _pack(questions.Answer(seq=self.projector.position, problem=problem))

    async def wait(self, question: questions.AsOf) -> None:
        """Wait until what the question asks at least is folded. Raises NoAnswer."""
        if not await self.follower.folded(question.at_least_seq, BEHIND_SECONDS_MAX):
            raise self._behind(question.at_least_seq)

    async def wait_for_tables(self, seq: int) -> None:
        """Wait until the tables hold everything up to *seq*. Raises NoAnswer."""
        if not await self.follower.in_tables(seq, BEHIND_SECONDS_MAX):
            raise self._behind(seq)

    def _behind(self, seq: int) -> NoAnswer:
        return NoAnswer(
            504, "behind", f"the reporter has read the log up to {self.projector.position}, not yet to {seq}: ask again"
        )

    async def past(self, question: questions.AsOf) -> Pasts | None:
        """Return which past position a question is about, or None when it is about now. Raises NoAnswer."""
        if question.as_of_seq and question.as_of_ms:
            raise NoAnswer(400, "bad-query", "give either a sequence or a time, not both", "/as_of")
        if question.as_of_seq:
            if not await self.follower.folded(question.as_of_seq, BEHIND_SECONDS_MAX):
                raise self._behind(question.as_of_seq)
            await self.wait_for_tables(question.as_of_seq)
            return await self._pasts("past_by_seq.sql", question.as_of_seq)
        if question.as_of_ms:
            await self.wait_for_tables(self.projector.position)
            return await self._pasts("past_by_time.sql", question.as_of_ms)
        return None

    async def _pasts(self, name: str, value: int) -> Pasts:
        found = await self.run(lambda db: db.execute(question_sql(name), [value]).fetchone())
        seq, time_ms = found or (0, 0)
        return Pasts(seq=int(seq), time_ms=int(time_ms))

    async def moment(self, question: questions.AsOf, *needs: str) -> Moment:
        """Return the moment that a question is about, with the open rows it needs. Raises NoAnswer."""
        when = await self.past(question)
        if when is not None:
            return await self.past_moment(when, frozenset(needs))
        await self.wait(question)
        return moment_of(self.projector, self.follower.committed, frozenset(needs))

    async def past_moment(self, when: Pasts, needs: frozenset[str]) -> Moment:
        """Return a past moment: what was open then is folded again from the raw events. Raises NoAnswer."""
        projector = await self.past_fold(when, hosts_too=HOSTS in needs)
        return moment_of(projector, when.seq, needs)

    async def past_fold(self, when: Pasts, *, hosts_too: bool) -> Projector:
        """Return what was open at a past position. Raises NoAnswer when that is too much work."""
        first = min((task.submitted_seq for task in self.in_memory()), default=when.seq + 1)
        projector = await self.run(lambda db: past.fold_open(db, when.seq, first, hosts_too=hosts_too))
        if projector is None:
            raise NoAnswer(
                422, "too-far", f"more than {past.EVENTS_MAX} events belong to what was open then: ask for one task instead"
            )
        return projector

    def in_memory(self) -> list[Task]:
        """Return every task that is in memory: open, or ended and not yet in the tables."""
        return [*self.projector.tasks.by_id.values(), *(one.task for one in self.projector.closing.values())]

    async def run(self, ask: Callable[[duckdb.DuckDBPyConnection], T], moment: Moment | None = None) -> T:
        """Call *ask* with a connection that shows *moment* (any, when it matters not)."""
        shown = moment or Moment(seq=self.projector.position, committed=self.follower.committed, live={})
        return await self.readers.run(shown, ask)


def _decode(kind: type[T], body: bytes) -> T:
    try:
        question = msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NoAnswer(400, "bad-query", f"the question cannot be read: {str(error)[:TEXT_MAX]}") from None
    for name, value in msgspec.structs.asdict(cast("msgspec.Struct", question)).items():
        if isinstance(value, int) and not 0 <= value <= NUMBER_MAX:
            raise NoAnswer(400, "bad-query", f"must be between 0 and {NUMBER_MAX}", f"/{name}")
    return question


def _pack(answer: questions.Answer) -> bytes:
    return questions.pack_answer(msgspec.json.encode(answer))


def check_limit(limit: int, maximum: int = questions.PAGE_MAX) -> int:
    """Return a page's length. Raises NoAnswer when it is out of range."""
    if not 1 <= limit <= maximum:
        raise NoAnswer(400, "bad-query", f"must be between 1 and {maximum}, not {limit}", "/limit")
    return limit


def check_one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    """Return *value*, which is empty or one of *allowed*. Raises NoAnswer."""
    if value and value not in allowed:
        raise NoAnswer(400, "bad-query", f"must be one of {', '.join(allowed)}, not {value[:40]!r}", f"/{name}")
    return value


def encode_cursor(*key: int | str) -> str:
    """Return where a page ended, for the next question. Opaque to whoever gets it."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def decode_cursor(cursor: str, kind: Any) -> Any:
    """Return the key that a cursor stands for. Raises NoAnswer when it is none of ours."""
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=kind)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        raise NoAnswer(400, "bad-query", "not a cursor of this list: begin again without one", "/cursor") from None
