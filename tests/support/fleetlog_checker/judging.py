"""The verdict: compare what commands wrote with what fleetlog says of every attempt, and with what writers were told.

Each rule is one function over one history and yields violations with their evidence. Lines are the judge: they were
written by the commands themselves. An attempt is classed by its lines alone, but for one case: no line is `unknown`
rather than `never` where the process may have been ended before it could write.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from enum import StrEnum

import msgspec

from fleetlog_checker.history import History, Submission, Trouble
from fleetlog_schemas.codec import parse_rfc3339
from fleetlog_schemas.view import AttemptView, CommandView, TaskView

CLOSE_MS = 2_000
"""A fault this near to an attempt's life in the log may have hit it: a push is under way, a report comes later."""


class Ran(StrEnum):
    """How often an attempt ran, by its lines."""

    ONCE = "once"
    TWICE = "twice"
    NEVER = "never"
    UNKNOWN = "unknown"


class Violation(msgspec.Struct, frozen=True):
    """One promise that was broken, and what shows it."""

    rule: str
    text: str
    task_id: str = ""
    host: str = ""
    attempt: int = 0
    lines: tuple[str, ...] = ()
    events: tuple[str, ...] = ()


class Verdict(msgspec.Struct):
    """What came of a history."""

    violations: list[Violation] = []
    classes: dict[str, dict[str, int]] = {}
    """Outcome to class to how many attempts."""
    submissions: dict[str, int] = {}
    """What became of submissions: acknowledged, refused, and of those without an answer how many were stored."""


class _Books:
    """A history, and what is looked up in it again and again."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.lines = Counter(history.lines)
        self.by_task: dict[str, list[str]] = defaultdict(list)
        for line in history.lines:
            self.by_task[line.partition(" ")[0]].append(line)
        self.asked = {task_id: one for one in history.submissions for task_id in one.task_ids}
        self.holder_kills = [one for one in history.troubles if one.kind == "holder" and one.fault == "kill"]

    def violation(self, rule: str, text: str, task_id: str, command: CommandView | None = None, attempt: int = 0) -> Violation:
        marks = " ".join([task_id, *([command.host_id] if command else []), *([str(attempt)] if attempt else [])])
        return Violation(
            rule=rule, text=text, task_id=task_id, host=command.host if command else "", attempt=attempt,
            lines=tuple(line for line in self.by_task[task_id] if line.startswith(marks)),
            events=tuple(self.history.events.get(task_id, ())),
        )

    def killed_under(self, command: CommandView, attempt: AttemptView) -> Trouble | None:
        """Return the kill of this host's holder that may have ended the attempt, if there was one."""
        begins = parse_rfc3339(attempt.dispatched_at) - CLOSE_MS if attempt.dispatched_at else 0
        ends = _end_ms(attempt) + CLOSE_MS
        return next(
            (one for one in self.holder_kills if one.host_id == command.host_id and begins <= one.began_ms <= ends), None
        )

    def ran(self, task_id: str, command: CommandView, attempt: AttemptView) -> Ran:
        """Class one attempt."""
        name = f"{task_id} {command.host_id} {attempt.number}"
        began, ended = self.lines[f"{name} began"], self.lines[f"{name} ended"]
        if max(began, ended) > 1:
            return Ran.TWICE
        if began or ended:
            return Ran.ONCE
        cut_short = attempt.outcome in ("timeout", "cancelled") and attempt.ran != "no"
        return Ran.UNKNOWN if cut_short or self.killed_under(command, attempt) else Ran.NEVER


def _end_ms(attempt: AttemptView) -> int:
    return parse_rfc3339(attempt.ended_at) if attempt.ended_at else 1 << 62


def judge(history: History) -> Verdict:
    """Return the verdict on *history*."""
    books = _Books(history)
    verdict = Verdict()
    for rule in (_stored, _whole, _attempts, _unaccounted, _retries, _one_at_a_time, _readers, _log, _alerts):
        verdict.violations += rule(books)
    for task in history.tasks.values():
        for command in task.commands:
            for attempt in command.attempts:
                row = verdict.classes.setdefault(attempt.outcome or "open", {})
                ran = books.ran(task.task_id, command, attempt).value
                row[ran] = row.get(ran, 0) + 1
    verdict.submissions = dict(Counter(_fate(one, history) for one in history.submissions))
    return verdict


