"""Python functions that run as tasks: `from fleetlog import task, report_progress`.

A decorated function is a description first: its name, queue and type hints. Called in a program it submits a task; on a
host, where a worker process has loaded its module, it is run with arguments that were checked against the same hints.
Nothing here knows of agents or sockets; `worker.py` is the process that calls.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, get_type_hints, overload

import msgspec

from fleetlog_schemas.limits import ERROR_TEXT_BYTES_MAX, RETURN_VALUE_BYTES_MAX, TRACEBACK_BYTES_MAX
from fleetlog_schemas.spec import QUEUE_DEFAULT, SpecError, check_queue_name
from fleetlog_schemas.spec_fields import check_function_name
from fleetlog_schemas.workers import Finished, Offered

if TYPE_CHECKING:
    from fleetlog.functions import Handle, Submitter

P = ParamSpec("P")
R = TypeVar("R")

IN_WORKER = "FLEETLOG_IN_WORKER"
"""Set in worker processes: there, calling a decorated function runs it."""
_SUMMARY_CHARACTERS_MAX = 200
_SIGNATURE_CHARACTERS_MAX = 400
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


class WrongArguments(TypeError):
    """A function does not take these arguments; the message says which one, and what it takes."""


class Unserialisable(TypeError):
    """A function returned what is no JSON value, or one that is too large."""


class DuplicateName(ValueError):
    """Two functions have the same name."""


_registry: dict[str, Task[Any, Any]] = {}


def registered() -> Mapping[str, Task[Any, Any]]:
    """Return every function that was declared in this process, by name."""
    return _registry


class Task(Generic[P, R]):
    """A function that can run as a task. Calling it submits it; `local` runs it here."""

    def __init__(self, function: Callable[P, R] | Callable[P, Coroutine[Any, Any, R]], name: str, queue: str) -> None:
        """Declare *function*.

        Raises:
            SpecError: name or queue break a rule.
            DuplicateName: another function has this name.
        """
        check_function_name("/name", name)
        check_queue_name("/queue", queue)
        known = _registry.get(name)
        if known is not None and (known.module, known.function.__qualname__) != (function.__module__, function.__qualname__):
            raise DuplicateName(f"{function.__module__} and {known.module} both declare the task {name!r}: rename one of them")
        functools.update_wrapper(self, function)
        self.function: Callable[P, Any] = function
        self.name, self.queue = name, queue
        self.module: str = function.__module__
        self._signature = inspect.signature(function)
        self._hints: dict[str, Any] | None = None
        _registry[name] = self

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Submit a task that runs the function, and return its handle; in a worker, run the function in place."""
        if os.environ.get(IN_WORKER):
            return self.local(*args, **kwargs)  # type: ignore[return-value]  # what a function calls inside another is no task
        return self.options().submit(*args, **kwargs)

    def local(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now, as without the decorator; a coroutine is run to its end."""
        found = self.function(*args, **kwargs)
        value: R = asyncio.run(found) if inspect.iscoroutine(found) else found
        return value

    def options(self, **options: Any) -> Submitter[P, R]:
        """Return the same task to be submitted with *options*: see `fleetlog.functions.Submitter`."""
        from fleetlog.functions import Submitter

        return Submitter(self, options)

    def offered(self) -> Offered:
        """Return what a host says of it."""
        document = " ".join((inspect.getdoc(self.function) or "").split("\n\n")[0].split())
        return Offered(
            name=self.name, queue=self.queue, module=self.module, signature=str(self._signature)[:_SIGNATURE_CHARACTERS_MAX],
            summary=document[:_SUMMARY_CHARACTERS_MAX],
        )

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        """Return the arguments, decoded as the type hints say; JSON values are taken for what they stand for.

        Raises:
            WrongArguments: one is missing, unknown, or not of its type.
        """
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise WrongArguments(f"{self.name}{self._signature}: {error}") from None
        for name, value in bound.arguments.items():
            hint = self._hint(name)
            if hint is inspect.Parameter.empty:
                continue
            kind = self._signature.parameters[name].kind
            try:
                if kind is inspect.Parameter.VAR_POSITIONAL:
                    bound.arguments[name] = tuple(msgspec.convert(one, hint) for one in value)
                elif kind is inspect.Parameter.VAR_KEYWORD:
                    bound.arguments[name] = {key: msgspec.convert(one, hint) for key, one in value.items()}
                else:
                    bound.arguments[name] = msgspec.convert(value, hint)
            except (msgspec.ValidationError, TypeError) as error:
                raise WrongArguments(f"argument {name} of {self.name}: {error}") from None
        return bound

    def takes(self, parameter: str) -> bool:
        """Tell whether the function has a parameter of this name, or takes any."""
        kinds = {one.kind for one in self._signature.parameters.values()}
        found = self._signature.parameters.get(parameter)
        return inspect.Parameter.VAR_KEYWORD in kinds if found is None else found.kind is not inspect.Parameter.POSITIONAL_ONLY

    def _hint(self, name: str) -> Any:
        if self._hints is None:
            try:
                self._hints = get_type_hints(self.function, include_extras=True)
            except (NameError, TypeError):
                # A hint that only a type checker can see, for one: the function is called without its checks.
                self._hints = {}
        return self._hints.get(name, inspect.Parameter.empty)


@overload
def task(name: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(name: str = "", *, queue: str = QUEUE_DEFAULT) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(name: Any = "", *, queue: str = QUEUE_DEFAULT) -> Any:
    """Declare a function, plain or async, that can run as a task: `@task`, `@task("name")`, `@task("name", queue="mail")`.

    Args:
        name: what it is called everywhere; the function's own name where none is given.
        queue: hosts whose policy serves this queue run it.
    """
    if callable(name):
        return Task(name, name.__name__, queue)
    return lambda function: Task(function, name or function.__name__, queue)


# --- while it runs ---------------------------------------------------------------------------------------

_progress: Callable[[float, float | None, str], None] | None = None


def report_progress(done: float, total: float | None = None, note: str = "") -> None:
    """Say how far the function is that runs now; outside a worker it does nothing.

    It may be called as often as wanted: what is said within a second of the last one is only sent if nothing newer follows.
    """
    if _progress is not None:
        _progress(done, total, note)


def call(declared: Task[Any, Any], bound: inspect.BoundArguments, on_progress: Callable[[float, float | None, str], None]) -> str:
    """Run a function and return its value as JSON.

    Raises:
        Unserialisable: the value is no JSON, or larger than RETURN_VALUE_BYTES_MAX.
        BaseException: whatever the function raises.
    """
    global _progress  # noqa: PLW0603 - one call at a time in this process
    _progress = on_progress
    try:
        found = declared.function(*bound.args, **bound.kwargs)
        if inspect.iscoroutine(found):
            found = asyncio.run(found)
    finally:
        _progress = None
    return encoded(found)


def encoded(value: Any) -> str:
    """Return a value as JSON. Raises Unserialisable."""
    try:
        body = msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise Unserialisable(f"the returned value is no JSON: {error}") from None
    if len(body) > RETURN_VALUE_BYTES_MAX:
        raise Unserialisable(
            f"the returned value has {len(body)} bytes as JSON; at most {RETURN_VALUE_BYTES_MAX} are kept: write the rest to a file"
        )
    return body.decode()


def failure(error: BaseException, key: str, began_ms: int, ended_ms: int) -> Finished:
    """Return what is kept of an exception: its message, and the end of its traceback without the worker's own frames."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code is not call.__code__:
        frames = frames.tb_next
    frames = error.__traceback__ if frames is None else frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames))
    said = "".join(traceback.format_exception_only(type(error), error)).strip()
    return Finished(
        key=key, began_ms=began_ms, ended_ms=ended_ms, error=cut(said, ERROR_TEXT_BYTES_MAX), traceback=cut(text, TRACEBACK_BYTES_MAX),
    )


def cut(text: str, bytes_max: int) -> str:
    """Return the last *bytes_max* bytes of *text*, as valid UTF-8."""
    body = text.encode("utf-8", "replace")
    return body.decode() if len(body) <= bytes_max else body[-bytes_max:].decode("utf-8", "ignore")


__all__ = ["DuplicateName", "SpecError", "Task", "Unserialisable", "WrongArguments", "report_progress", "task"]
