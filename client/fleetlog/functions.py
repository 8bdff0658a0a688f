"""Submit functions as tasks and take what they return.

>>> client = fleetlog.Client.here()
>>> handle = client.submit("resize", "a.png", width=80)
>>> handle.value(timeout_s=60)
{'width': 80, 'height': 60}

A handle belongs to one task; it asks the gateway, keeps nothing but the end, and may be made anew from the task's id.
`fleetlog.aio` has the same for programs on an event loop.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypedDict, TypeVar

import msgspec

from fleetlog.exits import CliError, Exit
from fleetlog.http import GatewayError, segment
from fleetlog.tasks import Task, WrongArguments, plain_arguments
from fleetlog_schemas.limits import TASKS_PER_SUBMIT_MAX
from fleetlog_schemas.spec import Choose, Function, Retry, TaskSpec
from fleetlog_schemas.view import HowFarView, TaskView

if TYPE_CHECKING:
    from fleetlog.client import Client

P = ParamSpec("P")
R = TypeVar("R")
ANY_HOST = "all"
"""Together with `choose`: any one host that offers the function and serves its queue."""
WRONG_ARGUMENTS = "function-arguments"
"""Code of the gateway's refusal; it stands in `fleetlog_schemas.functions` too, which programs that submit need not load."""
_IN_BATCH = re.compile(r"/tasks/(\d+)/")
BATCH_BYTES_MAX = 6 * 1024 * 1024
"""Of the tasks in one request; the gateway takes 8 MiB."""


class Options(TypedDict, total=False):
    """How a function is submitted."""

    target: str
    """On every host that this means, instead of any one host that offers the function and serves the queue."""
    queue: str
    priority: int
    """From 1 to 10."""
    timeout_s: float
    """Longest run of one attempt."""
    retries: int
    """How many more attempts when one fails, times out or cannot be run."""
    name: str
    key: str
    """What this is a run of."""
    tags: Sequence[str]
    wait_offline_s: float
    """How long to wait for a host of the target that is offline."""
    task_id: str
    """An id of `fleetlog.new_task_id()`: submitted again with the same id and arguments, it is the same task. Only for `submit`."""


OPTIONS = tuple(Options.__annotations__)


class TaskFailed(Exception):
    """A task did not end well, so it has no value. `outcome`, `error` and `traceback` say how it ended."""

    def __init__(self, task_id: str, outcome: str, error: str, traceback: str) -> None:
        super().__init__(f"task {task_id} ended as {outcome}: {error or 'no error text'}" + (f"\n\n{traceback.rstrip()}" if traceback else ""))
        self.task_id, self.outcome, self.error, self.traceback = task_id, outcome, error, traceback


class SubmittedInPart(CliError):
    """Of many tasks the first ones were submitted and run; `handles` has them, in order. The others were not, or nobody knows."""

    def __init__(self, handles: list[Handle[Any]], asked: int, error: Exception) -> None:
        code, hint = (error.code, error.hint) if isinstance(error, CliError) else (Exit.TYPED_WRONG, "")
        super().__init__(code, f"the first {len(handles)} of {asked} tasks were submitted, then: {error}", hint)
        self.handles = handles


