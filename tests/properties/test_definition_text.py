"""A definition as a file: its canonical text reads back as the same definition, and any text is read or refused clearly."""

from __future__ import annotations

import tomllib
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fleetlog.definition_text import (
    Contents,
    Kept,
    TextError,
    canonical,
    environment_bytes,
    read,
    with_version,
    write,
)
from fleetlog_schemas.definitions import Definition, Parameter, check_definition
from fleetlog_schemas.graph import Binding
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.spec import (
    Blob,
    Choose,
    Function,
    Options,
    Part,
    Retry,
    Rollout,
    Script,
    Shell,
    SpecError,
    TaskSpec,
    Workflow,
)

PLAIN = st.characters(exclude_categories=["Cs"])
TEXTS = st.text(PLAIN, max_size=12) | st.sampled_from(['"""', "'''", "\\", "a\r\nb", "\r", "\t", "\x7f", "\x00", '"', "\n", ' """ \\', "#", "x = 1\n[y]\n"])
LINES = st.text(PLAIN, min_size=1, max_size=12).filter(lambda text: not set("\n\r\x00") & set(text))
WORDS = st.text("abz09", min_size=1, max_size=6)


def no_nul(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return texts.filter(lambda text: "\x00" not in text)


@st.composite
def parameters(draw: st.DrawFn) -> Parameter:
    of_type = draw(st.sampled_from(["string", "integer", "number", "boolean", "enum", "list", "secret"]))
    values = tuple(draw(st.lists(no_nul(TEXTS), min_size=1, max_size=3, unique=True))) if of_type == "enum" else ()
    default: Any = draw(st.none() | {
        "string": no_nul(TEXTS), "integer": st.integers(-(2**63), 2**63 - 1), "boolean": st.booleans(),
        "number": st.floats(-1e15, 1e15) | st.integers(-99, 99),
        "enum": st.sampled_from(values or ("",)), "list": st.lists(LINES, max_size=3).map(tuple), "secret": st.none(),
    }[of_type])
    return Parameter(
        of_type, draw(TEXTS), required=draw(st.booleans()) and default is None, default=default, values=values,
        max=draw(st.none() | st.just(2**63 - 1)) if of_type in ("string", "integer", "number", "list") else None,
        pattern="",
    )


@st.composite
def workflows(draw: st.DrawFn, spec: TaskSpec) -> Workflow:
    given = st.dictionaries(st.sampled_from(["wait_seconds", "env", "min"]), st.sampled_from([
        Binding(parameter="path"), Binding(part="a", path="/x y/0", by_host=True), Binding(item=True)]), max_size=2)
    lists = st.none() | st.just(Binding(part="a", path="/l")) | st.lists(TEXTS | st.integers(-9, 9) | st.booleans(), max_size=3).map(tuple)
    values = st.dictionaries(st.sampled_from(["wait_ms", "b"]), TEXTS | st.integers(-9, 9), max_size=2)
    names = draw(st.lists(st.sampled_from(["a", "given", "wait_seconds", "parts", "x-1"]), min_size=1, max_size=3, unique=True))
    return Workflow(tuple(
        Part(
            name, task=None if by_name else spec, definition="deploy" if by_name else "", target="web*" if by_name else "",
            parameters=draw(values), given=draw(given), after=tuple(names[:number]), for_each=draw(lists),
            when=draw(st.sampled_from(["success", "failure"])), items_parallel=draw(st.integers(0, 2)),
        )
        for number, name in enumerate(names) for by_name in (draw(st.booleans()),)
    ))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False, width=32) | no_nul(TEXTS),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "timeout_ms", "x y"]), inner, max_size=2), max_leaves=4,
)


