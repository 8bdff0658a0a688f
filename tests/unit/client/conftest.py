"""A small real HTTP server that answers as the gateway does, from a recorded history of the log.

What it says is built from the schemas: tasks are views of the folded history, feeds and log pages carry its stored
bytes. So what the client prints is checked against the same records that the system would have.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest

from fleetlog.main import main
from fleetlog_schemas import control_events, events, lifecycle, records
from fleetlog_schemas.admission import PlanAnswer, PlannedView, WaitingGroup
from fleetlog_schemas.codec import Event, encode, rfc3339
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.questions import (
    HostView,
    OutputChunk,
    OutputPage,
    Problem,
    Progress,
    StatsRow,
    StoredEvent,
    TaskSummary,
)
from fleetlog_schemas.spec import TaskSpec
from fleetlog_schemas.view import task_view
from fleetlog_testing.definitions_served import DefinitionsServed
from fleetlog_testing.history import History

TOKEN = "flt_for_tests"
Story = Callable[["Recorded", str], None]


class Recorded(DefinitionsServed):
    """The history that is served, and what was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.history = History()
        self.grown = threading.Condition()
        self.requests: list[tuple[str, str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.blobs: dict[str, bytes] = {}
        self.story: Story = lambda recorded, task_id: recorded.run(task_id, {"web01": Outcome.SUCCESS})
        self.hosts = ["web01", "web02", "web03"]
        self.plan_problem: Problem | None = None
        self.output: dict[str, list[OutputChunk]] = {}
        self.waiting: list[WaitingGroup] = []
        self.plan_fields: dict[str, Any] = {}
        """Fields of the plan beside hosts and hash."""
        self.offline: set[str] = set()
        """Names of hosts that are offline."""
        self.freezes: list[dict[str, Any]] = []
        self.windows: list[dict[str, Any]] = []
        self.queues: list[dict[str, Any]] = []
        self.gone = ""
        self.frozen = ""
        """Header of every answer while something is frozen."""
        self.break_feed_after: int | None = None
        """Cut the live feed after so many events, once."""
        self.feeds: list[str] = []
        """Last-Event-ID of every feed that was opened."""
        self.problems: dict[str, tuple[int, dict[str, Any]]] = {}
        """Path to (status, problem) to answer with instead."""
        self.problem_times: dict[str, int] = {}

    def add(self, data: events.Data, *, subject: str = "", authid: str | None = None) -> None:
        """Store an event and wake the feeds."""
        with self.grown:
            self.history.wait(100)
            self.history.add(data, subject=subject, authid=authid)
            self.grown.notify_all()

    # --- stories ------------------------------------------------------------------------------------------

    def submit(self, task_id: str, spec: TaskSpec) -> None:
        """Store a submission, and what comes of it."""
        self.history.now_ms = max(self.history.now_ms, int(task_id.replace("-", "")[:12], 16) + 1)
        self.add(events.TasksSubmitted(tasks=(events.Submission(task_id=task_id, spec=spec),)), authid="ada")
        self.story(self, task_id)

    def plan(self, task_id: str, names: list[str], waves: tuple[int, ...] = ()) -> None:
        """Plan a task on hosts whose id is `h` and their name."""
        hosts = tuple(events.PlannedHost(host_id=f"h{name}", name=name) for name in names)
        self.add(events.TasksPlanned(plans=(events.Plan(task_id, hosts, "hash", waves=waves),)))

    def dispatch(self, task_id: str, names: list[str], attempt: int = 1) -> None:
        """Dispatch one attempt on each host."""
        found = tuple(events.Dispatch(task_id, f"h{name}", attempt, epoch=1) for name in names)
        self.add(events.AttemptsDispatched(attempts=found))

    def end(
        self, task_id: str, name: str, outcome: Outcome, *, attempt: int = 1, tail: str = "", exit_code: int | None = None,
    ) -> None:
        """End one attempt by its host's report."""
        written = tail.encode()
        code = exit_code if exit_code is not None else 0 if outcome is Outcome.SUCCESS else None
        end = events.End(
            task_id=task_id, host_id=f"h{name}", attempt=attempt, outcome=outcome, ran=Ran.YES, exit_code=code,
            duration_ms=1_200, ended_ms=self.history.now_ms, tail=tail,
            output=events.OutputSummary(
                slot=0, bytes=len(written), lines=tail.count("\n"), frames=1, sha256=hashlib.sha256(written).hexdigest()
            ),
        )
        subject = events.DISPATCH if outcome in (Outcome.UNREACHED, Outcome.LOST) else events.RESULT
        self.add(events.AttemptsEnded(attempts=(end,)), subject=subject)

    def finish(self, task_id: str) -> None:
        """End the task."""
        task = self.history.tasks.by_id[task_id]
        self.add(events.TasksEnded(tasks=(lifecycle.task_end(task),)))

    def run(self, task_id: str, outcomes: dict[str, Outcome], tails: dict[str, str] | None = None) -> None:
        """Plan, dispatch, end everywhere, end the task."""
        tails = tails or {}
        self.plan(task_id, list(outcomes))
        self.dispatch(task_id, [name for name, outcome in outcomes.items() if outcome is not Outcome.UNREACHED])
        for name, outcome in outcomes.items():
            code = 3 if outcome is Outcome.FAILURE else None
            self.end(task_id, name, outcome, tail=tails.get(name, ""), exit_code=code)
        self.finish(task_id)

    def refuse(self, task_id: str, code: str, message: str, pointer: str) -> None:
        """Refuse the task."""
        self.add(events.TasksRefused(refusals=(events.Refusal(task_id, code, message, pointer),)))

    # --- answers ------------------------------------------------------------------------------------------

    def task(self, identifier: str) -> records.Task | None:
        """Find a task as the gateway does."""
        found = self.history.tasks.by_id
        if identifier == "last":
            return next(reversed(found.values()), None)
        return next((task for task_id, task in found.items() if task_id.endswith(identifier)), None)

    def stored(self, event: Event) -> StoredEvent:
        """Return an event as the API gives it."""
        return StoredEvent(
            seq=event.seq, subject=event.subject, stored_at=rfc3339(event.time_ms), event=msgspec.Raw(encode(event))
        )

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        """Return status and data of a request."""
        if path in ("/livez", "/readyz"):
            return 200, {"status": "ok"}
        parts = path.strip("/").split("/")[2:]
        if parts[0] == "tasks" and len(parts) > 1 and parts[1] not in ("batch", "cancel-all"):
            task = self.task(parts[1])
            if task is None:
                return 404, {"title": "There is no such task", "detail": f"no task {parts[1]}", "code": "task-not-found"}
            return self._of_task(method, parts[2] if len(parts) > 2 else "", task, query, body)
        return getattr(self, f"_{method}_{'_'.join(parts[:1])}".lower())(parts, query, body)

    def _of_task(
        self, method: str, what: str, task: records.Task, query: dict[str, str], body: Any
    ) -> tuple[int, Any]:
        view = task_view(task)
        if what == "":
            return 200, view
        if what == "progress":
            ended = len(task.commands) - task.open
            return 200, Progress(task.task_id, task.state, task.outcome, len(task.commands), ended, dict(task.counts), 0, None)
        if what == "why":
            return 200, {"task": view, "waiting": self.waiting, "failures": view.failures, "missing": []}
        if what == "output":
            return 200, self._output(task, query)
        if what == "events":
            after, limit = int(query.get("after_seq", 0)), int(query.get("limit", 100))
            items = [self.stored(event) for event in self.history.events if event.seq > after][:limit]
            return 200, {"items": items, "next_cursor": None}
        if what == "rerun":
            again = self.headers[-1]["idempotency-key"]
            self.submit(again, msgspec.structs.replace(task.spec, target="", host_ids=("hweb02",), rerun_of=task.task_id))
            return 202, {"task_id": again, "seq": 1, "hosts": 1, "gone": self.gone}
        if what == "commands":
            items = [one for one in view.commands if query.get("host") in (None, one.host, one.host_id)]
            return 200, {"items": items, "next_cursor": None}
        accepted = {"task_id": task.task_id, "seq": 1, "checked": True}
        if what in ("pause", "resume", "abort", "skip", "approve"):
            return 202, {**accepted, "wave": body.get("wave") or 2}
        assert what == "cancel"
        self.add(control_events.CancelRequested(task_id=task.task_id, reason=body["reason"]), authid="ada")
        for command in list(task.commands.values()):
            if command.state is not records.CommandState.ENDED and command.host_name not in self.offline:
                self.end(task.task_id, command.host_name, Outcome.CANCELLED)
        if not task.open:
            self.finish(task.task_id)
        return 202, accepted

    def _output(self, task: records.Task, query: dict[str, str]) -> OutputPage:
        chunks = [chunk for chunk in self.output.get(query["host"], []) if chunk.frame > int(query.get("after_frame", 0))]
        shown = chunks[:1]
        return OutputPage(
            task_id=task.task_id, host=query["host"].removeprefix("h"), attempt=1, chunks=shown,
            next_frame=shown[-1].frame if shown else int(query.get("after_frame", 0)), complete=len(chunks) <= 1,
            expired=False, incomplete=False, dropped_bytes=0,
        )

    def _post_blobs(self, _parts: list[str], _query: dict[str, str], body: bytes) -> tuple[int, Any]:
        digest = hashlib.sha256(body).hexdigest()
        self.blobs[digest] = body
        return 201, {"sha256": digest, "size": len(body)}

    def _post_definitions(self, parts: list[str], query: dict[str, str], body: Any) -> tuple[int, Any]:
        if parts[2:] == ["plan"]:
            return self._post_plan(parts, query, body)
        return super()._post_definitions(parts, query, body)

    def _post_plan(self, _parts: list[str], _query: dict[str, str], _body: Any) -> tuple[int, Any]:
        fields = {"hosts": [PlannedView(f"h{name}", name, "online", maintenance=False, would="run") for name in self.hosts]}
        answer = {"plan_hash": "hash", "offline": 0, "problem": self.plan_problem, **fields, **self.plan_fields}
        return 200, PlanAnswer(**answer)

    def _post_batch(self, body: Any) -> tuple[int, Any]:
        for one in body["tasks"]:
            if self.task(one["task_id"]) is None:
                self.submit(one["task_id"], msgspec.convert(one["spec"], TaskSpec))
        return 202, {"task_ids": [one["task_id"] for one in body["tasks"]], "seq": len(self.history.events)}

    def _post_tasks(self, parts: list[str], _query: dict[str, str], body: Any) -> tuple[int, Any]:
        if parts[1:] == ["batch"]:
            return self._post_batch(body)
        if parts[1:] == ["cancel-all"]:
            self.add(control_events.AllCancelRequested(reason=body["reason"]), authid="ada")
            return 202, {"seq": len(self.history.events)}
        task_id = self.headers[-1]["idempotency-key"]
        if self.task(task_id) is None:
            self.submit(task_id, msgspec.convert(body, TaskSpec))
        return 202, {"task_id": task_id, "seq": 1}

    def _get_freezes(self, _parts: list[str], _query: dict[str, str], _body: Any) -> tuple[int, Any]:
        return 200, self.freezes

    def _post_freezes(self, parts: list[str], _query: dict[str, str], _body: Any) -> tuple[int, Any]:
        return 202, {"seq": 1} if len(parts) > 1 else {"freeze_id": self.headers[-1]["idempotency-key"], "seq": 1, "hosts": 0}

    def _get_windows(self, _parts: list[str], _query: dict[str, str], _body: Any) -> tuple[int, Any]:
        return 200, self.windows

    def _put_windows(self, _parts: list[str], _query: dict[str, str], _body: Any) -> tuple[int, Any]:
        return 202, {"seq": 1, "hosts": 3}

    def _delete_windows(self, _parts: list[str], _query: dict[str, str], _body: Any) -> tuple[int, Any]:
        return 202, {"seq": 1}

    def _get_queues(self, _parts: list[str], _query: dict[str, str], _body: Any) -> tuple[int, Any]:
        return 200, self.queues

    def _put_queues(self, _parts: list[str], _query: dict[str, str], _body: Any) -> tuple[int, Any]:
        return 202, {"seq": 1}

    def _get_admission(self, _parts: list[str], _query: dict[str, str], _body: Any) -> tuple[int, Any]:
        busy = [{"host_id": "h1", "name": "web01", "slots": 1, "slots_max": 4, "in_flight": 1, "why": "load 9 on 2 cores"}]
        return 200, {
            "in_flight": 12, "in_flight_max": 1000, "waiting": 30, "freezes": self.freezes, "windows": self.windows,
            "queues": self.queues, "busy": busy,
        }

    def _get_tasks(self, _parts: list[str], query: dict[str, str], _body: Any) -> tuple[int, Any]:
        newest = list(reversed(self.history.tasks.by_id.values()))
        if query.get("state") == "open":
            newest = [task for task in newest if task.state.value in ("submitted", "planned")]
        start, limit = int(query.get("cursor", 0)), int(query["limit"])
        items = [
            TaskSummary(
                task.task_id, "shell", "", "uptime", task.state, task.outcome, task.spec.target, task.submitted_by,
                rfc3339(task.submitted_ms), rfc3339(task.ended_ms), 1.5, len(task.commands), dict(task.counts), (),
            )
            for task in newest[start : start + limit]
        ]
        more = str(start + limit) if start + limit < len(newest) else None
        return 200, {"items": items, "next_cursor": more}

    def _get_log(self, _parts: list[str], query: dict[str, str], _body: Any) -> tuple[int, Any]:
        start, limit = max(1, int(query.get("from_seq", 1))), int(query["limit"])
        page_max = min(limit, 4)  # small pages, so that going on is tested
        found = self.history.events[start - 1 : start - 1 + page_max]
        end = start + len(found)
        more = end if end <= len(self.history.events) else None
        return 200, {"items": [self.stored(event) for event in found], "next_seq": more}

    def _get_events(self, _parts: list[str], query: dict[str, str], body: Any) -> tuple[int, Any]:
        return self._of_task("GET", "events", next(iter(self.history.tasks.by_id.values())), query, body)

    def _get_hosts(self, parts: list[str], query: dict[str, str], _body: Any) -> tuple[int, Any]:
        presence = {name: "offline" if name in self.offline else "online" for name in self.hosts}
        views = [
            HostView(
                f"h{name}", name, presence[name], rfc3339(self.history.now_ms), {"env": "prod"}, maintenance=False,
                maintenance_reason="", epoch=1, version="0.1.0", enrolled_at=rfc3339(self.history.now_ms), running=0,
                facts={"os": "Linux"}, refusals=[], refused_reason="",
            )
            for name in self.hosts if query.get("presence") in (None, presence[name])
        ]
        if len(parts) == 1:
            return 200, {"items": views, "next_cursor": None}
        return 200, next(view for view in views if view.name == parts[1])

    def _post_hosts(self, parts: list[str], _query: dict[str, str], _body: Any) -> tuple[int, Any]:
        if len(parts) > 1:
            return 200, {"seq": 7}
        return 201, {
            "token": "flj_x", "expires_at": rfc3339(self.history.now_ms),
            "line": "fleetlog agent join http://127.0.0.1:8420 --token flj_x",
        }

    def _get_stats(self, _parts: list[str], _query: dict[str, str], _body: Any) -> tuple[int, Any]:
        row = StatsRow("shell", 4, {"success": 3, "failure": 1}, 0.75, 1.0, 2.0, 2.5)
        return 200, {"items": [row], "next_cursor": None}

    def _post_sql(self, _parts: list[str], _query: dict[str, str], _body: Any) -> tuple[int, Any]:
        return 200, {"columns": ["host", "n"], "rows": [["web01", 3], [None, 1]], "truncated": False}

    def _post_verify(self, _parts: list[str], _query: dict[str, str], _body: Any) -> tuple[int, Any]:
        return 200, {"equal": False, "through_seq": 9, "events": 9, "tables": {"tasks": "2 rows differ"}}

    def _get_version(self, _parts: list[str], _query: dict[str, str], _body: Any) -> tuple[int, Any]:
        return 200, {"version": "0.1.0"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    recorded: Recorded

    def log_message(self, *_: object) -> None:
        """Say nothing: the tests look at `requests`."""

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        recorded = self.recorded
        parts = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        is_json = self.headers.get("Content-Type", "") == "application/json"
        body = json.loads(raw) if raw and is_json else raw
        recorded.requests.append((method, self.path, body))
        recorded.headers.append({name.lower(): value for name, value in self.headers.items()})
        problem = recorded.problems.get(parts.path)
        if problem and recorded.problem_times.get(parts.path, 1):
            if parts.path in recorded.problem_times:
                recorded.problem_times[parts.path] -= 1
            self._send(*problem)
            return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, {"title": "A bearer token is needed", "detail": "send a token", "code": "unauthenticated"})
        elif "text/event-stream" in self.headers.get("Accept", ""):
            self._feed()
        else:
            status, data = recorded.answer(method, parts.path, dict(parse_qsl(parts.query)), body)
            wrapped = method == "GET" or parts.path.rpartition("/")[2] in ("plan", "sql", "projection")
            seq = len(recorded.history.events)
            wrapped = wrapped and not isinstance(data, bytes) and not parts.path.endswith("/schema")
            self._send(status, {"seq": seq, "data": data} if status == 200 and wrapped else data)

    def _send(self, status: int, data: Any) -> None:
        body = data if isinstance(data, bytes) else msgspec.json.encode(data)
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if status < 300 else "application/problem+json")
        self.send_header("Content-Length", str(len(body)))
        if self.recorded.frozen:
            self.send_header("Fleetlog-Frozen", self.recorded.frozen)
        self.end_headers()
        self.wfile.write(body)

    def _feed(self) -> None:
        recorded = self.recorded
        last = self.headers.get("Last-Event-ID", "")
        recorded.feeds.append(last)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        position, sent = int(last or 0), 0
        with contextlib.suppress(ConnectionError):
            self._chunk(b"retry: 2000\n\n")
            while True:
                with recorded.grown:
                    found = [event for event in recorded.history.events if event.seq > position]
                    if not found:
                        recorded.grown.wait(0.05)
                for event in found:
                    body = msgspec.json.encode(recorded.stored(event))
                    self._chunk(b"id: %d\nevent: %s\ndata: %s\n\n" % (
                        event.seq, events.NAMES[type(event.data)].encode(), body))
                    position, sent = event.seq, sent + 1
                    if sent == recorded.break_feed_after:
                        recorded.break_feed_after = None
                        self.close_connection = True
                        return
                if not found:
                    self._chunk(b": hb\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


@dataclasses.dataclass
class Ended:
    """How one invocation of the command line ended."""

    code: int
    out: str
    err: str


@dataclasses.dataclass
class Cli:
    """The command line, pointed at the recorded gateway."""

    recorded: Recorded
    url: str

    def __call__(self, *arguments: str) -> Ended:
        """Run one invocation."""
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(list(arguments))
            except SystemExit as left:
                code = int(left.code or 0)
        texts = []
        for stream in (out, err):
            stream.flush()
            assert isinstance(stream.buffer, io.BytesIO)
            texts.append(stream.buffer.getvalue().decode())
        return Ended(code, *texts)


@pytest.fixture
def recorded() -> Recorded:
    """Return an empty history."""
    return Recorded()


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    """Listen; each test gives it a history of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def cli(
    recorded: Recorded, server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> Cli:
    """Serve the history and return the command line."""
    _Handler.recorded = recorded
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("FLEETLOG_URL", url)
    monkeypatch.setenv("FLEETLOG_TOKEN", TOKEN)
    monkeypatch.setenv("FLEETLOG_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    return Cli(recorded, url)
