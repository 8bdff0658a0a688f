"""Alerts and webhooks as text, from the API's JSON as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fleetlog.render.text import Style, moment, table

Json = Mapping[str, Any]
_COLOURS = {"open": "red", "acknowledged": "yellow", "resolved": "green", "delivered": "green", "failed": "red"}
SHORT_ID = 8


def alerts_text(items: Sequence[Json], style: Style) -> str:
    """Return alerts, one per line."""
    if not items:
        return "no alert is open"
    rows = [
        (
            str(one["alert_id"])[-SHORT_ID:], style.paint(one["state"], _COLOURS[one["state"]]), one["kind"], moment(one["raised_at"]),
            style.line(one["message"]) + (f" (and {one['times']} times since)" if one["times"] else ""),
        )
        for one in items
    ]
    return table(("ALERT", "STATE", "KIND", "RAISED", "MESSAGE"), rows, style)


def alert_text(one: Json, style: Style) -> str:
    """Return everything about one alert."""
    lines = [
        f"{one['alert_id']}  {one['kind']}  {style.paint(one['state'], _COLOURS[one['state']])}",
        f"  {style.line(one['message'])}",
        f"  since         {moment(one['since'])}",
        f"  raised        {moment(one['raised_at'])}",
    ]
    if one["count"] > 1:
        lines.append(f"  about         {one['count']}, of which {one['left']} still are so")
    if one["times"]:
        lines.append(f"  again         {one['times']} times since")
    if one["acknowledged_at"]:
        said = f": {style.line(one['reason'])}" if one["reason"] else ""
        lines.append(f"  acknowledged  {moment(one['acknowledged_at'])} by {style.line(one['acknowledged_by']) or '-'}{said}")
    if one["resolved_at"]:
        lines.append(f"  resolved      {moment(one['resolved_at'])}")
    if one["task_id"]:
        lines.append(f"  task          {one['task_id']}   (fleetlog why {one['task_id'][-SHORT_ID:]})")
    return "\n".join(lines)


def webhooks_text(items: Sequence[Json], style: Style) -> str:
    """Return webhooks by name, one per line."""
    if not items:
        return "no webhooks: make one with  fleetlog webhook set NAME https://HOST/PATH"
    rows = [
        (
            style.line(one["name"]), style.line(one["url"]), ",".join(one["events"]), style.line(_filters(one)) or "-",
            style.line(_standing(one["standing"])),
        )
        for one in items
    ]
    return table(("WEBHOOK", "URL", "ON", "ONLY", "DELIVERIES"), rows, style)


def _filters(one: Json) -> str:
    parts = [f"definition {', '.join(one['definitions'])}"] if one["definitions"] else []
    parts += [f"tag {', '.join(one['tags'])}"] if one["tags"] else []
    parts += [f"hosts {one['target']}"] if one["target"] else []
    return "; ".join(parts)


def _standing(standing: Json | None) -> str:
    if standing is None:
        return "not known: the keeper does not answer"
    if standing["disabled"]:
        return f"disabled: {standing['disabled']}"
    text = f"{standing['delivered']} delivered, {standing['failed']} failed, {standing['waiting']} waiting"
    return text + (f"; failing since {moment(standing['failing_since'])}" if standing["failing_since"] else "")


def webhook_text(one: Json, style: Style) -> str:
    """Return everything about one webhook but its deliveries."""
    rotated = f", rotated {moment(one['rotated_at'])}" if one["rotated_at"] else ""
    return "\n".join([
        style.line(one["name"]),
        f"  url         {style.line(one['url'])}",
        f"  on          {', '.join(one['events'])}",
        f"  only        {style.line(_filters(one)) or '-'}",
        f"  set         {moment(one['set_at'])} by {style.line(one['set_by']) or '-'}",
        f"  secret      number {one['secret_number']}{rotated}",
        f"  deliveries  {style.line(_standing(one['standing']))}",
    ])


def deliveries_text(items: Sequence[Json], style: Style) -> str:
    """Return messages, newest first, one per line."""
    if not items:
        return "nothing was sent yet"
    rows = [
        (
            moment(one["at"]), one["type"], style.paint(one["state"], _COLOURS.get(one["state"], "yellow")), str(one["attempts"]),
            style.line(one["error"]) or (str(one["status"]) if one["status"] else "-"),
            moment(one["due_at"]) if one["due_at"] and one["attempts"] else "-", one["message_id"],
        )
        for one in items
    ]
    return table(("AT", "TYPE", "STATE", "TRIES", "ANSWER", "NEXT TRY", "MESSAGE"), rows, style)
