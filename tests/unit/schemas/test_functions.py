"""Which hosts a function runs on, and whether its arguments fit what they say of it."""

from __future__ import annotations

from typing import Any

import pytest

from fleetlog_schemas.functions import UNKNOWN, WRONG_ARGUMENTS, Unfit, facts_of, runs_on
from fleetlog_schemas.hosts import Host
from fleetlog_schemas.signatures import signature_of
from fleetlog_schemas.spec import Choose, Function, Options, TaskSpec
from fleetlog_schemas.workers import Offered


def host(name: str, *functions: tuple[str, str], queues: tuple[str, ...] = ("default",), said: bool = True, online: bool = True) -> Host:
    offered = [Offered(name, "default", "m", signature) for name, signature in functions]
    return Host(host_id=f"id-{name}", name=name, public_key="", online=online, facts=dict(facts_of(offered, queues)) if said else {})


def hosts_of(*hosts: Host, function: Function | None = None, chosen: bool = True, **fields: Any) -> list[str]:
    spec = TaskSpec(payload=function or Function("add", (1,)), target="all", choose=Choose() if chosen else None, **fields)
    assert isinstance(spec.payload, Function)
    return [one.name for one in runs_on(spec, spec.payload, list(hosts))]


def refused(*hosts: Host, function: Function | None = None, **fields: Any) -> Unfit:
    with pytest.raises(Unfit) as caught:
        hosts_of(*hosts, function=function, **fields)
    return caught.value


ADD = ("add", "(a: int, b: int = 1) -> int")
ADD_TEXTS = ("add", "(a: str) -> str")


def test_any_host_that_offers_it_and_serves_the_queue_may_run_it() -> None:
    assert hosts_of(host("a", ADD), host("b"), host("c", ADD, queues=("mail",))) == ["a"]
    assert hosts_of(host("a", ADD), host("b"), chosen=False) == ["a", "b"], "all of a target, as it was said"


def test_a_name_that_nobody_offers_is_refused_with_what_is_like_it() -> None:
    error = refused(host("a", ADD), function=Function("ad"))
    assert (error.code, error.pointer) == (UNKNOWN, "/payload/name")
    assert error.message == "no host of the target offers the function 'ad'; did you mean add?"


def test_a_host_that_was_never_heard_is_waited_for_and_one_that_just_came_is_asked() -> None:
    known, absent, coming = host("a", ADD), host("b", said=False, online=False), host("c", said=False)
    new = Function("new")
    assert refused(known, absent, function=new).code == UNKNOWN
    assert hosts_of(known, absent, function=new, wait_offline_ms=1000) == ["b"]
    assert hosts_of(known, coming, function=new) == ["c"]
    assert hosts_of(known, coming) == ["a"], "those that offer it come first"


def test_where_hosts_have_several_versions_those_are_meant_that_take_the_arguments() -> None:
    old, new = host("old", ADD), host("new", ADD_TEXTS)
    assert hosts_of(old, new, function=Function("add", ("x",))) == ["new"]
    assert hosts_of(old, new, function=Function("add", (1,))) == ["old"]
    error = refused(old, new, function=Function("add", ([],)))
    assert (error.code, error.pointer) == (WRONG_ARGUMENTS, "/payload/args/0")
    assert error.message == (
        "hosts have different versions of it, and none takes these arguments: on new, argument a of add: Expected `str`, got `array`;"
        " on old, argument a of add: Expected `int`, got `array`"
    )


def test_parameters_and_secrets_of_a_definition_are_arguments_of_the_same_name() -> None:
    offering = host("a", ("send", "(to: str, token: str) -> None"))
    send = Function("send", (), {"to": "x"})
    assert refused(offering, function=send).message == "send(to: str, token: str) -> None: missing a required argument: 'token'"
    secret = Options(env_names=("FLEETLOG_PARAM_TOKEN",), secret_names=("FLEETLOG_PARAM_TOKEN",))
    assert hosts_of(offering, function=send, options=secret, parameters={"other": 1}) == ["a"]


@pytest.mark.parametrize(
    ("signature", "args", "kwargs", "pointer", "says"),
    [
        ("(a: int)", (), {}, "/args", "missing a required argument: 'a'"),
        ("(a: int)", (1, 2), {}, "/args", "too many positional arguments"),
        ("(a: int)", (1,), {"a": 2}, "/args", "multiple values for argument 'a'"),
        ("(a: int)", (1,), {"b": 2}, "/kwargs/b", "got an unexpected keyword argument 'b'"),
        ("(a: int)", (True,), {}, "/args/0", "Expected `int`, got `bool`"),
        ("(a: int | None = None)", ("x",), {}, "/args/0", "Expected `int | null`, got `str`"),
        ("(a: Optional[list[int]])", (["x"],), {}, "/args/0", "Expected `int`, got `str` - at `$[0]`"),
        ("(a: dict[str, float])", ({"k": "x"},), {}, "/args/0", "Expected `float`, got `str`"),
        ("(a: Literal['x', 'y'])", ("z",), {}, "/args/0", "Invalid enum value 'z'"),
        ("(*rest: float, **more: str)", (1, "x"), {}, "/args/1", "argument rest of f: Expected `float`, got `str`"),
        ("(*rest: float, **more: str)", (), {"k": 1}, "/kwargs/k", "argument more of f: Expected `str`, got `int`"),
        ("(a, /, *, b: bool)", (1,), {"b": 1}, "/kwargs/b", "Expected `bool`, got `int`"),
    ],
)
def test_what_does_not_fit_is_named(signature: str, args: tuple[Any, ...], kwargs: dict[str, Any], pointer: str, says: str) -> None:
    found = signature_of(signature)
    assert found is not None
    where, message = found.problem("f", args, kwargs)
    assert where == pointer
    assert says in message


@pytest.mark.parametrize(
    ("signature", "args"),
    [
        ("(a: float, b: int = 1)", (1,)), ("(a: Path, since: dt.datetime)", ("/x", "y")), ("(a: Size | int)", ([],)), ("(a)", ({},)),
        ("(a: tuple[int, ...], b: set[int])", ([1], [2])), ("(a: list[int] | dict[str, int])", ("x",)), ("()", ()), ("(*_)", (1, "x")),
        ("(self, __struct_fields__=1)", (1,)),
    ],
)
def test_what_hints_do_not_say_is_left_to_the_host(signature: str, args: tuple[Any, ...]) -> None:
    found = signature_of(signature)
    assert found is None or found.problem("f", args, {}) == ("", "")


@pytest.mark.parametrize("text", ["", "(a: int, b: in", "(a=<object at 0x1>)", "(a): pass\ndef g()", "(" * 200, "(a" + "[" * 150, "(a, a)"])
def test_a_signature_that_cannot_be_read_checks_nothing(text: str) -> None:
    assert signature_of(text) is None
