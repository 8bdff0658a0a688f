"""Every rule of a specification names the field that breaks it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fleetlog_schemas import limits
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.spec import (
    Blob,
    Function,
    Options,
    Retry,
    Script,
    Shell,
    SpecError,
    TaskSpec,
    check_spec,
    kind,
)

D = "ab" * 32
GOOD = Blob(sha256=D, size=1)
TRUE = Shell(argv=("true",))


def spec(**fields: Any) -> TaskSpec:
    return TaskSpec(**{"payload": TRUE, "target": "web1", **fields})


def options(**fields: Any) -> TaskSpec:
    return spec(options=Options(**fields))


def nested(depth: int) -> tuple[Any, ...]:
    value: tuple[Any, ...] = ()
    for _ in range(depth):
        value = (value,)
    return value


BROKEN: list[tuple[str, TaskSpec]] = [
    ("/payload/argv", spec(payload=Shell(argv=()))),
    ("/payload/argv", spec(payload=Shell(argv=("",)))),
    ("/payload/argv/1", spec(payload=Shell(argv=("echo", "a\x00b")))),
    ("/payload/argv/1", spec(payload=Shell(argv=("echo", "\udcff")))),
    ("/payload/argv", spec(payload=Shell(argv=("echo", "x" * limits.ARGV_BYTES_MAX)))),
    ("/payload/content/sha256", spec(payload=Script(content=Blob("AB" * 32, 1)))),
    ("/payload/content/size", spec(payload=Script(content=Blob(D, -1)))),
    ("/payload/content/size", spec(payload=Script(content=Blob(D, limits.BLOB_BYTES_MAX + 1)))),
    ("/payload/content/name", spec(payload=Script(content=Blob(D, 1, "x" * 4097)))),
    ("/payload/interpreter", spec(payload=Script(content=GOOD, interpreter=()))),
    ("/payload/args/0", spec(payload=Script(content=GOOD, args=("\x00",)))),
    ("/target", spec(target="")),
    ("/target", spec(target="  \t")),
    ("/target", spec(target="web1", host_ids=("h1",))),
    ("/target", spec(target="w" * (limits.ARGV_BYTES_MAX + 1))),
    ("/target", spec(target="web\udcff")),
    ("/host_ids/1", spec(target="", host_ids=("h1", "h.2"))),
    ("/host_ids", spec(target="", host_ids=("h",) * (limits.HOSTS_PER_TASK_MAX + 1))),
    ("/name", spec(name="n" * 201)),
    ("/name", spec(name="\ud800")),
    ("/timeout_ms", spec(timeout_ms=0)),
    ("/timeout_ms", spec(timeout_ms=limits.TIMEOUT_MS_MAX + 1)),
    ("/task_timeout_ms", spec(task_timeout_ms=-1)),
    ("/wait_offline_ms", spec(wait_offline_ms=-1)),
    ("/parallel", spec(parallel=-1)),
    ("/retry/attempts_max", spec(retry=Retry(attempts_max=0))),
    ("/retry/attempts_max", spec(retry=Retry(attempts_max=101))),
    ("/retry/backoff_ms", spec(retry=Retry(backoff_ms=-1))),
    ("/retry/backoff_ms_max", spec(retry=Retry(backoff_ms=10, backoff_ms_max=9))),
    ("/retry/on/1", spec(retry=Retry(on=(Outcome.LOST, Outcome.SUCCESS)))),
    ("/retry/on/0", spec(retry=Retry(on=(Outcome.CANCELLED,)))),
    ("/retry/on/0", spec(retry=Retry(on=(Outcome.SKIPPED,)))),
    ("/tags", spec(tags=("t",) * 33)),
    ("/tags/0", spec(tags=("-x",))),
    ("/tags/1", spec(tags=("ok", "t" * 64))),
    ("/rerun_of", spec(rerun_of="x" * 65)),
    ("/plan_hash", spec(plan_hash="x" * 65)),
    ("/options/env/sha256", options(env=Blob("x", 1), env_names=("A",))),
    ("/options/stdin/size", options(stdin=Blob(D, -1))),
    ("/options/env_names/0", options(env=GOOD, env_names=("1A",))),
    ("/options/env_names/0", options(env=GOOD, env_names=("A=B",))),
    ("/options/secret_names/0", options(env=GOOD, env_names=("A",), secret_names=("B",))),
    ("/options/env", options(env=GOOD)),
    ("/options/env", options(env_names=("A",))),
    ("/options/cwd", options(cwd="relative")),
    ("/options/cwd", options(cwd="/a\x00b")),
    ("/options/cwd", options(cwd="/\udcff")),
    ("/options/user", options(user="root; rm")),
    ("/options/user", options(user="")),
    ("/options/umask", options(umask=-1)),
    ("/options/umask", options(umask=0o1000)),
    ("/options/memory_bytes_max", options(memory_bytes_max=1)),
    ("/options/files_max", options(files_max=7)),
    ("/options/output_bytes_max", options(output_bytes_max=-1)),
    ("/options/exit_codes", options(exit_codes=())),
    ("/options/exit_codes/1", options(exit_codes=(0, 256))),
    ("/options/exit_codes/0", options(exit_codes=(-1,))),
    ("/payload/args", spec(payload=Function("add", (2**63,)))),
    ("/payload/kwargs", spec(payload=Function("add", kwargs={"a": [{"b": -(2**63) - 1}]}))),
    ("/payload/args", spec(payload=Function("add", nested(limits.FUNCTION_ARGUMENTS_DEPTH_MAX + 1)))),
    ("/payload/args", spec(payload=Function("add", ("x" * limits.FUNCTION_ARGUMENTS_BYTES_MAX,)))),
    ("/parameters/a", spec(parameters={"a": 2**63})),
    ("", spec(payload=Shell(argv=("echo", "\x01" * 60_000)))),
]


@pytest.mark.parametrize(("pointer", "broken"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_rule_points_to_its_field(pointer: str, broken: TaskSpec) -> None:
    with pytest.raises(SpecError) as raised:
        check_spec(broken)
    assert raised.value.pointer == pointer
    assert raised.value.message


FULL = Options(
    env=GOOD, env_names=("A",), secret_names=("A",), stdin=GOOD, cwd="/srv", user="deploy", umask=0o27,
    memory_bytes_max=1 << 30, files_max=64, output_bytes_max=0, exit_codes=(0, 255),
)


@pytest.mark.parametrize(
    "good",
    [
        spec(),
        spec(target="", host_ids=("h1", "h2")),
        spec(payload=Script(content=GOOD, interpreter=("/usr/bin/env", "python3"), args=("-x", "")), options=FULL),
        spec(payload=Shell(argv=("echo", "", "ünïcode")), name="n" * 200, tags=("a/b.c-d_e",), parallel=1),
        spec(retry=Retry(attempts_max=100, on=(Outcome.LOST, Outcome.UNREACHED), backoff_ms=0, backoff_ms_max=0)),
        options(umask=0),
        spec(payload=Function("add", nested(limits.FUNCTION_ARGUMENTS_DEPTH_MAX), {"a": 2**63 - 1, "b": [-(2**63), 1e300, None]})),
    ],
)
def test_what_keeps_the_rules_passes_and_fits_into_one_event(good: TaskSpec) -> None:
    check_spec(good)
    assert len(msgspec.json.encode(good)) <= limits.SPEC_BYTES_MAX < limits.EVENT_BYTES_MAX


def test_a_field_that_does_not_exist_is_an_error_not_a_default() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `timeout`"):
        msgspec.json.decode(b'{"payload":{"kind":"shell","argv":["true"]},"target":"a","timeout":5}', type=TaskSpec)


def test_the_kind_is_the_tag_of_the_payload() -> None:
    assert kind(spec()) == "shell"
    assert kind(spec(payload=Script(content=GOOD))) == "script"
