"""A part of a workflow begins only when what it is after has ended as it wants, has each of its tasks once, and nothing more
after a stop; and a workflow ends when, and only when, every part is settled, with what its parts ended with.

These books follow the log with dictionaries of their own. What the log has of a stopped or paused workflow, decided
before and stored after, is void: it must stay without effect.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fleetlog_simulation.books import Books, Line
from fleetlog_simulation.invariants import Violation

SEVERITY = ("lost", "error", "timeout", "failure", "cancelled", "unreached", "skipped", "success")
GOOD = ("success", "skipped")


def worst(outcomes: list[str]) -> str:
    return min(outcomes, key=SEVERITY.index)


@dataclass
class Part:
    spec: dict[str, Any]
    begun: bool = False
    items: int = 0
    tasks: dict[int, str] = field(default_factory=dict)
    ends: dict[int, str] = field(default_factory=dict)
    stopped: bool = False
    outcome: str = ""
    by_stop: bool = False

    @property
    def runs(self) -> bool:
        return len(self.tasks) > len(self.ends)


@dataclass
class Flow:
    parts: dict[str, Part]
    planned: bool = False
    over: bool = False
    stopped: bool = False
    held: bool = False

    @property
    def may_start(self) -> bool:
        return self.planned and not (self.over or self.stopped or self.held)


class Parts:
    """Follows every workflow, line by line."""

    def __init__(self, books: Books) -> None:
        """Watch the log."""
        self._books = books
        self._seen = 0
        self._flows: dict[str, Flow] = {}
        self._of: dict[str, tuple[Flow, Part, int]] = {}
        """Task to what it is part of."""
        self._void: set[str] = set()
        """Tasks whose submission has no effect."""

    def check(self) -> None:
        """Look at what was decided since the last step."""
        for line in self._books.since(self._seen):
            self._seen += 1
            follow = getattr(self, "_" + line.kind.removeprefix("fleetlog.").removesuffix(".v1").replace(".", "_").replace("-", "_"), None)
            if follow is not None:
                follow(line)

    def _task_submitted(self, line: Line) -> None:
        for one in line.data["tasks"]:
            of, task_id = one.get("part_of"), one["task_id"]
            if of is None and one["spec"]["payload"]["kind"] == "workflow":
                parts = {part["name"]: Part(part) for part in one["spec"]["payload"]["parts"]}
                self._flows.setdefault(task_id, Flow(parts))
            if of is None or task_id in self._of:
                continue
            flow, item = self._flows[of["task_id"]], of.get("item", 0)
            part = flow.parts[of["part"]]
            if not flow.may_start or not part.begun or part.stopped or part.outcome or item in part.tasks:
                self._void.add(task_id)
                continue
            if not 0 <= item < part.items:
                raise Violation(f"{task_id} is for item {item} of {part.items} of the part {of['part']}")
            part.tasks[item] = task_id
            self._of[task_id] = flow, part, item
            self._void.discard(task_id)

    def _task_planned(self, line: Line) -> None:
        for plan in line.data["plans"]:
            self._has_effect(plan["task_id"])
            if plan["task_id"] in self._flows:
                self._flows[plan["task_id"]].planned = True

    def _has_effect(self, task_id: str) -> None:
        if task_id in self._void:
            raise Violation(f"{task_id} was planned although its workflow could not start it: it stands after a stop, or twice")

    def _workflow_parts_decided(self, line: Line) -> None:
        for one in line.data["parts"]:
            flow = self._flows[one["task_id"]]
            part = flow.parts[one["part"]]
            if part.outcome or not flow.planned or flow.over:
                continue
            if one["decision"] == "begun":
                if flow.may_start and not part.begun and not part.stopped:
                    self._begun(flow, part, one)
            elif not part.runs:
                self._ended_without(flow, part, one)

    def _wanted(self, flow: Flow, part: Part) -> bool | None:
        """Whether a part is to be run after the ends of what it is after; None: not all have ended."""
        ends = [flow.parts[name].outcome for name in part.spec.get("after", ())]
        if "" in ends:
            return None
        good = [one == "success" for one in ends]
        bad = [one not in GOOD for one in ends]
        return {"success": all(good), "any-success": any(good), "failure": any(bad), "ended": True}[part.spec.get("when", "success")]

    def _begun(self, flow: Flow, part: Part, one: dict[str, Any]) -> None:
        if not self._wanted(flow, part):
            raise Violation(f"the part {one['part']} of {one['task_id']} began although what it is after had not ended so")
        wanted = len(part.spec["for_each"]) if "for_each" in part.spec else 1
        if one.get("items", 1) != wanted:
            raise Violation(f"the part {one['part']} of {one['task_id']} began with {one.get('items', 1)} items of {wanted}")
        part.begun, part.items = True, wanted

    def _ended_without(self, flow: Flow, part: Part, one: dict[str, Any]) -> None:
        stopped = flow.stopped or part.stopped
        empty = part.spec.get("for_each") == [] and self._wanted(flow, part)
        if not stopped and (part.begun or not (empty or self._wanted(flow, part) is False)):
            raise Violation(f"the part {one['part']} of {one['task_id']} ended without having run, and nothing stood against it")
        # What was not to be run anyway may have been decided before a stop and stored after it: then it is no work of the stop.
        part.outcome, part.by_stop = one["outcome"], flow.stopped and one.get("reason") == "stopped"
        if flow.stopped and not part.by_stop and not part.stopped and not (empty or self._wanted(flow, part) is False):
            raise Violation(f"a stop kept the part {one['part']} of {one['task_id']} from running, and the log gives another reason")

    def _task_refused(self, line: Line) -> None:
        for one in line.data["refusals"]:
            self._ends(one["task_id"], "error")
            if one["task_id"] in self._flows:
                self._flows[one["task_id"]].over = True

    def _task_ended(self, line: Line) -> None:
        for one in line.data["tasks"]:
            flow = self._flows.get(one["task_id"])
            if flow is not None:
                self._flow_ended(one["task_id"], flow, one["outcome"])
            self._ends(one["task_id"], one["outcome"])

    def _ends(self, task_id: str, outcome: str) -> None:
        self._has_effect(task_id)
        flow, part, item = self._of.get(task_id, (None, None, 0))
        if flow is None or part is None or item in part.ends:
            return
        part.ends[item] = outcome
        if len(part.ends) == part.items:
            part.outcome = worst(list(part.ends.values()))

    def _flow_ended(self, task_id: str, flow: Flow, outcome: str) -> None:
        if flow.over:
            return
        left = [name for name, part in flow.parts.items() if not part.outcome]
        if left:
            raise Violation(f"the workflow {task_id} ended although its parts {left} had not")
        flow.over = True
        handled = {
            name for part in flow.parts.values() if part.spec.get("handles") and part.outcome == "success"
            for name in part.spec["after"]
        }
        telling = [
            part.outcome for name, part in flow.parts.items()
            if part.by_stop or (part.outcome != "skipped" and name not in handled)
        ]
        if outcome != worst([*telling, "success"]):
            raise Violation(f"the workflow {task_id} ended with {outcome}, and its parts with {telling}")

    # --- what people and time say ---

    def _stop(self, task_id: str) -> None:
        flow = self._flows.get(task_id)
        if flow is not None and not flow.over:
            flow.stopped = True

    def _task_cancel_requested(self, line: Line) -> None:
        data = line.data
        flow = self._flows.get(data["task_id"])
        if not data.get("parts"):
            if not data.get("host_ids"):
                self._stop(data["task_id"])
            return
        for name in data["parts"] if flow is not None and not flow.over and flow.planned else ():
            if flow is not None and name in flow.parts and not flow.parts[name].outcome:
                flow.parts[name].stopped = True

    def _task_all_cancel_requested(self, line: Line) -> None:
        for task_id in self._flows:
            self._stop(task_id)

    def _task_timed_out(self, line: Line) -> None:
        for task_id in line.data["task_ids"]:
            self._stop(task_id)

    def _task_abort_requested(self, line: Line) -> None:
        self._stop(line.data["task_id"])

    def _task_pause_requested(self, line: Line) -> None:
        flow = self._flows.get(line.data["task_id"])
        if flow is not None and not flow.stopped:
            flow.held = True

    def _task_resume_requested(self, line: Line) -> None:
        if line.data["task_id"] in self._flows:
            self._flows[line.data["task_id"]].held = False

    def finish(self) -> None:
        """When all is quiet, a workflow whose parts are settled has ended."""
        self.check()
        still = [task_id for task_id, flow in self._flows.items() if flow.planned and not flow.over]
        if still:
            raise Violation(f"workflows that have not ended when all is quiet: {still}")
