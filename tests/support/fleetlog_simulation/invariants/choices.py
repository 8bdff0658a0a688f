"""A plan that chooses has as many of the target's hosts as were asked for, or all that there are."""

from __future__ import annotations

from collections import Counter
from typing import Any

from fleetlog_simulation.books import Books, Line
from fleetlog_simulation.invariants import Violation

Labels = dict[str, dict[str, str]]
"""By host id."""


class Choices:
    """Compares plans with the hosts that were there to be chosen."""

    def __init__(self, books: Books) -> None:
        """Watch the log."""
        self._books = books
        self._seen = 0
        self._specs: dict[str, dict[str, Any]] = {}
        self._there: Labels = {}
        """Every host that is enrolled."""
        self._known: Labels = {}
        """Those that whoever decides next has surely read of: they stand before the last decision."""

    def check(self) -> None:
        """Look at what was enrolled, asked for and planned since the last step."""
        for line in self._books.since(self._seen):
            self._seen += 1
            if line.kind == "fleetlog.access.host-enrolled.v1":
                self._there[line.data["host_id"]] = line.data["labels"]
            elif line.kind == "fleetlog.task.submitted.v1":
                for one in line.data["tasks"]:
                    self._specs.setdefault(one["task_id"], one["spec"])
            elif line.kind == "fleetlog.task.planned.v1":
                self._planned(line)
            if line.subject == "evt.dispatch" and line.batch_end:
                self._known = dict(self._there)

    def _planned(self, line: Line) -> None:
        for plan in line.data["plans"]:
            spec = self._specs[plan["task_id"]]
            if "choose" in spec:
                self._judge(plan["task_id"], spec, [host["host_id"] for host in plan["hosts"]])

    def _judge(self, task_id: str, spec: dict[str, Any], chosen: list[str]) -> None:
        rule = spec["choose"]
        label, count = rule.get("label", ""), rule.get("count", 1)
        for_each = rule.get("by") == "each"
        if len(set(chosen)) != len(chosen) or any(label and label not in self._there[host_id] for host_id in chosen):
            raise Violation(f"{task_id} has a host twice, or one without the label {label!r}: {chosen}")
        got = grouped({host_id: self._there[host_id] for host_id in chosen}, label if for_each else "")
        least = grouped({i: one for i, one in self._known.items() if label in one or not label}, label if for_each else "")
        for value in got.keys() | least.keys():
            if not min(count, least[value]) <= got[value] <= count:
                raise Violation(f"{task_id} has {got[value]} hosts {value}, asked for {count} of {least[value]} or more")
        if rule.get("by") == "spread" and self._known == self._there:
            self._spread(task_id, label, chosen)

    def _spread(self, task_id: str, label: str, chosen: list[str]) -> None:
        """No value has two hosts more than another that has one left."""
        got = grouped({host_id: self._there[host_id] for host_id in chosen}, label)
        there = grouped({i: one for i, one in self._there.items() if label in one}, label)
        most = max(got.values())
        for value, count in there.items():
            if got[value] < min(count, most - 1):
                raise Violation(f"{task_id} is not spread evenly over {label}: {dict(got)} of {dict(there)}")

    def finish(self) -> None:
        """Nothing more than after every step."""
        self.check()


def grouped(hosts: Labels, label: str) -> Counter[str]:
    """Count hosts by the value of a label; without a label, all together."""
    return Counter(labels[label] if label else "" for labels in hosts.values())