@st.composite
def definitions(draw: st.DrawFn) -> tuple[Definition, Contents]:
    contents = Contents()

    def blob(content: bytes, name: str) -> Blob:
        return msgspec.convert(contents.add(content, name), Blob)

    payload: Shell | Script | Function = Shell((draw(WORDS), *draw(st.lists(no_nul(TEXTS), max_size=2))))
    if draw(st.booleans()):
        script = draw(st.binary(max_size=20) | TEXTS.map(str.encode))
        payload = Script(blob(script, draw(st.sampled_from(["", "x.sh"]) | WORDS)), ("/bin/sh",), tuple(draw(st.lists(no_nul(TEXTS), max_size=2))))
    elif draw(st.booleans()):
        payload = Function(draw(st.sampled_from(["f", "ops.clean"])), tuple(draw(st.lists(JSON, max_size=2))), draw(st.dictionaries(WORDS, JSON, max_size=2)))
    environment = draw(st.dictionaries(st.sampled_from(["A", "B_1", "timeout_ms"]), TEXTS, max_size=2))
    options = Options(
        env=blob(environment_bytes(environment), draw(st.sampled_from(["env", "other"]))) if environment else None,
        env_names=tuple(sorted(environment)), stdin=draw(st.none() | st.binary(max_size=9).map(lambda one: blob(one, "stdin"))),
        umask=draw(st.none() | st.just(0o22)), cwd=draw(st.none() | st.just("/srv")),
    )
    if isinstance(payload, Function):
        options = msgspec.structs.replace(options, stdin=None, umask=None, cwd=None)
    spec = TaskSpec(
        payload=payload, target=draw(st.sampled_from(["", "web*", "env=prod and not dc=b"])), options=options,
        timeout_ms=draw(st.integers(1, 10**7)), wait_offline_ms=draw(st.integers(0, 10**7)),
        retry=Retry(draw(st.integers(1, 9)), draw(st.just(Retry().on) | st.just((Outcome.LOST,))), draw(st.integers(0, 60_000))),
        priority=draw(st.integers(1, 10)), single_run=draw(st.sampled_from(["", "refuse", "queue", "replace"])),
        choose=draw(st.none() | st.just(Choose(3, "spread", "dc"))),
        rollout=draw(st.none() | st.builds(Rollout, waves=st.just(("1", "50%")), soak_ms=st.integers(0, 9999), approve=st.just((2,)))),
        tags=tuple(draw(st.lists(WORDS, max_size=2))),
    )
    if draw(st.booleans()):
        spec = TaskSpec(payload=draw(workflows(spec)), priority=spec.priority, tags=spec.tags, task_timeout_ms=draw(st.integers(0, 9)))
    given_parameters = draw(st.dictionaries(st.sampled_from(["path", "backoff_ms", "min", "x_seconds"]), parameters(), max_size=3))
    return Definition(draw(WORDS), spec, draw(TEXTS), given_parameters), contents


def nothing_beside(name: str) -> bytes:
    raise TextError(f"there is no {name}")


def nothing_kept(name: str) -> Kept:
    raise TextError(f"there is no task file {name}")


@given(definitions(), st.integers(0, 10**6))
def test_what_is_pulled_and_pushed_is_the_same_definition(made: tuple[Definition, Contents], version: int) -> None:
    definition, contents = made
    if not isinstance(definition.spec.payload, Workflow):  # whose bindings are drawn without regard to what they mean
        check_definition(definition)
    text = write(definition, version, contents)
    found = read(text, nothing_beside, nothing_kept)
    assert found.definition == definition
    assert found.version == version
    assert found.contents.by_digest == {blob: contents.by_digest[blob] for blob in found.contents.by_digest}
    assert write(found.definition, version, found.contents) == text, "the text is canonical"
    assert canonical(found) == write(definition, 0, contents)


@given(definitions(), st.integers(1, 10**6), st.integers(0, 5))
def test_the_version_is_written_into_a_file_and_nothing_else_changes(
    made: tuple[Definition, Contents], version: int, before: int
) -> None:
    text = "# by hand\n" + write(made[0], before, made[1])
    changed = with_version(text, version)
    assert tomllib.loads(changed) == {**tomllib.loads(text), "version": version}
    assert changed.startswith(("# by hand\n", f"version = {version}\n# by hand\n"))


@given(st.text(max_size=200) | st.text("[]{}=\"'.#\nabc_10-", max_size=60))
@example("name = 'a'\nretry = 3")
@example("options = []\n")
@example("timeout_seconds = 1979-05-27\n")
@example("timeout_seconds = nan\n")
@example("env = {A = 1}\n")
@example("script = 'x'\nscript_file = 'y'\n")
@example("max_retries = 1" + "0" * 400)
@example("a = " + "[" * 2000)
def test_any_text_is_read_or_refused_clearly(text: str) -> None:
    try:
        found = read(text, nothing_beside, nothing_kept)
        check_definition(found.definition)
    except (TextError, SpecError) as error:
        assert str(error)


