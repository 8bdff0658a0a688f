"""Decorated functions: what they say of themselves, what they take and return, and how they are submitted."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import fleetlog
from fleetlog import functions, tasks
from fleetlog.client import Client
from fleetlog.exits import Exit
from fleetlog.functions import Handle, TaskFailed
from fleetlog.http import GatewayError
from fleetlog.tasks import DuplicateName, Unserialisable, WrongArguments, WrongValue, task
from fleetlog_schemas import functions as host_functions
from fleetlog_schemas import limits
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.spec import Choose, Function, SpecError, TaskSpec, check_spec
from fleetlog_schemas.view import AttemptView, CommandView, TaskView


@dataclasses.dataclass
class Size:
    width: int
    height: int = 1


class FakeGateway:
    """Takes what is posted."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, Any, dict[str, str]]] = []

    def post(self, path: str, body: Any = None, **headers: str) -> dict[str, Any]:
        self.posted.append((path, body, headers))
        return {"task_id": headers.get("Idempotency_Key", "")}

    def specs(self) -> list[TaskSpec]:
        found = []
        for path, body, _ in self.posted:
            sent = [one["spec"] for one in msgspec.json.decode(body)["tasks"]] if path == "/tasks/batch" else [body]
            found += [msgspec.convert(one, TaskSpec) for one in sent]
        return found


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_registry", {})


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway()


@pytest.fixture
def client(gateway: FakeGateway) -> Client:
    return Client.over(gateway)  # type: ignore[arg-type]


