"""Definitions: their rules, their parameters, and the task that a run of one is."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlog_schemas import catalog, definition_events, events, limits
from fleetlog_schemas.codec import Event
from fleetlog_schemas.definitions import (
    Arguments,
    Chosen,
    Definition,
    Parameter,
    WrongParameters,
    check_arguments,
    check_definition,
    from_texts,
    is_name,
    json_schema,
    task_of,
    variable,
    variables,
)
from fleetlog_schemas.parameters import as_text
from fleetlog_schemas.patterns import PatternError, check_pattern, fault
from fleetlog_schemas.spec import (
    Blob,
    Options,
    Origin,
    Retry,
    Rollout,
    Shell,
    SpecError,
    TaskSpec,
    check_spec,
)

BLOB = Blob("ab" * 32, 3, "env")
SPEC = TaskSpec(payload=Shell(argv=("df", "-h")), target="web*")


def definition(spec: TaskSpec = SPEC, name: str = "disk-report", **parameters: Parameter) -> Definition:
    return Definition(name=name, spec=spec, parameters=parameters)


def replaced(**fields: Any) -> TaskSpec:
    return msgspec.structs.replace(SPEC, **fields)


def faults(parameters: dict[str, Parameter], given: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(WrongParameters) as caught:
        check_arguments(parameters, given)
    return {fault.pointer: fault.message for fault in caught.value.faults}


@pytest.mark.parametrize("name", ["a", "disk-report", "0", "a_b", "x" * 63])
def test_a_name_is_one_word_that_is_never_a_path(name: str) -> None:
    assert is_name(name)
    check_definition(definition(name=name))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a.sh", "A", "-a", "a b", "ä", "x" * 64, "a\n", "../etc", "%2e"])
def test_what_could_be_a_path_or_another_name_on_some_disk_is_no_name(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(SpecError) as caught:
        check_definition(definition(name=name))
    assert caught.value.pointer == "/name"


@pytest.mark.parametrize(
    ("spec", "pointer"),
    [
        (replaced(name="x"), "/spec/name"), (replaced(host_ids=("h1",)), "/spec/host_ids"), (replaced(key="k"), "/spec/key"),
        (replaced(plan_hash="ff"), "/spec/plan_hash"), (replaced(rerun_of="x"), "/spec/rerun_of"),
        (replaced(definition=Origin("i", 1, "n")), "/spec/definition"), (replaced(priority=11), "/spec/priority"),
        (replaced(payload=Shell(argv=())), "/spec/payload/argv"), (replaced(timeout_ms=0), "/spec/timeout_ms"),
        (replaced(options=Options(env=BLOB, env_names=("A",), secret_names=("A",))), "/spec/options/secret_names"),
        (replaced(options=Options(env=BLOB, env_names=("FLEETLOG_PARAM_A",))), "/spec/options/env_names/0"),
    ],
)
def test_what_only_a_task_has_and_what_no_task_may_be_is_in_no_definition(spec: TaskSpec, pointer: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_definition(definition(spec))
    assert caught.value.pointer == pointer


def test_every_option_of_a_task_may_stand_in_a_definition() -> None:
    check_definition(definition(replaced(
        target="", retry=Retry(attempts_max=3), priority=9, queue="web", single_run="queue", key_parallel=2, parallel=4,
        rollout=Rollout(waves=("1", "50%")), failures_max="5%", wait_offline_ms=1000, tags=("nightly",), ignore_windows=True,
        task_timeout_ms=5000,
    )))


@pytest.mark.parametrize(
    ("parameter", "field"),
    [
        (Parameter("boolean", min=1), "min"), (Parameter("integer", min=3, max=2), "min"), (Parameter("enum"), "values"),
        (Parameter("string", values=("a",)), "values"), (Parameter("enum", values=("a", "a")), "values"),
        (Parameter("integer", pattern="a"), "pattern"), (Parameter(pattern="(a+)+"), "pattern"), (Parameter(pattern="["), "pattern"),
        (Parameter("integer", default="7"), "default"), (Parameter("enum", values=("a",), default="b"), "default"),
        (Parameter("secret", default="s"), "default"), (Parameter(required=True, default="s"), "default"),
        (Parameter("integer", default=True), "default"), (Parameter("list", default=("a", "")), "default"),
        (Parameter("number", default=float("nan")), "default"), (Parameter(default="\ud800"), "default"),
    ],
)
def test_a_parameter_that_cannot_be_is_refused_where_it_is_wrong(parameter: Parameter, field: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_definition(definition(p=parameter))
    assert caught.value.pointer == f"/parameters/p/{field}"


@pytest.mark.parametrize("name", ["A", "1a", "a-b", "", "a/b", "LD_PRELOAD"])
def test_a_parameters_name_makes_exactly_one_variable(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_definition(definition(**{name: Parameter()}))
    assert caught.value.pointer.startswith("/parameters/")


def test_values_and_defaults_reach_the_environment_and_secrets_only_that() -> None:
    found = check_arguments(
        {
            "path": Parameter(default="/"), "depth": Parameter("integer", min=1, max=9), "share": Parameter("number"),
            "all": Parameter("boolean", default=False), "unit": Parameter("enum", values=("k", "m")),
            "only": Parameter("list", pattern="[a-z]+"), "token": Parameter("secret", required=True), "left": Parameter(),
        },
        {"depth": 2, "share": 0.5, "unit": "m", "only": ["a", "b"], "token": "hunter2", "path": None},
    )
    assert found.values == {"path": "/", "depth": 2, "share": 0.5, "all": False, "unit": "m", "only": ("a", "b")}
    assert variables(found.values) == {
        "FLEETLOG_PARAM_PATH": "/", "FLEETLOG_PARAM_DEPTH": "2", "FLEETLOG_PARAM_SHARE": "0.5", "FLEETLOG_PARAM_ALL": "false",
        "FLEETLOG_PARAM_UNIT": "m", "FLEETLOG_PARAM_ONLY": "a\nb",
    }
    assert found.secrets == {"FLEETLOG_PARAM_TOKEN": "hunter2"}


def test_everything_that_is_wrong_is_told_at_once_and_no_secret_is_repeated() -> None:
    found = faults(
        {
            "depth": Parameter("integer", min=1), "unit": Parameter("enum", values=("k", "m")), "host": Parameter(required=True),
            "token": Parameter("secret", max=3), "flag": Parameter("boolean"), "only": Parameter("list", max=1),
        },
        {"depth": 0, "unit": "g", "token": 1234567, "flag": "yes", "only": ["a", "b"], "a/b": 1},
    )
    assert set(found) == {
        "/parameters/a~1b", "/parameters/depth", "/parameters/unit", "/parameters/host", "/parameters/token", "/parameters/flag",
        "/parameters/only",
    }
    assert found["/parameters/depth"] == "depth must be at least 1"
    assert "1234567" not in str(found)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (Parameter("integer"), 2**63), (Parameter("integer"), 1.0), (Parameter("integer"), True), (Parameter("number"), "1"),
        (Parameter("number"), float("inf")), (Parameter("number"), False), (Parameter(), 1), (Parameter(), "a\x00b"),
        (Parameter(), "\ud800"), (Parameter(), "x" * (limits.PARAMETER_BYTES_MAX + 1)), (Parameter("list"), "a"),
        (Parameter("list"), ["a\nb"]), (Parameter("list"), [""]), (Parameter("list"), [1]), (Parameter("list"), ["a"] * 201),
        (Parameter("enum", values=("a",)), ["a"]), (Parameter(pattern="[a-z]+"), "a1"), (Parameter(pattern="[a-z]+"), "a\n"),
        (Parameter(pattern="[a-z]*[a-z]*[a-z]*"), "a" * 201), (Parameter("list", pattern="[a-z]+[0-9]*"), ["a" * 90] * 200), (Parameter("boolean"), 1), (Parameter("secret"), None if False else ["x"]),
    ],
)
def test_a_value_that_is_not_as_declared_is_refused(parameter: Parameter, value: Any) -> None:
    assert set(faults({"p": parameter}, {"p": value})) == {"/parameters/p"}


@given(st.dictionaries(st.text(max_size=5), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
)))
def test_whatever_is_given_is_taken_or_refused_and_nothing_else(given_values: dict[str, Any]) -> None:
    parameters = {name: Parameter(kind) for name, kind in zip("abcd", ("string", "integer", "number", "list"), strict=True)}
    try:
        found = check_arguments(parameters, given_values)
    except WrongParameters as wrong:
        assert wrong.faults
    else:
        assert set(variables(found.values)) <= {variable(name) for name in parameters}
        assert all("\x00" not in text for text in variables(found.values).values())


@pytest.mark.parametrize("value", ["; touch /tmp/x", "$(id)", "`id`", "a\nb", "--", "-rf", "${IFS}", "{{ 7*7 }}", "%n", "'\""])
def test_a_value_becomes_no_part_of_what_is_run(value: str) -> None:
    made = definition(replaced(payload=Shell(argv=("sh", "-c", "df ${param:path} $FLEETLOG_PARAM_PATH"))), path=Parameter())
    arguments = check_arguments(made.parameters, {"path": value})
    spec = task_of(made, "id", 1, arguments, BLOB, Chosen())
    assert spec.payload == made.spec.payload
    assert variables(arguments.values) == {"FLEETLOG_PARAM_PATH": value}


@pytest.mark.parametrize(
    ("of_type", "texts", "value"),
    [
        ("integer", ["7"], 7), ("integer", ["x"], "x"), ("number", ["0.5"], 0.5), ("number", ["2"], 2), ("boolean", ["Yes"], True),
        ("boolean", ["off"], False), ("boolean", ["2"], "2"), ("list", ["a", "b"], ["a", "b"]), ("list", [""], []),
        ("string", [""], ""), ("enum", ["k"], "k"),
    ],
)
def test_what_was_typed_becomes_a_value_of_the_declared_type(of_type: Any, texts: list[str], value: Any) -> None:
    assert from_texts(Parameter(of_type), texts) == value


def test_what_is_no_list_is_given_once() -> None:
    with pytest.raises(ValueError, match="more than once"):
        from_texts(Parameter(), ["a", "b"])


def test_the_schema_says_the_same_as_the_check() -> None:
    made = definition(
        path=Parameter(description="where", default="/", pattern="/[a-z]*", max=9), depth=Parameter("integer", required=True, min=1),
        unit=Parameter("enum", values=("k", "m")), only=Parameter("list", min=1), token=Parameter("secret"),
    )
    assert json_schema(made) == {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "disk-report", "type": "object",
        "additionalProperties": False, "required": ["depth"],
        "properties": {
            "path": {"type": "string", "description": "where", "default": "/", "pattern": "^(?:/[a-z]*)$", "maxLength": 9},
            "depth": {"type": "integer", "minimum": 1}, "unit": {"type": "string", "enum": ["k", "m"]},
            "only": {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": 200},
            "token": {"type": "string", "writeOnly": True},
        },
    }


def test_a_run_is_a_task_that_says_which_version_it_is_and_has_the_definition_as_its_key() -> None:
    made = definition(
        replaced(single_run="refuse", options=Options(env=BLOB, env_names=("A",))), path=Parameter(default="/"), token=Parameter("secret"),
    )
    arguments = check_arguments(made.parameters, {"token": "hunter2"})
    spec = task_of(made, "0190-id", 3, arguments, BLOB, Chosen(narrow="dc=b"))
    check_spec(spec)
    assert (spec.name, spec.key, spec.target) == ("disk-report", "0190-id", "(web*) and (dc=b)")
    assert spec.definition == Origin("0190-id", 3, "disk-report", {"path": "/"})
    assert spec.options.env_names == ("A", "FLEETLOG_PARAM_TOKEN")
    assert spec.options.secret_names == ("FLEETLOG_PARAM_TOKEN",)
    assert b"hunter2" not in msgspec.json.encode(spec)
    assert task_of(made, "0190-id", 3, arguments, BLOB, Chosen(target="db*")).target == "db*"


def test_a_definition_without_a_target_is_run_only_where_it_is_said() -> None:
    made = definition(replaced(target=""))
    with pytest.raises(SpecError) as caught:
        task_of(made, "i", 1, Arguments({}, {}), None, Chosen(narrow="web*"))
    assert caught.value.pointer == "/target"
    assert task_of(made, "i", 1, Arguments({}, {}), None, Chosen(target="all")).target == "all"


@pytest.mark.parametrize("pattern", ["[a-z]+", r"\d+\.\d+\.\d+", "v?[0-9]{1,3}(?:-rc)?", "a|b|c", r"[^\]]*", "[]a]+", r"\[x\]", "(ab|c)?d"])
def test_usual_patterns_are_taken(pattern: str) -> None:
    check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+", "(a|a)*", "(?=a)", "(?i)a", r"(a)\1", "a**", "a+?", "a*a*a*a*a*", "a{1,20}{1,20}", "[", "(", "a" * 257, r"\Aa", "(a?)" * 30],
)
def test_patterns_that_could_take_for_ever_are_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        check_pattern(pattern)


@given(st.text(alphabet="ab(|)?*+[]{},12\\d^$.", max_size=20))
def test_a_pattern_is_taken_and_works_or_is_refused(pattern: str) -> None:
    try:
        check_pattern(pattern)
    except PatternError:
        return
    assert fault(pattern, "a" * 30 + "b") in ("", f"must match {pattern}"), "each pattern takes so many characters"


# --- the catalog ------------------------------------------------------------------------------------------


def folded(*data: events.Data) -> catalog.Catalog:
    found = catalog.Catalog()
    for seq, one in enumerate(data, 1):
        catalog.apply(found, Event(id=str(seq), source="/t", data=one, time_ms=seq * 1000, seq=seq, authid="ann"))
    return found


def made(definition_id: str, version: int, name: str = "report", *argv: str) -> definition_events.DefinitionSet:
    return definition_events.DefinitionSet(definition_id, version, Definition(name, TaskSpec(payload=Shell(argv=argv or ("true",)))))


def test_the_newest_version_stands_and_the_fold_knows_where_the_others_are() -> None:
    known = folded(made("d1", 1), made("d1", 2, "report", "false"), made("d2", 1, "other")).named("report")
    assert known is not None
    assert (known.version, known.definition.spec.payload, known.seqs) == (2, Shell(("false",)), (1, 2))
    assert [known.seq_of(version) for version in (0, 1, 2, 3)] == [0, 1, 2, 0]


@pytest.mark.parametrize("late", [made("d1", 1), made("d1", 3), made("d9", 2), made("d1", 1, "other")])
def test_what_rests_on_another_version_or_takes_a_name_or_an_id_is_void(late: definition_events.DefinitionSet) -> None:
    assert folded(made("d1", 1), late) == folded(made("d1", 1))


def test_a_removed_name_is_free_and_its_versions_go_on() -> None:
    found = folded(made("d1", 1), made("d1", 2), definition_events.DefinitionRemoved("d1", "report"), made("d2", 1), made("d2", 3))
    known = found.named("report")
    assert known is not None
    assert (known.definition_id, known.version, found.named("d1")) == ("d2", 3, None)
    assert found.bytes == known.bytes


def test_only_the_newest_versions_are_listed() -> None:
    found = folded(*(made("d1", version) for version in range(1, limits.DEFINITION_VERSIONS_MAX + 3)))
    known = found.named("d1")
    assert known is not None
    assert len(known.seqs) == limits.DEFINITION_VERSIONS_MAX
    assert (known.seq_of(2), known.seq_of(3)) == (0, 3)


def test_values_are_written_as_processes_find_them() -> None:
    assert [as_text(value) for value in (True, False, 3, 0.5, "a b", ("a", "b"), [])] == ["true", "false", "3", "0.5", "a b", "a\nb", ""]


@given(st.lists(
    st.builds(made, st.sampled_from(["d1", "d2", "d3"]), st.integers(1, 4), st.sampled_from(["a", "b"]), st.sampled_from(["x", "y"]))
    | st.builds(definition_events.DefinitionRemoved, st.sampled_from(["d1", "d2", "d3"]), st.just("a")),
    max_size=20,
))
def test_whatever_comes_in_whatever_order_a_version_of_a_name_comes_once_and_the_books_agree(data: list[events.Data]) -> None:
    found = catalog.Catalog()
    seen: dict[tuple[str, int], int] = {}
    for seq, one in enumerate(data, 1):
        event = Event(id=str(seq), source="/t", data=one, time_ms=seq, seq=seq)
        if catalog.apply(found, event) and isinstance(one, definition_events.DefinitionSet):
            assert seen.setdefault((one.definition.name, one.version), seq) == seq
        assert {known.definition_id: name for name, known in found.by_name.items()} == found.names
        assert found.bytes == sum(known.bytes for known in found.by_name.values())
        assert not set(found.by_name) & set(found.removed)
        for name, known in found.by_name.items():
            assert known.seq_of(known.version) == seen[name, known.version]