@given(st.recursive(
    st.booleans() | st.integers(-9, 9) | st.text(max_size=4), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
        st.sampled_from(["sha256", "attempts_max", "kind", "argv", "env", "timeout_seconds", "soak_seconds"]), inner, max_size=2),
), st.sampled_from(["name", "version", "kind", "argv", "script", "script_name", "stdin", "env", "options", "retry", "rollout", "payload",
                    "max_retries", "parameters", "tags", "timeout_seconds", "description", "spec", "definition"]))
def test_a_field_of_any_shape_is_taken_or_refused_clearly(value: Any, field: str) -> None:
    text = f"{field} = {toml(value)}\n"
    try:
        check_definition(read(text, nothing_beside, nothing_kept).definition)
    except (TextError, SpecError) as error:
        assert str(error)


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, int) else '"' + "".join(
        f"\\U{ord(mark):08x}" if not 0xD800 <= ord(mark) < 0xE000 else "?" for mark in value) + '"'


def test_a_file_says_what_people_would_write() -> None:
    text = """
        # How full the disks are.
        name = "disk-report"
        target = "role=web"
        timeout_seconds = 1.5
        max_retries = 2
        script_file = "tools/disk.sh"
        [env]
        LANG = "C"
        [parameters.path]
        default = "/"
    """
    found = read(text, {"tools/disk.sh": b"df\n"}.__getitem__, nothing_kept)
    spec = found.definition.spec
    assert (spec.timeout_ms, spec.retry.attempts_max, spec.options.env_names) == (1500, 3, ("LANG",))
    assert isinstance(spec.payload, Script)
    assert (spec.payload.content.name, found.contents.of(spec.payload.content)) == ("disk.sh", b"df\n")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("timout_seconds = 3", "timout_seconds"), ("argv = 'df'", "argv"), ("max_retries = 'x'", "max_retries"), ("name = ", "not TOML"),
        ("stdin_name = 'x'", "there is no stdin"), ("script_base64 = '%'", "not base64"), ("version = -1", "version"),
        ("retry = {attempts_max = 3}", "max_retries"), ("options = {env = {}}", "outside"), ("script_file = 'no.sh'", "no.sh"),
        ("user = 'root'", r"^user is one of the options: write it below \[options\]$"),
        ("task_file = 'no.sh'", "no task file no.sh"), ("task_file = 3", "must be a text"),
        ("task_file = 'a'\nscript = 'b'", "in the place of script"), ("task_file = 'a'\nargv = ['b']", "in the place of argv"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(line: str, said: str) -> None:
    with pytest.raises(TextError, match=said):
        read(f"name = 'a'\n{line}\n" if "name = " not in line or "_name" in line else line, nothing_beside, nothing_kept)


TEXT_OF_KEPT = """
name = "nightly"
[parts.clean]
task_file = "jobs/clean.py"
target = "web*"
[parts.report]
task_file = "jobs/clean.py@2"
interpreter = ["python3.12"]
target = "web*"
"""


def test_a_task_file_stands_by_name_and_version_and_a_name_alone_is_the_newest() -> None:
    versions = {"jobs/clean.py": 3, "jobs/clean.py@2": 2, "jobs/clean.py@3": 3}
    kept = {name: Kept(f"jobs/clean.py@{number}", b"print(%d)\n" % number, ("python3",)) for name, number in versions.items()}
    found = read(TEXT_OF_KEPT, nothing_beside, kept.__getitem__)
    assert isinstance(found.definition.spec.payload, Workflow)
    scripts = [part.task.payload for part in found.definition.spec.payload.parts if part.task]
    assert [(one.content.name, one.interpreter, found.contents.of(one.content)) for one in scripts if isinstance(one, Script)] == [
        ("jobs/clean.py@3", ("python3",), b"print(3)\n"), ("jobs/clean.py@2", ("python3.12",), b"print(2)\n"),
    ]
    text = write(found.definition, 1, found.contents)
    assert [line for line in text.splitlines() if line.startswith("task_file")] == ['task_file = "jobs/clean.py@3"', 'task_file = "jobs/clean.py@2"']
    assert read(text, nothing_beside, kept.__getitem__).definition == found.definition


def test_content_that_only_bears_the_name_of_a_task_file_is_written_out() -> None:
    contents = Contents()
    blob = contents.add(b"echo other\n", "jobs/clean.py@2")
    contents.kept["jobs/clean.py@2"] = "0" * 64
    definition = Definition("a", TaskSpec(payload=Script(msgspec.convert(blob, Blob)), target="all"))
    text = write(definition, 1, contents)
    assert "echo other" in text
    assert "task_file" not in text
    assert read(text, nothing_beside, nothing_kept).definition == definition