def _fate(one: Submission, history: History) -> str:
    stored = any(task_id in history.tasks for task_id in one.task_ids)
    if one.acknowledged:
        return "acknowledged"
    if one.surely_absent:
        return "not stored"
    return "unknown, stored" if stored else "unknown, absent"


def _stored(books: _Books) -> Iterator[Violation]:
    """What was acknowledged is in the log, what was refused is not, and what nobody submitted is not either."""
    tasks = books.history.tasks
    for one in books.history.submissions:
        there = [task_id for task_id in one.task_ids if task_id in tasks]
        absent = [task_id for task_id in one.task_ids if task_id not in tasks]
        said = "; ".join(f"{answer.gateway}: {answer.said} ({answer.text})" for answer in one.answers)
        if one.acknowledged and absent:
            yield books.violation("acknowledged", f"was acknowledged and is not in the log [{said}]", absent[0])
        elif one.surely_absent and there:
            yield books.violation("refused", f"every answer said that nothing was stored, and it is in the log [{said}]", there[0])
        elif there and absent:
            yield books.violation("together", f"was submitted with {there[0]}, which is in the log, and is not [{said}]", absent[0])
        for task_id in absent:
            if books.by_task[task_id]:
                yield books.violation("absent", "is not in the log, and ran", task_id)
    for task_id in tasks:
        if task_id not in books.asked:
            yield books.violation("invented", "is in the log, and nobody submitted it", task_id)


def _whole(books: _Books) -> Iterator[Violation]:
    """Every task of the log is planned on the hosts that were asked for, and over."""
    for task in books.history.tasks.values():
        if task.state != "ended":
            yield books.violation("open", f"is {task.state} after the end: {task.counts}{task.refusal or ''}", task.task_id)
        for command in task.commands:
            if command.state != "ended":
                yield books.violation("open", f"its command is {command.state} after the end", task.task_id, command)
        asked = books.asked.get(task.task_id)
        wanted = set(asked.spec.target.split(",")) if asked else set()
        if asked and task.state == "ended" and wanted != {command.host for command in task.commands}:
            yield books.violation("plan", f"was to run on {sorted(wanted)} and was planned on others", task.task_id)


def _attempts(books: _Books) -> Iterator[Violation]:
    """What is said of an attempt is what its lines say."""
    for task in books.history.tasks.values():
        asked = books.asked.get(task.task_id)
        for command in task.commands:
            for attempt in command.attempts:
                wrong = _wrong(books, task, command, attempt, asked)
                if wrong:
                    yield books.violation("outcome", wrong, task.task_id, command, attempt.number)


def _wrong(books: _Books, task: TaskView, command: CommandView, attempt: AttemptView, asked: Submission | None) -> str:
    """Return what is wrong with what is said of an attempt; nothing when it is right."""
    name = f"{task.task_id} {command.host_id} {attempt.number}"
    ran = books.ran(task.task_id, command, attempt)
    complete = (books.lines[f"{name} began"], books.lines[f"{name} ended"]) == (1, 1)
    said = f"is said to be {attempt.outcome} (ran: {attempt.ran})"
    if ran is Ran.TWICE:
        return f"ran twice; it {said}"
    if attempt.ran == "no" and ran is not Ran.NEVER and ran is not Ran.UNKNOWN:
        return f"{said}, and it ran"
    match attempt.outcome:
        case "success" | "failure":
            code = 0 if attempt.outcome == "success" else asked.exit_code if asked else attempt.exit_code
            if not complete:
                return f"{said}, and did not run to its end"
            if attempt.exit_code != code:
                return f"{said} with exit code {attempt.exit_code}, it left with {code}"
            return "" if not asked or attempt.tail == asked.output else f"{said}, and its output ends with {attempt.tail!r}"
        case "unreached":
            return "" if ran is Ran.NEVER or ran is Ran.UNKNOWN else f"{said}, and it ran"
        case "lost":
            return "" if books.killed_under(command, attempt) else f"{said}, and no holder was killed under it"
        case "cancelled":
            return "" if asked and asked.cancel_asked else f"{said}, and nobody asked for that"
        case "timeout":
            brief = asked is not None and asked.spec.timeout_ms < 60_000
            return "" if brief and not complete else f"{said}, and it had the time to run to its end"
        case None:
            return "" if task.state != "ended" else f"{said}, and its task has ended"
    return f"{said} ({attempt.error}): nothing here may end so"