def run(declared: tasks.Task[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Do with a call what a worker does with it, from the caller's arguments to the caller's value."""
    sent = msgspec.json.decode(msgspec.json.encode(declared.plain(args, kwargs)))
    bound = declared.check(sent[0], sent[1])
    return declared.decoded(tasks.call(declared, bound, lambda *_: None))


# --- declaring ------------------------------------------------------------------------------------------


def test_a_function_is_named_by_itself_or_by_its_decorator() -> None:
    @task
    def first() -> None: ...

    @task("mail.send", queue="mail")
    def second(to: str) -> None:
        """Send a mail
        to somebody.

        More about it.
        """

    assert (first.name, first.queue) == ("first", "default")
    offered = second.offered()
    assert (offered.name, offered.queue, offered.summary) == ("mail.send", "mail", "Send a mail to somebody.")
    assert offered.signature == "(to: str) -> None"
    assert second.__name__ == "second"


def test_a_name_that_breaks_a_rule_is_refused_where_it_is_declared() -> None:
    with pytest.raises(SpecError):
        task("no spaces")(lambda: None)
    with pytest.raises(SpecError):
        task("fine", queue="no spaces")(lambda: None)


def test_two_functions_of_one_name_are_refused_and_one_that_is_loaded_twice_is_not() -> None:
    def declare(name: str) -> tasks.Task[[], None]:
        @task(name)
        def inner() -> None: ...

        return inner

    declare("twice")
    again = declare("twice")
    assert tasks.registered()["twice"] is again

    with pytest.raises(DuplicateName, match="rename one of them"):

        @task("twice")
        def other() -> None: ...


# --- arguments and values -------------------------------------------------------------------------------


def test_arguments_are_decoded_as_the_hints_say_and_values_as_the_return_hint_does() -> None:
    @task
    def grow(size: Size, by: int, since: dt.datetime, *rest: float, where: Path, **more: Size) -> Size:
        assert isinstance(where, Path)
        assert since.year == 2026
        assert rest == (1.0, 2.0)
        assert more == {"other": Size(9)}
        return Size(size.width * by, size.height * by)

    when = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    assert run(grow, Size(2, 3), 2, when, 1, 2, where=Path("/var"), other=Size(9)) == Size(4, 6)


def test_a_path_is_sent_and_comes_back_as_a_text() -> None:
    @task
    def parent(path: Path) -> Path:
        return path.parent

    assert parent.plain((Path("/a/b"),), {}) == (("/a/b",), {})
    assert run(parent, "/a/b") == Path("/a")
    with pytest.raises(WrongArguments, match="Expected a path as `str`, got `int`"):
        parent.plain((1,), {})


def test_an_argument_without_a_hint_or_with_one_that_nobody_can_read_is_taken_as_it_comes() -> None:
    @task
    def takes(anything, other: Unknown) -> object:  # type: ignore[no-untyped-def,name-defined]  # noqa: F821
        return [anything, other]

    assert run(takes, {"a": [1]}, "x") == [{"a": [1]}, "x"]


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        (("x",), {}, "argument width of resize: Expected `int`, got `str`"),
        ((), {}, "missing a required argument: 'width'"),
        ((1,), {"depth": 3}, "got an unexpected keyword argument 'depth'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((object(),), {}, "an argument of resize is no JSON value: objects of type object are none"),
        ((1,), {"height": 1.5}, "argument height of resize: Expected `int`, got `float`"),
        ((1,), {"height": float("nan")}, "an argument of resize is no JSON value: NaN and infinity are no JSON numbers: use None"),
        (("\ud800",), {}, "an argument of resize is no JSON value: 'utf-8' codec can't encode character"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_anything_is_sent(
    client: Client, gateway: FakeGateway, args: tuple[Any, ...], kwargs: dict[str, Any], says: str
) -> None:
    @task
    def resize(width: int, height: int = 1) -> None: ...

    with pytest.raises(WrongArguments) as caught:
        resize.options(client=client).submit(*args, **kwargs)
    assert says in str(caught.value)
    assert gateway.posted == []


def test_a_value_that_is_no_json_or_too_large_is_said_so() -> None:
    with pytest.raises(Unserialisable, match="is no JSON"):
        tasks.encoded(object())
    with pytest.raises(Unserialisable, match=f"at most {limits.RETURN_VALUE_BYTES_MAX} are kept"):
        tasks.encoded("x" * limits.RETURN_VALUE_BYTES_MAX)
    assert tasks.encoded("x" * (limits.RETURN_VALUE_BYTES_MAX - 2))


def test_a_value_of_another_version_of_the_function_is_no_surprise_later() -> None:
    @task
    def size() -> Size:
        return Size(1)

    with pytest.raises(WrongValue, match="size returned what does not fit its type here: .*width"):
        size.decoded('{"breadth":1}')


def test_an_exception_is_kept_without_the_frames_of_the_worker() -> None:
    @task
    def fails() -> None:
        raise ValueError("because")

    @task
    async def fails_later() -> None:
        await asyncio.sleep(0)
        fails.local()

    for declared in (fails, fails_later):
        try:
            tasks.call(declared, declared.check((), {}), lambda *_: None)
        except ValueError as error:
            kept = tasks.failure(error, "key", 1, 2)
        assert kept.error == "ValueError: because"
        assert 'raise ValueError("because")' in kept.traceback
        assert "in call" not in kept.traceback
        assert "runners.py" not in kept.traceback
    assert len(tasks.cut("ü" * 10_000, 101).encode()) == 100


# --- calling --------------------------------------------------------------------------------------------


def test_in_a_worker_a_call_runs_the_function_also_an_async_one_in_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tasks.IN_WORKER, "1")

    @task
    async def inner(number: int) -> int:
        await asyncio.sleep(0)
        return number + 1

    @task
    async def outer() -> int:
        return await inner(1) + 1  # type: ignore[misc,no-any-return]

    assert run(outer) == 3
    assert outer.local() == 3


def test_progress_is_heard_while_a_function_runs_and_not_elsewhere() -> None:
    said: list[tuple[Any, ...]] = []

    @task
    def works() -> None:
        fleetlog.report_progress(1, 2, "half")

    tasks.call(works, works.check((), {}), lambda *how_far: said.append(how_far))
    works.local()
    assert said == [(1, 2, "half")]


# --- submitting -----------------------------------------------------------------------------------------


def test_a_function_goes_to_any_one_host_unless_a_target_is_named(client: Client, gateway: FakeGateway) -> None:
    @task("resize", queue="images")
    def resize(width: int, height: int = 1) -> None: ...

    client.submit(resize, 1)
    client.submit("resize", width=1)
    resize.options(client=client, target="web*", queue="night").submit(1)
    first, second, third = gateway.specs()
    assert (first.payload, first.target, first.choose, first.queue) == (Function("resize", (1,)), "all", Choose(), "images")
    assert (second.payload, second.queue) == (Function("resize", (), {"width": 1}), "default")
    assert (third.target, third.choose, third.queue) == ("web*", None, "night")
    for one in (first, second, third):
        check_spec(one)


def test_options_become_the_fields_of_the_task(client: Client, gateway: FakeGateway) -> None:
    named = client.function("resize", timeout_s=1.5, retries=2, priority=8, name="n", key="k", tags=["t"], wait_offline_s=2)
    named.submit()
    (spec,) = gateway.specs()
    assert (spec.timeout_ms, spec.retry.attempts_max, spec.priority, spec.name, spec.key, spec.tags, spec.wait_offline_ms) == (
        1500, 3, 8, "n", "k", ("t",), 2000
    )
    with pytest.raises(TypeError, match="there is no option 'timeout'; there are: target, queue, "):
        client.function("resize", timeout=3)  # type: ignore[call-arg]


def test_a_task_submitted_again_with_its_id_is_the_same_task(client: Client, gateway: FakeGateway) -> None:
    task_id = fleetlog.new_task_id()
    for _ in range(2):
        assert client.function("resize", task_id=task_id).submit(1).task_id == task_id
    assert [headers for _, _, headers in gateway.posted] == [{"Idempotency_Key": task_id}] * 2
    with pytest.raises(TypeError, match="the id of one task"):
        client.submit_many("resize", [(1,)], task_id=task_id)


def test_many_are_sent_in_requests_that_the_gateway_takes(client: Client, gateway: FakeGateway) -> None:
    handles = client.submit_many("noop", [()] * (limits.TASKS_PER_SUBMIT_MAX + 1))
    sizes = [len(msgspec.json.decode(body)["tasks"]) for _, body, _ in gateway.posted]
    assert sizes == [limits.TASKS_PER_SUBMIT_MAX, 1]
    assert len({handle.task_id for handle in handles}) == limits.TASKS_PER_SUBMIT_MAX + 1
    sent = [one["task_id"] for _, body, _ in gateway.posted for one in msgspec.json.decode(body)["tasks"]]
    assert sent == [handle.task_id for handle in handles]


def test_large_arguments_make_smaller_requests(client: Client, gateway: FakeGateway) -> None:
    client.submit_many("noop", [("x" * 60_000,)] * 250)
    assert len(gateway.posted) == 3
    assert all(len(body) < 8 * 1024 * 1024 for _, body, _ in gateway.posted)
    assert len(gateway.specs()) == 250


def test_each_of_many_calls_has_its_arguments_by_position_or_by_name(client: Client, gateway: FakeGateway) -> None:
    @task
    def resize(file: str, width: int = 1) -> None: ...

    client.submit_many(resize, [("a",), {"file": "b", "width": 2}], priority=3)
    assert [spec.payload for spec in gateway.specs()] == [Function("resize", ("a",)), Function("resize", (), {"file": "b", "width": 2})]
    with pytest.raises(WrongArguments, match=r"not 'a.png': write \('a.png',\)"):
        client.submit_many(resize, [("b",), "a.png"])
    with pytest.raises(WrongArguments, match="argument width of resize"):
        client.submit_many(resize, [("b",), ("c", "wide")])
    assert len(gateway.posted) == 1, "nothing is sent when one of them is wrong"


def test_every_thread_has_a_connection_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETLOG_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("FLEETLOG_TOKEN", "t")
    monkeypatch.setattr(functions, "_here", threading.local())
    found: list[Client] = []
    thread = threading.Thread(target=lambda: found.append(functions.client_here()))
    thread.start()
    thread.join()
    here = functions.client_here()
    assert here is functions.client_here()
    assert here is not found[0]
    monkeypatch.setattr(functions._here, "pid", -1)  # as in a child that was forked
    assert functions.client_here() is not here


# --- handles --------------------------------------------------------------------------------------------


class Ended:
    """A client whose tasks have ended."""

    def __init__(self, view: TaskView) -> None:
        self.view = view

    def wait(self, task_id: str, timeout_s: float | None) -> TaskView:
        return self.view


MakeView = Callable[..., TaskView]


@pytest.fixture
def view() -> MakeView:
    def make(*commands: tuple[str, Outcome, dict[str, str]], refusal: str = "") -> TaskView:
        shown = [
            msgspec.convert(
                {"command_id": host, "host": host, "host_id": host, "state": "ended", "outcome": outcome, "attempts": [
                    msgspec.to_builtins(_blank(AttemptView)) | {"outcome": outcome, **fields}
                ]} | _rest(CommandView), CommandView,
            )
            for host, outcome, fields in commands
        ]
        return msgspec.structs.replace(_blank(TaskView), commands=shown, refusal=refusal, outcome=None)

    return make


def _rest(kind: type[msgspec.Struct]) -> dict[str, Any]:
    known = {"command_id", "host", "host_id", "state", "outcome", "attempts"}
    return {name: value for name, value in msgspec.to_builtins(_blank(kind)).items() if name not in known}


def _blank(kind: type[Any]) -> Any:
    """Return the plainest record of a kind."""
    given: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.required:
            for value in (None, "", 0, 0.0, False, [], {}, {"payload": {"kind": "function", "name": "x"}}):
                try:
                    given[field.name] = msgspec.convert(value, field.type)
                    break
                except msgspec.ValidationError:
                    continue
    return kind(**given)


def handle(view: TaskView) -> Handle[Any]:
    return Handle(Ended(view), "id")  # type: ignore[arg-type]


def test_a_handle_gives_the_value_of_the_one_host_or_those_of_all(view: MakeView) -> None:
    one = handle(view(("a", Outcome.SUCCESS, {"return_value": "[1]"})))
    two = handle(view(("a", Outcome.SUCCESS, {"return_value": "1"}), ("b", Outcome.SUCCESS, {})))
    assert one.value() == [1]
    assert two.values() == {"a": 1, "b": None}
    with pytest.raises(fleetlog.CliError, match="ran on 2 hosts"):
        two.value()


def test_a_handle_raises_what_went_wrong_with_the_traceback_of_the_host(view: MakeView) -> None:
    failed = handle(view(("a", Outcome.FAILURE, {"error": "ValueError: no", "traceback": "Traceback ...\n"})))
    with pytest.raises(TaskFailed) as caught:
        failed.value()
    assert (caught.value.outcome, caught.value.error, caught.value.traceback) == ("failure", "ValueError: no", "Traceback ...\n")
    assert str(caught.value) == "task id ended as failure: ValueError: no\n\nTraceback ..."
    with pytest.raises(TaskFailed, match="no host offers it"):
        handle(view(refusal="no host offers it")).value()


def test_not_to_have_ended_in_time_is_a_timeout() -> None:
    error = fleetlog.NotEnded(Exit.WAITED, "not in 3 s", "wait longer")
    assert isinstance(error, TimeoutError)
    assert (error.code, error.hint, str(error)) == (Exit.WAITED, "wait longer", "not in 3 s")


def _refusing(monkeypatch: pytest.MonkeyPatch, gateway: FakeGateway, code: str, pointer: str, after: int = 0) -> None:
    """Let the gateway refuse what is posted, after so many requests."""
    taken = gateway.post

    def post(path: str, body: Any = None, **headers: str) -> dict[str, Any]:
        if len(gateway.posted) >= after:
            raise GatewayError(422, code, f"shown: {pointer}", detail="argument a of add: Expected `int`, got `str`", pointer=pointer)
        return taken(path, body, **headers)

    monkeypatch.setattr(gateway, "post", post)


def test_arguments_that_the_gateway_refuses_are_wrong_arguments_and_of_many_the_call_is_named(
    client: Client, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert functions.WRONG_ARGUMENTS == host_functions.WRONG_ARGUMENTS
    _refusing(monkeypatch, gateway, functions.WRONG_ARGUMENTS, "/payload/args/0")
    with pytest.raises(WrongArguments, match="^argument a of add"):
        client.submit("add", "x")
    _refusing(monkeypatch, gateway, functions.WRONG_ARGUMENTS, "/tasks/7/spec/payload/args/0")
    with pytest.raises(WrongArguments, match="^call 7: argument a of add"):
        client.submit_many("add", [(1,)])
    _refusing(monkeypatch, gateway, "function-unknown", "/payload/name")
    with pytest.raises(fleetlog.CliError, match="^shown"):
        client.submit("ad", 1)


def test_what_was_submitted_before_a_request_was_refused_is_in_the_error(
    client: Client, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functions, "TASKS_PER_SUBMIT_MAX", 2)
    _refusing(monkeypatch, gateway, functions.WRONG_ARGUMENTS, "/tasks/1/spec/payload/args/0", after=2)
    with pytest.raises(fleetlog.SubmittedInPart, match="^the first 4 of 6 tasks were submitted, then: call 5: argument a of add") as caught:
        client.submit_many("add", [(number,) for number in range(6)])
    assert [spec.payload.args for spec in gateway.specs()] == [(0,), (1,), (2,), (3,)]  # type: ignore[union-attr]
    assert len(caught.value.handles) == 4


def test_of_many_calls_the_one_that_does_not_fit_is_named(client: Client, gateway: FakeGateway) -> None:
    with pytest.raises(WrongArguments, match="^call 1: an argument of add is no JSON value"):
        client.submit_many("add", [(1,), (object(),)])
    assert gateway.posted == []


def test_a_generator_is_refused_where_it_is_declared() -> None:
    with pytest.raises(SpecError, match="counts is a generator, which is no value: return a list"):

        @task
        def counts() -> Iterator[int]:
            yield 1
