"""Submit functions as tasks and take what they return.

>>> client = fleetlog.Client.here()
>>> handle = client.submit("resize", "a.png", width=80)
>>> handle.value(timeout_s=60)
{'width': 80, 'height': 60}

A handle belongs to one task; it asks the gateway, keeps nothing but the end, and may be made anew from the task's id.
`fleetlog.aio` has the same for programs on an event loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

import msgspec

from fleetlog.exits import CliError, Exit
from fleetlog.http import GatewayError, segment
from fleetlog_schemas.limits import TASKS_PER_SUBMIT_MAX
from fleetlog_schemas.spec import Choose, Function, Retry, TaskSpec
from fleetlog_schemas.view import HowFarView, TaskView

if TYPE_CHECKING:
    from fleetlog.client import Client
    from fleetlog.tasks import Task

P = ParamSpec("P")
R = TypeVar("R")
ANY_HOST = "all"
"""Together with `choose`: any one host that offers the function and serves its queue."""
OPTIONS = ("target", "queue", "priority", "timeout_s", "retries", "name", "key", "tags", "wait_offline_s")


class TaskFailed(Exception):
    """A task did not end well, so it has no value. `outcome`, `error` and `traceback` say how it ended."""

    def __init__(self, task_id: str, outcome: str, error: str, traceback: str) -> None:
        super().__init__(f"task {task_id} ended as {outcome}: {error or 'no error text'}" + (f"\n\n{traceback.rstrip()}" if traceback else ""))
        self.task_id, self.outcome, self.error, self.traceback = task_id, outcome, error, traceback


class Handle(Generic[R]):
    """One submitted task."""

    def __init__(self, client: Client, task_id: str) -> None:
        self.client, self.task_id = client, task_id
        self._ended: TaskView | None = None

    def __repr__(self) -> str:
        return f"Handle({self.task_id!r})"

    def wait(self, timeout_s: float | None = None) -> TaskView:
        """Return the task when it has ended.

        Raises:
            CliError: `timeout_s` is over (code WAITED), or the gateway stayed away.
        """
        if self._ended is None:
            self._ended = self.client.wait(self.task_id, timeout_s)
        return self._ended

    def value(self, timeout_s: float | None = None) -> R:
        """Return what the function returned, as JSON gives it back; wait for it.

        Raises:
            TaskFailed: it raised, or did not run.
            CliError: it ran on several hosts (`values` has them), `timeout_s` is over, or the gateway stayed away.
        """
        found = list(self.values(timeout_s).values())
        if len(found) != 1:
            raise CliError(Exit.TYPED_WRONG, f"task {self.task_id} ran on {len(found)} hosts", "take them from values(), by host name")
        value: R = found[0]
        return value

    def values(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Return what the function returned on each host, by host name; wait for it. Raises what `value` raises."""
        view = self.wait(timeout_s)
        values = {}
        for command in view.commands:
            last = command.attempts[-1] if command.attempts else None
            if command.outcome != "success" or last is None:
                error = (last.error if last else "") or f"on {command.host}"
                raise TaskFailed(self.task_id, str(command.outcome), error, last.traceback if last else "")
            values[command.host] = None if last.return_value is None else msgspec.json.decode(last.return_value)
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

    def __init__(self, declared: Task[P, R], options: Mapping[str, Any], client: Client | None = None) -> None:
        """Take *options*: `target`, `queue`, `priority`, `timeout_s`, `retries`, `name`, `key`, `tags`, `wait_offline_s`.

        Raises:
            TypeError: there is no such option.
        """
        self._declared, self._client = declared, client
        self._options = {"queue": declared.queue, **options}
        function_spec("x", (), {}, self._options)

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Submit one task. Raises WrongArguments before anything is sent, CliError when it was not taken."""
        self._declared.check(args, kwargs)
        client = self._client or _client_here()
        return Handle(client, client.submit(function_spec(self._declared.name, args, kwargs, self._options)))

    def submit_many(self, calls: Iterable[Sequence[Any]]) -> list[Handle[R]]:
        """Submit one task for each tuple of arguments, all or none. Raises what `submit` raises."""
        asked = [tuple(one) for one in calls]
        for args in asked:
            self._declared.check(args, {})
        client = self._client or _client_here()
        return client.submit_specs([function_spec(self._declared.name, args, {}, self._options) for args in asked])


def function_spec(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> TaskSpec:
    """Return the task that calls a function. Without a target it goes to any one host that offers it.

    Raises:
        TypeError: an option that there is not, or an argument that is no JSON value.
    """
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise TypeError(f"there is no option {unknown[0]!r}; there are: {', '.join(OPTIONS)}")
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
    given = msgspec.to_builtins((tuple(args), dict(kwargs)))
    payload = Function(name=name, args=tuple(given[0]), kwargs=given[1])
    return TaskSpec(payload=payload, target=target or ANY_HOST, choose=None if target else Choose(), **fields)


def in_batches(specs: Sequence[TaskSpec]) -> Iterable[Sequence[TaskSpec]]:
    """Yield as many tasks as one request takes."""
    for begin in range(0, len(specs), TASKS_PER_SUBMIT_MAX):
        yield specs[begin : begin + TASKS_PER_SUBMIT_MAX]


_here: Client | None = None


def _client_here() -> Client:
    """Return the client that calls of decorated functions use: of FLEETLOG_URL and the like, made once."""
    global _here  # noqa: PLW0603 - one connection for a program that names none
    if _here is None:
        from fleetlog.client import Client

        _here = Client.here()
    return _here
