"""How alerts and webhooks read on a terminal."""

from __future__ import annotations

from typing import Any

import pytest

from fleetlog.render.alerts import alert_text, alerts_text, deliveries_text, webhook_text, webhooks_text
from fleetlog.render.text import Style

STYLE = Style(colour=False, unicode=True)
ALERT: dict[str, Any] = {
    "alert_id": "aabcdefgh12345678", "kind": "host-gone", "state": "acknowledged", "message": "12 hosts are gone: web01, web02 and 10 more",
    "subjects": ["web01", "web02"], "count": 12, "left": 3, "times": 2, "since": "2026-11-22T03:00:00.000Z",
    "raised_at": "2026-11-22T03:05:00.000Z", "acknowledged_at": "2026-11-22T03:06:00.000Z", "acknowledged_by": "ann", "reason": "on it",
    "resolved_at": None, "task_id": "01a0c450-6c00-7c1c-8707-070707070707",
}
STANDING: dict[str, Any] = {
    "webhook_id": "w", "waiting": 1, "delivered": 7, "failed": 2, "failing_since": "2026-11-22T03:00:00.000Z", "disabled": "",
    "deliveries": [
        {"message_id": "msg_1", "type": "task.ended", "at": "2026-11-22T03:00:00.000Z", "state": "waiting", "attempts": 2, "status": 503,
         "error": "the endpoint answered 503", "due_at": "2026-11-22T03:01:00.000Z", "seq": 9},
        {"message_id": "msg_0", "type": "webhook.test", "at": "2026-11-22T02:00:00.000Z", "state": "delivered", "attempts": 1, "status": 204,
         "error": "", "due_at": None, "seq": 8},
    ],
}
WEBHOOK: dict[str, Any] = {
    "name": "pager", "webhook_id": "w", "url": "https://hooks.example.com/x", "events": ["alert.raised"], "definitions": ["deploy"],
    "tags": ["prod"], "target": "env=prod", "set_by": "ann", "set_at": "2026-11-22T03:00:00.000Z", "secret_number": 2,
    "rotated_at": "2026-11-22T03:00:00.000Z", "standing": STANDING,
}


def test_an_alert_is_one_line_and_says_how_often() -> None:
    head, line = alerts_text([ALERT], STYLE).splitlines()
    assert head.split() == ["ALERT", "STATE", "KIND", "RAISED", "MESSAGE"]
    assert line.startswith("12345678")
    assert line.endswith("12 hosts are gone: web01, web02 and 10 more (and 2 times since)")
    assert alerts_text([], STYLE) == "no alert is open"


def test_all_of_an_alert_is_shown() -> None:
    shown = alert_text(ALERT, STYLE)
    for part in ("12, of which 3 still are so", "2 times since", "by ann: on it", "fleetlog why 07070707"):
        assert part in shown
    assert "resolved" not in shown


def test_what_a_host_or_an_endpoint_wrote_cannot_command_the_terminal() -> None:
    shown = alerts_text([{**ALERT, "message": "web01\x1b]0;owned\x07 is silent"}], STYLE) + webhooks_text(
        [{**WEBHOOK, "standing": {**STANDING, "disabled": "\x1b[2Jgone"}}], STYLE
    )
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("standing", "says"),
    [
        (STANDING, "7 delivered, 2 failed, 1 waiting; failing since 2026-11-22 03:00:00Z"),
        ({**STANDING, "disabled": "its endpoint answered 410"}, "disabled: its endpoint answered 410"), (None, "the keeper does not answer"),
    ],
)
def test_a_webhook_says_how_its_deliveries_go(standing: Any, says: str) -> None:
    for shown in (webhooks_text([{**WEBHOOK, "standing": standing}], STYLE), webhook_text({**WEBHOOK, "standing": standing}, STYLE)):
        assert says in shown
        assert "definition deploy; tag prod; hosts env=prod" in shown


def test_deliveries_say_what_the_endpoint_answered_and_when_they_are_tried_again() -> None:
    _, waits, done = deliveries_text(STANDING["deliveries"], STYLE).splitlines()
    assert "the endpoint answered 503" in waits
    assert "2026-11-22 03:01:00Z" in waits
    assert done.split()[-3:] == ["204", "-", "msg_0"]
