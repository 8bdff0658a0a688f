"""An alert is raised once, resolved once, and there exactly while something is wrong; who asked is told of each, and of each end.

The books are naive: what is wrong with a definition is how its last run that a person did not stop ended.
"""

from __future__ import annotations

from typing import Any

import msgspec

from fleetlog_simulation.books import Books, Line
from fleetlog_simulation.endpoint import Endpoint
from fleetlog_simulation.invariants import Violation

NEITHER = {"cancelled", "skipped"}


class Alerts:
    """Follows alerts, ends and messages by the log."""

    def __init__(self, books: Books, endpoint: Endpoint, *, watched: bool = True) -> None:
        """Compare the log with what the endpoint took."""
        self._books, self._endpoint, self._watched = books, endpoint, watched
        self._seen = 0
        self._raised: dict[str, dict[str, Any]] = {}
        self._resolved: set[str] = set()
        self._final: set[str] = set()
        self._submitted: dict[str, dict[str, Any]] = {}
        self._failed: dict[str, str] = {}
        """Definitions whose last run ended badly, and how."""
        self._told_from = 0
        self._owed: set[tuple[str, str]] = set()

    def check(self) -> None:
        """Look at what came since the last step."""
        for line in self._books.since(self._seen):
            self._seen += 1
            match line.kind.removeprefix("fleetlog.").removesuffix(".v1"):
                case "webhook.set":
                    self._told_from = line.seq
                case "alert.raised":
                    for one in line.data["alerts"]:
                        self._was_raised(line, one)
                case "alert.resolved":
                    for alert_id in line.data["alert_ids"]:
                        self._was_resolved(line, alert_id)
                case "webhook.attempted":
                    self._attempted(line)
                case "task.submitted":
                    for one in line.data["tasks"]:
                        self._submitted.setdefault(one["task_id"], one)
                case "task.ended":
                    for one in line.data["tasks"]:
                        self._over(line, one["task_id"], one["outcome"])
                case "task.refused":
                    for one in line.data["refusals"]:
                        self._over(line, one["task_id"], "refused")

    def _owe(self, line: Line, kind: str, about: str) -> None:
        if self._told_from:
            self._owed.add((kind, about))

    def _was_raised(self, line: Line, one: dict[str, Any]) -> None:
        if one["alert_id"] in self._raised:
            raise Violation(f"the alert {one['alert_id']} was raised twice: {one['message']}")
        for alert_id, other in self._raised.items():
            if alert_id not in self._resolved and other["kind"] == one["kind"] and set(other["subjects"]) & set(one["subjects"]):
                still = self._failed.keys() if one["kind"] == "task-failed" else set(one["subjects"])
                if one["count"] == other["count"] == 1 and set(one["subjects"]) & set(still):
                    raise Violation(f"two alerts are open about one thing: {one['message']}")
        self._raised[one["alert_id"]] = one
        self._owe(line, "alert.raised", one["alert_id"])

    def _was_resolved(self, line: Line, alert_id: str) -> None:
        if alert_id not in self._raised or alert_id in self._resolved:
            raise Violation(f"the alert {alert_id} was resolved and was not open")
        self._resolved.add(alert_id)
        self._owe(line, "alert.resolved", alert_id)

    def _attempted(self, line: Line) -> None:
        for one in line.data["attempts"]:
            if one["message_id"] in self._final:
                raise Violation(f"the message {one['message_id']} was tried after it was over")
            if one["outcome"] != "retry":
                self._final.add(one["message_id"])

    def _over(self, line: Line, task_id: str, outcome: str) -> None:
        submission = self._submitted.get(task_id)
        # The first end of a task stands; what is part of a workflow is told by it.
        if submission is None or "part_of" in submission or submission.get("is_over"):
            return
        submission["is_over"] = True
        self._owe(line, "task.ended", task_id)
        definition = submission["spec"].get("definition")
        if definition is not None and outcome not in NEITHER:
            self._failed.pop(definition["definition_id"], None)
            if outcome != "success":
                self._failed[definition["definition_id"]] = outcome

    def finish(self) -> None:
        """Compare what is open with what is wrong, and what was owed with what was taken."""
        if not self._watched:
            return
        self.check()
        opened = [one for alert_id, one in self._raised.items() if alert_id not in self._resolved]
        told = {subject for one in opened if one["kind"] == "task-failed" for subject in one["subjects"]}
        if told != set(self._failed):
            raise Violation(f"alerts say that {told} failed, the log says {self._failed}")
        left = [one["message"] for one in opened if one["kind"] in ("host-gone", "host-refused", "scheduler-silent")]
        if left:
            raise Violation(f"all is well and alerts are open: {left}")
        self._all_told()

    def _all_told(self) -> None:
        took: dict[tuple[str, str], set[str]] = {}
        bodies: dict[str, str] = {}
        for message_id, body in self._endpoint.taken:
            if bodies.setdefault(message_id, body) != body:
                raise Violation(f"the message {message_id} came with two bodies")
            said = msgspec.json.decode(body)
            about = said["data"]["task_id"] if said["type"] == "task.ended" else said["data"]["alert_id"]
            took.setdefault((said["type"], about), set()).add(message_id)
        if took.keys() != self._owed:
            raise Violation(f"owed and not taken: {self._owed - took.keys()}; taken and not owed: {took.keys() - self._owed}")
        twice = [one for one, ids in took.items() if len(ids) > 1]
        if twice:
            raise Violation(f"one thing was told by messages of several ids: {twice}")
