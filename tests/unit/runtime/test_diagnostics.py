"""Diagnostics are JSON lines without secrets."""

from __future__ import annotations

import contextlib
import io
import json

import structlog

from fleetlog_runtime.shell import diagnostics, nats_auth
from fleetlog_runtime.shell.home import agent_user_jwt, create_home


def cleaned(**fields: object) -> dict:
    return dict(diagnostics.redact(None, "info", {"event": "x", **fields}))


def test_secrets_are_cut_out_wherever_they_stand(tmp_path):
    home = create_home(tmp_path / "home")
    seed = nats_auth.new_seed("user")
    secrets = [
        home.gateway_token(), "fltj_" + "a" * 43, seed.decode(), home.seed("operator").decode(),
        home.seed("account-core").decode(), agent_user_jwt(home, "h1", nats_auth.public_key(seed)),
        home.creds_path("gateway").read_text(),
    ]
    for secret in secrets:
        for value in (secret, f"before {secret} after", secret.encode(), [secret], {"deep": (secret,)}, ValueError(secret)):
            text = json.dumps(cleaned(what=value))
            assert not any(part in text for part in secret.split() if len(part) > 30), value


def test_fields_named_like_a_secret_are_cut_out():
    found = cleaned(token="t", join_token="t", nats_seed="s", Authorization="Bearer x", deep={"password": "p"}, tokens=3)
    assert found == {
        "event": "x", "token": "[cut out]", "join_token": "[cut out]", "nats_seed": "[cut out]",
        "Authorization": "[cut out]", "deep": {"password": "[cut out]"}, "tokens": 3,
    }


def test_what_is_no_secret_stays():
    found = cleaned(host_id="h" + "a" * 15, count=3, ratio=0.5, ok=True, nothing=None, task="0197-abc")
    assert found == {
        "event": "x", "host_id": "h" + "a" * 15, "count": 3, "ratio": 0.5, "ok": True, "nothing": None,
        "task": "0197-abc",
    }


def test_long_texts_are_cut():
    assert len(cleaned(what="x y " * 10_000)["what"]) < 5_000


def test_lines_are_json_with_time_and_level_and_lower_levels_are_left_out(capsys):
    before = structlog.get_config()
    try:
        diagnostics.configure("warning")
        log = structlog.get_logger().bind(service="reporter")
        log.info("not this")
        log.warning("this", seq=3, error=ValueError("bad\nline"))
        lines = capsys.readouterr().err.splitlines()
    finally:
        structlog.configure(**before)
    assert len(lines) == 1
    found = json.loads(lines[0])
    assert found.pop("timestamp").endswith("Z")
    assert found == {"event": "this", "level": "warning", "service": "reporter", "seq": 3, "error": "bad\nline"}


def test_diagnostics_go_where_stderr_was_when_they_were_set_up():
    before, file = structlog.get_config(), io.StringIO()
    try:
        with contextlib.redirect_stderr(file):
            diagnostics.configure("warning")
        structlog.get_logger().warning("for the file, not for the terminal")
    finally:
        structlog.configure(**before)
    assert "for the file" in file.getvalue()