class Handle(Generic[R]):
    """One submitted task. Like its client, not for several threads."""

    def __init__(self, client: Client, task_id: str, decode: Callable[[str], Any] = msgspec.json.decode) -> None:
        """Speak of the task *task_id*; *decode* makes a value of the JSON text that a function returned."""
        self.client, self.task_id = client, task_id
        self._decode = decode
        self.ended: TaskView | None = None
        """The task, once it is known to have ended."""

    def __repr__(self) -> str:
        return f"Handle({self.task_id!r})"

    def by(self, client: Client) -> Handle[R]:
        """Return a handle of the same task that asks by another client, for another thread."""
        other: Handle[R] = Handle(client, self.task_id, self._decode)
        other.ended = self.ended
        return other

    def wait(self, timeout_s: float | None = None) -> TaskView:
        """Return the task when it has ended.

        Raises:
            NotEnded: `timeout_s` is over; it is a TimeoutError. The task goes on.
            CliError: the gateway stayed away.
        """
        if self.ended is None:
            self.ended = self.client.wait(self.task_id, timeout_s)
        return self.ended

    def value(self, timeout_s: float | None = None) -> R:
        """Return what the function returned; wait for it.

        Of a decorated function it is of the type that its return hint says; of one known by its name, what JSON gives back.

        Raises:
            TaskFailed: it raised, or did not run.
            WrongValue: the value is not what the return hint says.
            NotEnded: `timeout_s` is over; it is a TimeoutError. The task goes on.
            CliError: it ran on several hosts (`values` has them), or the gateway stayed away.
        """
        found = list(self.values(timeout_s).values())
        if len(found) != 1:
            raise CliError(Exit.TYPED_WRONG, f"task {self.task_id} ran on {len(found)} hosts", "take them from values(), by host name")
        return found[0]

    def values(self, timeout_s: float | None = None) -> dict[str, R]:
        """Return what the function returned on each host, by host name; wait for it. Raises what `value` raises."""
        view = self.wait(timeout_s)
        values: dict[str, R] = {}
        for command in view.commands:
            last = command.attempts[-1] if command.attempts else None
            if command.outcome != "success" or last is None:
                error = (last.error if last else "") or f"on {command.host}"
                raise TaskFailed(self.task_id, str(command.outcome), error, last.traceback if last else "")
            values[command.host] = self._decode("null" if last.return_value is None else last.return_value)
        if not values:
            raise TaskFailed(self.task_id, str(view.outcome or view.state), view.refusal or "it ran nowhere", "")
        return values

    def progress(self) -> HowFarView | None:
        """Return what the function said last of its progress; nothing when it said nothing, or does not run."""
        for command in self.client.show(self.task_id).commands:
            for attempt in command.attempts:
                if attempt.progress is not None:
                    return attempt.progress
        return None

    def cancel(self, reason: str = "") -> bool:
        """Ask for the task to end; `wait` tells how it did. Return False when it had ended already."""
        try:
            self.client.gateway.post(f"/tasks/{segment(self.task_id)}/cancel", {"hosts": [], "reason": reason})
        except GatewayError as error:
            if error.code is Exit.CONFLICT:
                return False
            raise
        return True