def _unaccounted(books: _Books) -> Iterator[Violation]:
    """Nothing ran that no attempt in the log accounts for."""
    known = {
        f"{task.task_id} {command.host_id} {attempt.number}"
        for task in books.history.tasks.values() for command in task.commands for attempt in command.attempts
    }
    for line in books.lines:
        name = line.rpartition(" ")[0]
        if name not in known and line.partition(" ")[0] in books.history.tasks:
            task_id, host_id, attempt = (*name.split(" "), "", "")[:3]
            command = next((one for one in books.history.tasks[task_id].commands if one.host_id == host_id), None)
            number = int(attempt) if attempt.isdigit() else 0
            yield books.violation("unaccounted", f"wrote {line!r}, and the log has no such attempt", task_id, command, number)


def _retries(books: _Books) -> Iterator[Violation]:
    """There is a further attempt only where one was asked for, after an outcome that was named for it."""
    for task in books.history.tasks.values():
        retry = task.spec.retry
        for command in task.commands:
            if [one.number for one in command.attempts] != list(range(1, len(command.attempts) + 1)):
                yield books.violation("retry", f"its attempts are {[one.number for one in command.attempts]}", task.task_id, command)
            if len(command.attempts) > retry.attempts_max:
                yield books.violation("retry", f"has more attempts than {retry.attempts_max}", task.task_id, command)
            for before in command.attempts[:-1]:
                if before.outcome not in [outcome.value for outcome in retry.on]:
                    text = f"was tried again after {before.outcome}, which nobody asked for"
                    yield books.violation("retry", text, task.task_id, command, before.number)


def _one_at_a_time(books: _Books) -> Iterator[Violation]:
    """An attempt begins after the one before it has written its last line."""
    place = {line: number for number, line in enumerate(books.history.lines)}
    for task in books.history.tasks.values():
        for command in task.commands:
            for attempt in command.attempts[1:]:
                name = f"{task.task_id} {command.host_id}"
                begins = place.get(f"{name} {attempt.number} began")
                ended = place.get(f"{name} {attempt.number - 1} ended")
                if begins is not None and ended is not None and begins < ended:
                    yield books.violation("one at a time", "began before the one before it ended", task.task_id, command, attempt.number)


def _readers(books: _Books) -> Iterator[Violation]:
    """Every reader shows what the log gives, byte for byte, and its projection is what the log gives."""
    for reader in books.history.readers:
        if reader.verified:
            yield Violation(rule="projection", text=f"{reader.name}: the projection is not what the log gives: {reader.verified}")
        for task_id, shown in reader.shown.items():
            task = books.history.tasks.get(task_id)
            if shown != (msgspec.json.encode(task) if task else b""):
                what = "shows something else than the log gives" if task and shown else "knows it" if shown else "does not know it"
                yield books.violation("readers", f"{reader.name} {what}", task_id)


def _alerts(books: _Books) -> Iterator[Violation]:
    """No honest host is refused, and nothing that it reports is."""
    for text in books.history.alerts:
        yield Violation(rule="alert", text=text)


def _log(books: _Books) -> Iterator[Violation]:
    """What stood in the log once stands there for ever, and who follows it hears all of it, in order, once."""
    for text in books.history.rewritten:
        yield Violation(rule="log", text=text)
    for text in books.history.followed:
        yield Violation(rule="feed", text=text)
