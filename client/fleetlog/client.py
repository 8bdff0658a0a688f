"""The Python client: submit a task, wait for its end, look at it. The command line is built on it.

>>> client = fleetlog.Client("http://127.0.0.1:8470", token)
>>> task_id = client.submit(TaskSpec(payload=Shell(argv=("uptime",)), target="web*"))
>>> client.wait(task_id).outcome
'success'
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, Unpack, overload

import msgspec

from fleetlog.exits import CliError, Exit, NotEnded
from fleetlog.follow import Fold, StoredRaw, decode_stored
from fleetlog.functions import Handle, Options, Submitter, batches
from fleetlog.http import Gateway, GatewayError, segment
from fleetlog.place import Place
from fleetlog.sse import Feed, Item
from fleetlog.tasks import Task
from fleetlog_schemas.ids import new_id
from fleetlog_schemas.spec import Blob, TaskSpec
from fleetlog_schemas.view import TaskView, task_view

P = ParamSpec("P")
R = TypeVar("R")
SUBMIT_TRIES_MAX = 3
"""A submission without an answer is repeated with the same id, which the log takes once."""
SUBMIT_PAUSE_S = 0.5
ID_LENGTH = 36
"""Characters of a full id."""
LOG_PAGE = 500
"""Events asked for at once when the log is read."""


class TaskAnswer(msgspec.Struct, frozen=True):
    """A task, and the log sequence that the answer reflects."""

    seq: int
    data: TaskView


class _LogPage(msgspec.Struct, frozen=True):
    items: list[StoredRaw]
    next_seq: int | None


class _LogAnswer(msgspec.Struct, frozen=True):
    seq: int
    data: _LogPage


_decode_task = msgspec.json.Decoder(TaskAnswer).decode
_decode_log = msgspec.json.Decoder(_LogAnswer).decode


class Client:
    """A client of one gateway. Not for several threads."""

    def __init__(self, url: str, token: str, ca: str | None = None) -> None:
        self.gateway = Gateway(url, token, Path(ca) if ca else None)

    @classmethod
    def over(cls, gateway: Gateway) -> Client:
        """Return a client that uses an existing connection."""
        client = cls.__new__(cls)
        client.gateway = gateway
        return client

    def put_blob(self, content: bytes, name: str = "") -> Blob:
        """Store content (a script, stdin, the environment) and return the reference that a task carries."""
        answer = self.gateway.post("/blobs", content)
        return Blob(sha256=answer["sha256"], size=answer["size"], name=name)

    @classmethod
    def here(cls) -> Client:
        """Return a client of the gateway that FLEETLOG_URL and FLEETLOG_TOKEN name, or else the data folder.

        Raises:
            CliError: nothing says where it is.
        """
        place = Place(None, None)
        return cls(place.url, place.token, str(place.ca) if place.ca else None)

    @overload
    def submit(self, what: TaskSpec, task_id: str = "") -> str: ...
    @overload
    def submit(self, what: str, *args: Any, **kwargs: Any) -> Handle[Any]: ...
    @overload
    def submit(self, what: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> Handle[R]: ...
    def submit(self, what: Any, *args: Any, **kwargs: Any) -> Any:
        """Submit a task and return its id; or, with a function (or its name) and its arguments, its handle.

        Such a task goes to any one host that offers the function; `function` takes options.

        Raises:
            WrongArguments: they do not fit the function; nothing was sent.
            CliError: the gateway refused it, or could not be reached.
        """
        if not isinstance(what, TaskSpec):
            return Submitter(what, {}, self).submit(*args, **kwargs)
        (task_id,) = args or (kwargs.get("task_id", ""),)
        return self._submit("/tasks", msgspec.to_builtins(what), task_id or new_task_id())

    def function(self, name: str, /, **options: Unpack[Options]) -> Submitter[..., Any]:
        """Return a function, known by its name only, to be submitted with *options*: `.submit(...)`, `.submit_many([...])`.

        Raises:
            TypeError: there is no such option.
        """
        return Submitter(name, options, self)

    def submit_many(
        self, what: str | Task[..., R], calls: Iterable[Sequence[Any] | Mapping[str, Any]], /, **options: Unpack[Options]
    ) -> list[Handle[R]]:
        """Submit one task of a function for each tuple of arguments by position, or dict of arguments by name.

        Raises:
            WrongArguments: they do not fit the function; nothing was sent.
            CliError: the gateway refused them, or could not be reached. Of each 10,000 all were taken or none.
        """
        return Submitter(what, options, self).submit_many(calls)

    def submitted(self, specs: Iterable[TaskSpec]) -> Iterator[list[str]]:
        """Submit many tasks, and yield the ids of each request's as soon as they are stored. Raises CliError."""
        for ids, body in batches((new_task_id(), spec) for spec in specs):
            self._repeat(lambda body=body: self.gateway.post("/tasks/batch", body, Content_Type="application/json"))  # type: ignore[misc]
            yield ids

    def run(
        self, name: str, parameters: Mapping[str, Any] | None = None, *, target: str = "", narrow: str = "", version: int = 0,
        plan_hash: str = "", task_id: str = "",
    ) -> str:
        """Run a definition and return the task's id; without a version, the present one.

        Raises:
            CliError: the gateway refused it, or could not be reached.
        """
        body = {"parameters": dict(parameters or {}), "target": target, "narrow": narrow, "version": version,
                "plan_hash": plan_hash}
        return self._submit(f"/definitions/{segment(name)}/tasks", body, task_id or new_task_id())

    def _submit(self, path: str, body: Any, task_id: str) -> str:
        """Send what becomes a task, again when there is no answer, and return its id."""
        return str(self._repeat(lambda: self.gateway.post(path, body, Idempotency_Key=task_id))["task_id"])

    def _repeat(self, send: Callable[[], Any]) -> Any:
        """Send what carries ids of its own, again when there is no answer."""
        for attempt in range(1, SUBMIT_TRIES_MAX + 1):
            try:
                return send()
            except CliError as error:
                unsettled = isinstance(error, GatewayError) and error.status in (503, 504)
                if not unsettled or attempt == SUBMIT_TRIES_MAX:
                    raise
                time.sleep(SUBMIT_PAUSE_S)
        raise AssertionError("unreachable")

    def show(self, task_id: str, as_of: str = "") -> TaskView:
        """Return everything about a task: its id, the last characters of its id (at least 6), or `last`."""
        body = self.gateway.get_bytes(f"/tasks/{segment(task_id)}", as_of=as_of)
        return read_answer(body).data

    def resolve(self, identifier: str) -> str:
        """Return the full id of a task from its id, the end of its id, or `last`.

        Without the reporter a full id is taken as it is: the log can still be followed.

        Raises:
            CliError: there is no such task.
        """
        try:
            return str(self.gateway.get(f"/tasks/{segment(identifier)}/progress")["data"]["task_id"])
        except CliError as error:
            if error.code is Exit.UNREACHABLE and isinstance(error, GatewayError) and len(identifier) == ID_LENGTH:
                return identifier
            raise

    def wait(self, task_id: str, timeout_s: float | None = None) -> TaskView:
        """Return the task when it has ended or was refused.

        Raises:
            NotEnded: `timeout_s` is over; it is a TimeoutError (and a CliError, code WAITED). The task goes on.
            CliError: there is no such task, or the gateway stayed away.
        """
        task_id = self.resolve(task_id)
        fold = Fold(task_id)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        feed = Feed(self.gateway, f"/tasks/{segment(task_id)}/events")
        try:
            while not fold.over:
                left_s = 60.0 if deadline is None else deadline - time.monotonic()
                if left_s <= 0:
                    raise NotEnded(Exit.WAITED, f"task {task_id} has not ended in {timeout_s:g} s; it goes on")
                item = feed.take(left_s)
                if isinstance(item, Item) and item.event != "reset":
                    fold.feed(decode_stored(item.data))
        finally:
            feed.close()
        assert fold.task is not None
        return task_view(fold.task)

    def replay(self, task_id: str) -> Fold:
        """Read the log from the time that the id carries to its end, and return the folded task.

        Raises:
            CliError: the log has no such task.
        """
        fold = Fold(task_id)
        for stored in self.read_log(task_id=task_id):
            fold.feed(stored)
        if fold.task is None:
            raise CliError(Exit.NOT_FOUND, f"the log has no task {task_id}")
        return fold

    def read_log(self, *, task_id: str = "", from_seq: int = 0, before_seq: int = 0) -> Iterator[StoredRaw]:
        """Yield stored events from *from_seq* (or the time that *task_id* carries) to the end of the log.

        With *task_id* only those that touch this task; with *before_seq* only those below it.
        """
        next_seq: int | None = from_seq
        while next_seq is not None and (not before_seq or next_seq < before_seq):
            page = _decode_log(self.gateway.get_bytes("/log", task_id=task_id, from_seq=next_seq, limit=LOG_PAGE)).data
            for stored in page.items:
                if before_seq and stored.seq >= before_seq:
                    return
                yield stored
            next_seq = page.next_seq

    def resolve_in_log(self, identifier: str) -> str:
        """Return the full id for `last` or the end of an id, by reading the log backwards.

        Raises:
            CliError: nothing fits.
        """
        high = int(self.gateway.get("/log", limit=1)["seq"]) + 1
        while high > 1:
            low = max(1, high - LOG_PAGE)
            newest = ""
            for stored in self.read_log(from_seq=low, before_seq=high):
                newest = _submitted_in(stored, identifier) or newest
            if newest:
                return newest
            high = low
        raise CliError(Exit.NOT_FOUND, f"the log has no task {identifier}")


