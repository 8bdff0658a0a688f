"""The rules of builds, and the script that runs their steps."""

from __future__ import annotations

import subprocess
from typing import Any

import msgspec
import pytest

from fleetlog_schemas import codec, events
from fleetlog_schemas.builds import ArtifactRule, Build, Input, Step, kept_after, script_of
from fleetlog_schemas.spec import Blob, SpecError, TaskSpec, check_spec, kind, summary
from fleetlog_schemas.versions import unknown_to

STEPS = (Step(("make",)),)
CONTENT = Blob(sha256="a" * 64, size=1)


def spec(build: Build, **options: Any) -> TaskSpec:
    found = TaskSpec(payload=build, target="all")
    return msgspec.structs.replace(found, options=msgspec.structs.replace(found.options, **options))


def run(*steps: Step) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/bin/sh", "-c", script_of(Build(steps)).decode()], capture_output=True, text=True, check=False)


def test_steps_run_in_order_under_headings_up_to_the_first_that_fails() -> None:
    done = run(Step(("echo", "a  b", "$HOME", "'; exit 9")), Step(("/bin/sh", "-c", "exit 7"), "boom"), Step(("echo", "never")))
    lines = done.stdout.splitlines()
    assert (lines[1], lines[2], len(lines)) == ("a  b $HOME '; exit 9", "== step 2/3: boom", 3)
    assert (done.returncode, done.stderr) == (7, "== step 2 failed with exit code 7\n")


def test_a_step_is_a_program_and_never_a_word_of_the_shell() -> None:
    assert run(Step(("exit", "0"))).returncode == 127
    assert run(Step(("nosuchprogram",))).returncode == 127


@pytest.mark.parametrize(
    ("build", "options", "pointer"),
    [
        (Build(()), {}, "/payload/steps"),
        (Build((Step(()),)), {}, "/payload/steps/0/argv"),
        (Build((Step(("make",), "a\nb"),)), {}, "/payload/steps/0/name"),
        (Build(STEPS, (ArtifactRule("/etc/passwd"),)), {}, "/payload/artifacts/0/path"),
        (Build(STEPS, (ArtifactRule("a"), ArtifactRule("../x"))), {}, "/payload/artifacts/1/path"),
        (Build(STEPS, (ArtifactRule("a/../../x"),)), {}, "/payload/artifacts/0/path"),
        (Build(STEPS, (ArtifactRule("*.deb", "deb"),)), {}, "/payload/artifacts/0/name"),
        (Build(STEPS, (ArtifactRule("a", "x/y"),)), {}, "/payload/artifacts/0/name"),
        (Build(STEPS, (), (Input("../x", CONTENT),)), {}, "/payload/inputs/0/path"),
        (Build(STEPS, (), (Input("x", Blob("b", 1)),)), {}, "/payload/inputs/0/content/sha256"),
        (Build(STEPS, (), (Input("x", CONTENT),)), {"cwd": "/srv"}, "/payload/inputs"),
        (Build(STEPS), {"user": "ann"}, "/options/cwd"),
    ],
)
def test_a_build_that_breaks_a_rule_is_refused_where_it_does(build: Build, options: dict[str, Any], pointer: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_spec(spec(build, **options))
    assert caught.value.pointer == pointer


def test_rules_say_after_which_end_a_file_is_kept_and_a_bad_end_asks_for_nothing() -> None:
    rules = (ArtifactRule("app"), ArtifactRule("core", when="failure"), ArtifactRule("report", when="ended"))
    assert [(rule.path, rule.optional) for rule in kept_after(rules, success=True)] == [("app", False), ("report", False)]
    assert [(rule.path, rule.optional) for rule in kept_after(rules, success=False)] == [("core", True), ("report", True)]
    with pytest.raises(msgspec.ValidationError, match="when"):
        msgspec.convert({"path": "x", "when": "always"}, ArtifactRule)


def test_a_build_is_a_kind_that_older_agents_and_deciders_do_not_know() -> None:
    found = spec(Build((Step(("make", "all"), "compile"), Step(("make", "test"))), (ArtifactRule("dist/*"),)))
    check_spec(found)
    assert (kind(found), summary(found.payload)) == ("build", "compile; make test")
    assert "does not know the kind build" in unknown_to("0.2.0", found)
    assert codec.minreader(events.TasksSubmitted((events.Submission("t", found),))) == 2
    assert msgspec.json.decode(msgspec.json.encode(found), type=TaskSpec) == found
