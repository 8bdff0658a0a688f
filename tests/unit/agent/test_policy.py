"""The host's own policy: clear refusals, and no guessing at a file that cannot be understood."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleetlog_agent.policy import PolicyError, read_policy
from fleetlog_schemas.builds import Step
from fleetlog_schemas.pushes import StartAttempt
from fleetlog_schemas.spec import Blob, Build, Function, Options, Payload, Script, Shell


def start(payload: Payload, user: str | None = None) -> StartAttempt:
    return StartAttempt(
        task_id="t", attempt=1, payload=payload, options=Options(user=user), timeout_ms=1, token="", token_key_id=""
    )


def test_without_a_file_everything_may_run(tmp_path: Path) -> None:
    assert read_policy(tmp_path / "none").refuses(start(Shell(argv=("rm", "-rf", "/")))) == ""


@pytest.mark.parametrize(
    ("text", "payload", "user", "refusal"),
    [
        ('[forbid]\nprograms = ["reboot"]', Shell(argv=("/sbin/reboot",)), None, "forbids program '/sbin/reboot'"),
        ('[forbid]\nprograms = ["reboot"]', Shell(argv=("uptime",)), None, ""),
        ('[allow]\nprograms = ["/usr/bin/*", "/bin/*"]', Shell(argv=("sh",)), None, ""),
        ('[allow]\nprograms = ["/opt/*"]', Shell(argv=("sh",)), None, "does not allow program 'sh'"),
        ('[allow]\nkinds = ["shell"]', Script(content=Blob("a" * 64, 1)), None, "does not allow kind 'script'"),
        ('[forbid]\nkinds = ["build"]', Build((Step(("make",)),)), None, "forbids kind 'build'"),
        ('[forbid]\nprograms = ["reboot"]', Build((Step(("make",)), Step(("reboot",)))), None, "forbids program 'reboot'"),
        ('[allow]\nprograms = ["make"]', Build((Step(("make",)), Step(("make", "test")))), None, ""),
        ('[allow]\nusers = ["www-*"]', Shell(argv=("sh",)), "www-data", ""),
        ("", Function("f"), None, "this host offers no functions"),
        ('[functions]\nmodules = ["m"]', Function("f"), None, ""),
        ('[functions]\nmodules = ["m"]\n[allow]\nkinds = ["shell"]', Function("f"), None, "does not allow kind 'function'"),
        ('[functions]\nmodules = ["m"]\n[allow]\nusers = ["nobody-of-here"]', Function("f"), None, "does not allow user"),
        ('[functions]\nmodules = ["m"]\n[allow]\nprograms = ["make"]', Function("f"), None, ""),
        ('[forbid]\nusers = ["root"]', Shell(argv=("sh",)), "root", "forbids user 'root'"),
    ],
)
def test_a_start_is_refused_by_the_rule_that_it_breaks(
    tmp_path: Path, text: str, payload: Payload, user: str | None, refusal: str
) -> None:
    (tmp_path / "policy.toml").write_text(text)
    said = read_policy(tmp_path / "policy.toml").refuses(start(payload, user))
    assert refusal in said if refusal else said == ""


@pytest.mark.parametrize("text", ["[allow", "[alow]\nkinds = []", "[allow]\nkinds = 3", "x" * 70_000])
def test_a_file_that_cannot_be_understood_stops_the_agent(tmp_path: Path, text: str) -> None:
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises(PolicyError, match=r"policy\.toml"):
        read_policy(tmp_path / "policy.toml")


@pytest.mark.parametrize(("rest", "offered"), [
    ("", True), ('[forbid]\nkinds = ["build"]', True), ('[forbid]\nkinds = ["func*"]', False), ('[allow]\nkinds = ["shell"]', False),
    ('[allow]\nkinds = ["function"]', True), ('[forbid]\nusers = ["*"]', False),
])
def test_a_host_offers_no_function_that_its_policy_would_refuse(tmp_path: Path, rest: str, offered: bool) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(f'[functions]\nmodules = ["ops.tasks"]\n{rest}\n')
    policy = read_policy(file)
    assert bool(policy.offered().modules) is offered
    assert (policy.refuses(start(Function(name="ops.tasks.x"))) == "") is offered