class Submitter(Generic[P, R]):
    """A function together with how it is to be submitted."""

    def __init__(self, function: Task[P, R] | str, options: Options, client: Client | None = None) -> None:
        """Take a decorated function, or the name of one that this program does not have.

        Raises:
            TypeError: there is no such option.
        """
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown:
            raise TypeError(f"there is no option {unknown[0]!r}; there are: {', '.join(OPTIONS)}")
        self._function, self._client = function, client
        self._options: Options = options if isinstance(function, str) else {"queue": function.queue, **options}
        self._decode: Callable[[str], Any] = msgspec.json.decode if isinstance(function, str) else function.decoded

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Submit one task. Raises WrongArguments before anything is sent, CliError when it was not taken."""
        spec = self._spec(args, kwargs)
        client = self._client or client_here()
        try:
            return Handle(client, client.submit(spec, self._options.get("task_id", "")), self._decode)
        except GatewayError as error:
            raise _as_it_is(error, 0) from None

    def submit_many(self, calls: Iterable[Sequence[Any] | Mapping[str, Any]]) -> list[Handle[R]]:
        """Submit one task for each call: a tuple of arguments by position, or a dict of arguments by name.

        The arguments of a decorated function are all checked before anything is sent. Up to 10,000 tasks go with one request,
        which stores all of them or none.

        Raises:
            WrongArguments: they do not fit: the message says which call; nothing was sent.
            SubmittedInPart: a later request was not taken; it has the handles of what was. It is a CliError.
            CliError: nothing was taken.
        """
        if "task_id" in self._options:
            raise TypeError("task_id is the id of one task: use submit()")
        specs: list[TaskSpec] = []
        for number, one in enumerate(calls):
            try:
                specs.append(self._spec(*_call_of(one)))
            except WrongArguments as error:
                raise WrongArguments(f"call {number}: {error}") from None
        client = self._client or client_here()
        handles: list[Handle[R]] = []
        try:
            for task_ids in client.submitted(specs):
                handles += [Handle(client, task_id, self._decode) for task_id in task_ids]
        except CliError as error:
            known = _as_it_is(error, len(handles)) if isinstance(error, GatewayError) else error
            if handles:
                raise SubmittedInPart(handles, len(specs), known) from None
            raise known from None
        return handles

    def _spec(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskSpec:
        if isinstance(self._function, str):
            return function_spec(self._function, *plain_arguments(self._function, args, kwargs), self._options)
        return function_spec(self._function.name, *self._function.plain(args, kwargs), self._options)


def _as_it_is(error: GatewayError, before: int) -> Exception:
    """Return a refusal as what it is to a program: arguments that the host's function does not take are wrong arguments.

    *before* is how many calls earlier requests carried.
    """
    if error.problem_code != WRONG_ARGUMENTS:
        return error
    in_batch = _IN_BATCH.match(error.pointer)
    return WrongArguments(f"call {before + int(in_batch[1])}: {error.detail}" if in_batch else error.detail)


def _call_of(one: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    if isinstance(one, Mapping):
        return (), one
    if isinstance(one, list | tuple):
        return one, {}
    # A text is a sequence too, of characters that nobody meant.
    raise WrongArguments(f"each call is a tuple of arguments, or a dict of them by name, not {one!r:.100}: write ({one!r:.100},)")


def function_spec(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Options) -> TaskSpec:
    """Return the task that calls a function with JSON values. Without a target it goes to any one host that offers it."""
    target = options.get("target", "")
    fields: dict[str, Any] = {field: options[field] for field in ("queue", "priority", "name", "key") if field in options}
    if "timeout_s" in options:
        fields["timeout_ms"] = round(options["timeout_s"] * 1000)
    if "wait_offline_s" in options:
        fields["wait_offline_ms"] = round(options["wait_offline_s"] * 1000)
    if options.get("retries"):
        fields["retry"] = Retry(attempts_max=1 + options["retries"])
    if "tags" in options:
        fields["tags"] = tuple(options["tags"])
    payload = Function(name=name, args=tuple(args), kwargs=dict(kwargs))
    return TaskSpec(payload=payload, target=target or ANY_HOST, choose=None if target else Choose(), **fields)


_WHAT_SPECS_ARE = TaskSpec(payload=Function(name="x"))


def batches(specs: Iterable[tuple[str, TaskSpec]]) -> Iterator[tuple[list[str], bytes]]:
    """Yield ids and JSON of as many tasks as one request takes, by number and by size."""
    ids: list[str] = []
    body = bytearray()
    for task_id, spec in specs:
        # Only what is not as always: ten thousand whole specifications would be more than a request may carry.
        said = {name: value for name in spec.__struct_fields__ if (value := getattr(spec, name)) != getattr(_WHAT_SPECS_ARE, name)}
        one = msgspec.json.encode({"task_id": task_id, "spec": {"payload": spec.payload, **said}})
        if ids and (len(ids) >= TASKS_PER_SUBMIT_MAX or len(body) + len(one) > BATCH_BYTES_MAX):
            yield ids, b'{"tasks":[' + body + b"]}"
            ids, body = [], bytearray()
        body += (b"," if ids else b"") + one
        ids.append(task_id)
    if ids:
        yield ids, b'{"tasks":[' + body + b"]}"


_here = threading.local()


def client_here() -> Client:
    """Return the client that calls of decorated functions use: of FLEETLOG_URL and the like, one for each thread.

    Raises:
        CliError: nothing says where the gateway is.
    """
    # A connection that a child inherits by a fork is its parent's: two would read each other's answers.
    if getattr(_here, "pid", 0) != os.getpid():
        from fleetlog.client import Client

        _here.client, _here.pid = Client.here(), os.getpid()
    client: Client = _here.client
    return client