class _SubmittedHead(msgspec.Struct, frozen=True):
    task_id: str


class _SubmittedTasks(msgspec.Struct, frozen=True):
    tasks: list[_SubmittedHead] = []


class _SubmittedEvent(msgspec.Struct, frozen=True):
    type: str
    data: _SubmittedTasks


def _submitted_in(stored: StoredRaw, identifier: str) -> str:
    """Return the last task submitted by this event that *identifier* means, or an empty text."""
    if stored.subject != "evt.request":
        return ""
    try:
        event = msgspec.json.decode(stored.event, type=_SubmittedEvent)
    except msgspec.MsgspecError:
        return ""  # not an event that any reader can use
    for head in reversed(event.data.tasks):
        if identifier == "last" or head.task_id.endswith(identifier):
            return head.task_id
    return ""


def read_answer(body: bytes) -> TaskAnswer:
    """Return the task in the body of an answer.

    Raises:
        CliError: this is not the answer of a gateway of this version.
    """
    try:
        return _decode_task(body)
    except msgspec.MsgspecError as error:
        raise CliError(
            Exit.INTERNAL, f"the gateway's answer does not fit this version of fleetlog: {error}",
            "install the version that `fleetlog version` shows for the gateway",
        ) from None


def new_task_id() -> str:
    """Return a new task id of now."""
    return new_id(time.time_ns() // 1_000_000, os.urandom(10))
