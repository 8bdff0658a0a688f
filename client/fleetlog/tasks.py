"""Python functions that run as tasks: `from fleetlog import task, report_progress`.

A decorated function is a description first: its name, queue and type hints. Called in a program it submits a task; on a
host, where a worker process has loaded its module, it is run with arguments that were checked against the same hints.
Nothing here knows of agents or sockets; `worker.py` is the process that calls.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import re
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, Unpack, get_type_hints, overload

import msgspec

from fleetlog_schemas.limits import ERROR_TEXT_BYTES_MAX, RETURN_VALUE_BYTES_MAX, TRACEBACK_BYTES_MAX
from fleetlog_schemas.spec import QUEUE_DEFAULT, SpecError, check_queue_name
from fleetlog_schemas.spec_fields import check_function_name
from fleetlog_schemas.workers import Finished, Offered

if TYPE_CHECKING:
    from fleetlog.client import Client
    from fleetlog.functions import Handle, Options, Submitter

P = ParamSpec("P")
R = TypeVar("R")

IN_WORKER = "FLEETLOG_IN_WORKER"
"""Set in worker processes: there, calling a decorated function runs it."""
_RUNS_COROUTINES = re.compile(r"(fleetlog/tasks|asyncio/(runners|base_events))\.py$")
"""Files whose frames stand above those of an async function."""
_SUMMARY_CHARACTERS_MAX = 200
_SIGNATURE_CHARACTERS_MAX = 400


class WrongArguments(TypeError):
    """A function does not take these arguments; the message says which one, and what it takes."""


class Unserialisable(TypeError):
    """A function returned what is no JSON value, or one that is too large."""


class WrongValue(TypeError):
    """What a function returned on a host is not what its return hint says here."""


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
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise SpecError("/function", f"{name} is a generator, which is no value: return a list, or say by report_progress how far it is")
        known = _registry.get(name)
        # The same place in the same file is the same function: a module that is reloaded, or run and imported too.
        if known is not None and _place(known.function) != _place(function):
            raise DuplicateName(f"{function.__module__} and {known.module} both declare the task {name!r}: rename one of them")
        functools.update_wrapper(self, function)
        self.function: Callable[P, Any] = function
        self.name, self.queue = name, queue
        self.module: str = function.__module__
        self._signature = _readable(inspect.signature(function))
        self._hints: dict[str, Any] | None = None
        _registry[name] = self

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Submit a task that runs the function, and return its handle; in a worker, run the function in place."""
        if os.environ.get(IN_WORKER):
            # What a function calls inside another is no task: the undecorated function, which an async one awaits.
            return self.function(*args, **kwargs)  # type: ignore[no-any-return]
        return self.options().submit(*args, **kwargs)

    def local(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now; a coroutine is run to its end. On an event loop, await `function(...)` instead."""
        found = self.function(*args, **kwargs)
        value: R = _to_its_end(found) if inspect.iscoroutine(found) else found
        return value

    def options(self, *, client: Client | None = None, **options: Unpack[Options]) -> Submitter[P, R]:
        """Return the same task to be submitted with *options*, and by another *client* than that of the surroundings.

        Raises:
            TypeError: there is no such option.
        """
        from fleetlog.functions import Submitter

        return Submitter(self, options, client)

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
                    bound.arguments[name] = tuple(_converted(one, hint) for one in value)
                elif kind is inspect.Parameter.VAR_KEYWORD:
                    bound.arguments[name] = {key: _converted(one, hint) for key, one in value.items()}
                else:
                    bound.arguments[name] = _converted(value, hint)
            except (msgspec.ValidationError, TypeError) as error:
                raise WrongArguments(f"argument {name} of {self.name}: {error}") from None
            except Exception as error:  # noqa: BLE001 - what a type of the function's module makes of a value is its own code
                raise WrongArguments(f"argument {name} of {self.name}: {_said(error)}") from None
        return bound

    def plain(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments as the JSON values that are sent, checked as the worker will check them.

        Raises:
            WrongArguments: one is missing, unknown, not of its type, or cannot be sent.
        """
        given = plain_arguments(self.name, args, kwargs)
        self.check(*given)
        return given

    def decoded(self, value: str) -> Any:
        """Return a value that came back, as the function's return hint says.

        Raises:
            WrongValue: it does not fit: the host has another version of the function.
        """
        found = msgspec.json.decode(value)
        hint = self._hint("return")
        if hint is inspect.Parameter.empty or hint is None:
            return found
        try:
            return _converted(found, hint)
        except (msgspec.ValidationError, TypeError) as error:
            raise WrongValue(f"{self.name} returned what does not fit its type here: {error}; the task's view has it as JSON") from None

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


def plain_arguments(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of the function *name* as JSON values. Raises WrongArguments."""
    try:
        given = tuple(_plain(one) for one in args), {key: _plain(one) for key, one in kwargs.items()}
        _json(given)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise WrongArguments(f"an argument of {name} is no JSON value: {error}") from None
    return given


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value, enc_hook=_encode_hook, str_keys=True)


def _converted(value: Any, hint: Any) -> Any:
    return msgspec.convert(value, hint, dec_hook=_decode_hook)


def _json(value: Any) -> bytes:
    """Return a value as JSON.

    Raises:
        TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError: it is none.
    """
    body = msgspec.json.encode(value, enc_hook=_encode_hook)
    # The encoder writes null for a number that JSON does not have: the other end would take it for None.
    if b"null" in body and _has_no_number(_plain(value)):
        raise ValueError("NaN and infinity are no JSON numbers: use None")
    return body


def _has_no_number(value: Any) -> bool:
    match value:
        case float():
            return not math.isfinite(value)
        case dict():
            return any(map(_has_no_number, value.values()))
        case list() | tuple():
            return any(map(_has_no_number, value))
        case _:
            return False


def _encode_hook(value: Any) -> Any:
    """Let paths be sent as texts, and what is a number or a text with something added as what it is."""
    if isinstance(value, PurePath):
        return str(value)
    for plain in (int, float, str):
        if isinstance(value, plain):
            return plain(value)
    if isinstance(value, tuple):
        raise TypeError("a key is a text or a number, not a tuple")  # elsewhere a tuple is a list
    raise TypeError(f"objects of type {type(value).__qualname__} are none")


def _decode_hook(hint: type, value: Any) -> Any:
    """Take a text for the path that it is, and leave hints that JSON has nothing for to the function."""
    if not issubclass(hint, PurePath):
        return value
    if not isinstance(value, str | PurePath):
        raise TypeError(f"Expected a path as `str`, got `{type(value).__name__}`")
    return hint(value)


def _place(function: Callable[..., Any]) -> tuple[str, str]:
    """Return the file and the name in it of a function."""
    inner = inspect.unwrap(function)
    code = getattr(inner, "__code__", None)
    return (code.co_filename if code else inner.__module__, inner.__qualname__)


class _Bare:
    """A hint that is a text, as with postponed evaluation: shown as it was written, without quotes."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _readable(signature: inspect.Signature) -> inspect.Signature:
    def bare(hint: Any) -> Any:
        return _Bare(hint) if isinstance(hint, str) else hint

    parameters = [one.replace(annotation=bare(one.annotation)) for one in signature.parameters.values()]
    return signature.replace(parameters=parameters, return_annotation=bare(signature.return_annotation))


class _Decorator(Protocol):
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


@overload
def task(name: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
@overload
def task(name: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(name: str = "", *, queue: str = QUEUE_DEFAULT) -> _Decorator: ...
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

    It may be called as often as wanted: one a second is sent, and the one that reaches its total.
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
            found = _to_its_end(found)
    finally:
        _progress = None
    return encoded(found)


def _to_its_end(coroutine: Coroutine[Any, Any, Any]) -> Any:
    import asyncio  # only here: the command line loads this module too, and must start soon

    return asyncio.run(coroutine)


def encoded(value: Any) -> str:
    """Return a value as JSON. Raises Unserialisable."""
    try:
        body = _json(value)
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
    while frames is not None and frames.tb_next is not None and _RUNS_COROUTINES.search(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames))
    said = _said(error)
    return Finished(
        key=key, began_ms=began_ms, ended_ms=ended_ms, error=cut(said, ERROR_TEXT_BYTES_MAX), traceback=cut(text, TRACEBACK_BYTES_MAX),
    )


def _said(error: BaseException) -> str:
    """Return what an exception says, as the last line of a traceback."""
    return "".join(traceback.format_exception_only(type(error), error)).strip()


def cut(text: str, bytes_max: int) -> str:
    """Return the last *bytes_max* bytes of *text*, as valid UTF-8."""
    body = text.encode("utf-8", "replace")
    return body.decode() if len(body) <= bytes_max else body[-bytes_max:].decode("utf-8", "ignore")


__all__ = ["DuplicateName", "SpecError", "Task", "Unserialisable", "WrongArguments", "WrongValue", "report_progress", "task"]
