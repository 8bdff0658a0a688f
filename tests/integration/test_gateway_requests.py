"""What the gateway takes, and what it refuses, over real HTTP on a real bus."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from fleetlog_gateway import limits
from fleetlog_gateway.auth import Permission, Principal, Tokens
from fleetlog_gateway.registry import REGISTRY, Nothing, Raw
from fleetlog_runtime.shell.home import Home
from fleetlog_schemas.limits import (
    BLOB_BYTES_MAX,
    TASK_ID_AGE_MS_MAX,
    TASK_ID_AHEAD_MS_MAX,
    TASKS_PER_SUBMIT_MAX,
)
from fleetlog_schemas.outcomes import Outcome
from fleetlog_testing.gateway_rig import (
    connect,
    end,
    enrol,
    gateway_on,
    is_problem,
    log_of,
    new_key,
    planned_task,
    reporter_on,
    spec_json,
)
from fleetlog_testing.nats import real_server
from fleetlog_testing.waiting import until


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with real_server(tmp_path_factory.mktemp("bus")) as made:
        yield made


def test_every_route_without_a_token_is_refused_except_the_public_ones(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            monkeypatch.setattr(limits, "AUTH_FAILURES_MAX", 10_000)  # more routes than tries
            for row in REGISTRY:
                path = re.sub(r"\{\w+\}", "x", row.path)
                for header in ("", "Bearer wrong", "Basic abc"):
                    headers = {"Authorization": header}
                    answer = await rig.call(row.method, path, headers=headers, raw=b"{}" if row.method == "POST" else None)
                    if row.auth is Permission.PUBLIC:
                        assert answer[0] != 401
                    else:
                        assert is_problem(answer, 401, "unauthenticated")
                        assert answer[2]["WWW-Authenticate"] == "Bearer"

    asyncio.run(scenario())


def test_a_token_does_only_what_its_permissions_say(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            for allowed in (Permission.READ, Permission.RUN, Permission.HOSTS, Permission.SQL):
                holder = Principal(name="some", permissions=frozenset({allowed}))
                rig.gateway.tokens = Tokens([("flt_some", holder)])
                rig.token = "flt_some"
                for row in REGISTRY:
                    if row.auth in (Permission.PUBLIC, allowed):
                        continue
                    path = re.sub(r"\{\w+\}", "x", row.path)
                    assert is_problem(await rig.call(row.method, path), 403, "forbidden")

    asyncio.run(scenario())


def test_too_many_wrong_tokens_are_slowed_down_and_the_right_one_still_works(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            wrong = {"Authorization": "Bearer wrong"}
            for _ in range(limits.AUTH_FAILURES_MAX):
                assert (await rig.call("GET", "/api/v1/version", headers=wrong))[0] == 401
            answer = await rig.call("GET", "/api/v1/version", headers=wrong)
            assert is_problem(answer, 429, "too-many-failures")
            assert 1 <= int(answer[2]["Retry-After"]) <= limits.AUTH_WINDOW_SECONDS
            assert (await rig.get("/api/v1/version"))[0] == 200

    asyncio.run(scenario())


def test_refusals_are_recorded_in_the_log_by_minute_and_reason(home: Home) -> None:
    async def scenario() -> int:
        async with gateway_on(home) as rig:
            before = int((await rig.get("/api/v1/log?limit=1"))[1]["seq"])
            for _ in range(3):
                await rig.call("GET", "/api/v1/version", headers={"Authorization": "Bearer wrong"})
            await rig.call("GET", "/api/v1/version", headers={"Host": "evil.example"})
            return before

    before = asyncio.run(scenario())

    async def after_stop() -> None:
        async with gateway_on(home) as rig:
            _, body = await rig.get(f"/api/v1/log?from_seq={before + 1}&limit=500")
            refused = [item["event"]["data"]["counts"] for item in body["data"]["items"]]
            total = {reason: sum(counts.get(reason, 0) for counts in refused) for reason in ("token", "host-name")}
            assert total == {"token": 3, "host-name": 1}

    asyncio.run(after_stop())


def test_a_request_for_another_host_name_is_misdirected(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            for name in ("evil.example", "127.0.0.1.evil.example", "10.0.0.1:8420", "[::2]", ""):
                answer = await rig.call("GET", "/livez", headers={"Host": name})
                assert is_problem(answer, 421, "misdirected")
            for name in ("localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8420"):
                assert (await rig.call("GET", "/livez", headers={"Host": name}))[0] == 200

    asyncio.run(scenario())


def test_every_answer_carries_the_security_headers_and_none_invites_other_origins(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            for method, path in (("GET", "/livez"), ("GET", "/nothing"), ("DELETE", "/livez"), ("GET", "/api/v1/version")):
                _, _, headers = await rig.call(method, path, headers={"Origin": "https://evil.example"})
                assert headers["X-Content-Type-Options"] == "nosniff"
                assert headers["Content-Security-Policy"].startswith("default-src 'none'")
                assert headers["Cache-Control"] == "no-store"
                assert headers["Server"] == "fleetlog"
                assert not [name for name in headers if name.lower().startswith("access-control")]

    asyncio.run(scenario())


BAD_BODIES = [
    (b"", 400, "malformed-json", None),
    (b"{", 400, "malformed-json", None),
    (b"NaN", 400, "malformed-json", None),
    (b'{"payload":NaN}', 400, "malformed-json", None),
    (b'{"timeout_ms":1e999}', 422, "invalid", "/timeout_ms"),
    (b"\xff\xfe", 400, "malformed-json", None),
    (b'{"name":"\xff"}', 400, "malformed-json", None),
    (b'{"payload":{"kind":"shell","argv":["\\ud800"]}}', 400, "malformed-json", None),
    (b"[]", 422, "invalid", ""),
    (b"null", 422, "invalid", ""),
    (b'{"payload":' * 50_000, 400, "malformed-json", None),
    (b"[" * 500_000, 422, "invalid", ""),
    (b"{}", 422, "invalid", "/payload"),
    (b'{"payload":{"kind":"shell","argv":[]},"target":"all"}', 422, "invalid", "/payload/argv"),
    (b'{"payload":{"kind":"shell","argv":["a",1]},"target":"all"}', 422, "invalid", "/payload/argv/1"),
    (b'{"payload":{"kind":"shell","argv":["a\\u0000"]},"target":"all"}', 422, "invalid", "/payload/argv/0"),
    (b'{"payload":{"kind":"shell","argv":["a"]},"target":"all","sudo":true}', 422, "invalid", "/sudo"),
    (b'{"payload":{"kind":"shell","argv":["a"]},"target":""}', 422, "invalid", "/target"),
    (b'{"payload":{"kind":"shell","argv":["a"]},"target":"all","timeout_ms":-1}', 422, "invalid", "/timeout_ms"),
    (b'{"payload":{"kind":"shell","argv":["a"]},"target":"all","timeout_ms":"1"}', 422, "invalid", "/timeout_ms"),
    (b'{"payload":{"kind":"shell","argv":["a"]},"target":"all","timeout_ms":%s}' % (b"9" * 4_000), 422, "invalid",
     "/timeout_ms"),
    (b'{"payload":{"kind":"shell","argv":["a"]},"target":"all","rerun_of":"x"}', 422, "invalid", "/rerun_of"),
    (b'{"payload":{"kind":"shell","argv":["a"]},"target":"all","tags":["-"]}', 422, "invalid", "/tags/0"),
]


@pytest.mark.parametrize(("body", "status", "code", "pointer"), BAD_BODIES, ids=lambda value: str(value)[:40])
def test_a_body_that_is_wrong_is_refused_with_a_pointer(
    home: Home, body: bytes, status: int, code: str, pointer: str | None
) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            assert is_problem(await rig.call("POST", "/api/v1/tasks", raw=body), status, code, pointer)

    asyncio.run(scenario())


def test_bodies_of_the_wrong_type_or_size_are_refused(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            assert is_problem(await rig.call("POST", "/api/v1/tasks", raw=b"a=b", headers=form), 415, "media-type")
            packed = {"Content-Encoding": "gzip"}
            assert is_problem(await rig.call("POST", "/api/v1/tasks", raw=b"{}", headers=packed), 415, "media-type")
            large = b" " * (limits.JSON_BODY_BYTES_MAX + 1)
            assert is_problem(await rig.call("POST", "/api/v1/tasks", raw=large), 413, "body-too-large")
            blob = {"Content-Type": "application/octet-stream"}
            answer = await rig.call("POST", "/api/v1/blobs", raw=bytes(BLOB_BYTES_MAX + 1), headers=blob)
            assert is_problem(answer, 413, "body-too-large")
            assert is_problem(await rig.post("/api/v1/verify/projection", {"x": 1}), 422, "invalid")

    asyncio.run(scenario())


def test_a_body_without_a_length_is_cut_off_at_the_limit(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            host = rig.url.removeprefix("http://")
            reader, writer = await asyncio.open_connection(*host.split(":"))
            writer.write(
                f"POST /api/v1/tasks HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {rig.token}\r\n"
                "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            )
            chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
            try:
                for _ in range(64):
                    writer.write(chunk)
                    await writer.drain()
            except ConnectionError:
                pass
            assert b" 413 " in await asyncio.wait_for(reader.readline(), 5)
            writer.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01", b"GET  HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"y" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 5_000 + b"\r\n",
        b"POST /api/v1/join HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /api/v1/join HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /api/v1/join HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=lambda sent: repr(sent[:30]),
)
def test_what_is_not_http_gets_a_problem_without_a_traceback(home: Home, sent: bytes) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            reader, writer = await asyncio.open_connection(*rig.url.removeprefix("http://").split(":"))
            writer.write(sent)
            head, _, body = (await asyncio.wait_for(reader.read(65536), 5)).partition(b"\r\n\r\n")
            status = int(head.split(b" ")[1])
            assert 400 <= status < 500
            assert b"application/problem+json" in head
            assert msgspec.json.decode(body)["status"] == status
            assert b"Traceback" not in body
            writer.close()
            assert (await rig.get("/livez"))[0] == 200

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/v1/tasks?limit=0", "bad-query"), ("/api/v1/tasks?limit=501", "bad-query"), ("/api/v1/tasks?limit=x", "bad-query"),
        ("/api/v1/tasks?nope=1", "bad-query"), ("/api/v1/tasks?limit=1&limit=2", "bad-query"),
        ("/api/v1/tasks?cursor=" + "x" * 1_001, "bad-query"), ("/api/v1/tasks?as_of=yesterday", "bad-query"),
        ("/api/v1/tasks?at_least_seq=5", "bad-query"), ("/api/v1/stats?by=colour", "bad-query"),
        ("/api/v1/tasks/last/output", "bad-query"), ("/api/v1/tasks/last/output?host=a&stream=stdin", "bad-query"),
        ("/api/v1/log?from_seq=-1", "bad-query"), ("/api/v1/log?task_id=abc", "bad-query"),
        ("/api/v1/tasks/x", "task-not-found"), ("/api/v1/tasks/..%2F..%2Fetc", "task-not-found"),
        ("/api/v1/tasks/%00/events", "task-not-found"), ("/api/v1/tasks/%FF", "task-not-found"),
        ("/api/v1/hosts/" + "x" * 301, "host-not-found"), ("/api/v2/tasks", "not-found"),
    ],
)
def test_a_question_that_is_wrong_is_refused_before_it_is_asked(home: Home, path: str, code: str) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            status, body = await rig.get(path)
            assert (status // 100, body["code"]) == (4, code)

    asyncio.run(scenario())


def test_a_submitted_task_is_in_the_log_with_who_asked_before_it_is_answered(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            status, body, headers = await rig.call("POST", "/api/v1/tasks", spec_json(name="one"))
            assert status == 202
            assert headers["Location"] == f"/api/v1/tasks/{body['task_id']}"
            stored = (await rig.get(f"/api/v1/log?from_seq={body['seq']}&limit=1"))[1]["data"]["items"][0]
            assert stored["event"]["authid"] == "owner"
            assert stored["event"]["data"]["tasks"][0]["task_id"] == body["task_id"]
            assert stored["event"]["data"]["tasks"][0]["spec"]["name"] == "one"

    asyncio.run(scenario())


def test_the_same_key_with_the_same_request_is_one_event_and_one_answer(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            key = new_key()
            together = await asyncio.gather(
                *(rig.post("/api/v1/tasks", spec_json(), Idempotency_Key=key) for _ in range(5))
            )
            spaced = await rig.call(
                "POST", "/api/v1/tasks", raw=msgspec.json.format(msgspec.json.encode(spec_json())),
                headers={"Idempotency-Key": f'"{key}"'},
            )
            answers = [*together, (spaced[0], spaced[1])]
            assert all(answer == answers[0] for answer in answers)
            assert answers[0][0] == 202
            assert answers[0][1]["task_id"] == key
            assert len(await log_of(rig, key)) == 1
            other = await rig.post("/api/v1/tasks", spec_json(name="other"), Idempotency_Key=key)
            assert is_problem(other, 422, "idempotency-key-reused")

    asyncio.run(scenario())


def test_a_key_that_is_no_uuid_of_now_is_refused(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            for key in ("x", "'", '"', "0191d8a0-0000-4000-8000-000000000000", new_key().upper(), new_key() + "0"):
                answer = await rig.post("/api/v1/tasks", spec_json(), Idempotency_Key=key)
                assert is_problem(answer, 400, "idempotency-key")
            for offset_ms in (-TASK_ID_AGE_MS_MAX - 10_000, TASK_ID_AHEAD_MS_MAX + 10_000):
                answer = await rig.post("/api/v1/tasks", spec_json(), Idempotency_Key=new_key(offset_ms))
                assert is_problem(answer, 422, "task-id-time")

    asyncio.run(scenario())


def test_a_batch_is_stored_whole_in_as_many_events_as_it_needs(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            given = new_key()
            large = {"kind": "shell", "argv": ["x" * 30_000]}
            tasks: list[dict[str, Any]] = [{"spec": spec_json(payload=large)} for _ in range(20)]
            tasks[0]["task_id"] = given
            status, body = await rig.post("/api/v1/tasks/batch", {"tasks": tasks})
            assert status == 202
            assert len(set(body["task_ids"])) == 20
            assert body["task_ids"][0] == given
            page = (await rig.get(f"/api/v1/log?from_seq={max(body['seq'] - 10, 1)}&limit=50"))[1]["data"]["items"]
            stored = [
                task["task_id"] for item in page for task in item["event"]["data"].get("tasks", [])
                if task["task_id"] in body["task_ids"]
            ]
            assert stored == body["task_ids"]
            assert sum(1 for item in page if given != item and len(str(item)) > 100_000) >= 2

    asyncio.run(scenario())


def test_a_batch_with_one_wrong_task_stores_nothing(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            before = (await rig.get("/api/v1/log?limit=1"))[1]["seq"]
            key = new_key()
            for tasks, pointer in (
                ([{"spec": spec_json()}, {"spec": spec_json(target="")}], "/tasks/1/spec/target"),
                ([{"spec": spec_json()}, {"spec": spec_json(), "task_id": "x"}], "/tasks/1/task_id"),
                ([{"spec": spec_json(), "task_id": key}, {"spec": spec_json(), "task_id": key}], "/tasks/1/task_id"),
                ([], "/tasks"), ([{"spec": spec_json()}] * (TASKS_PER_SUBMIT_MAX + 1), "/tasks"), ([{"spec": spec_json(), "x": 1}], "/tasks/0/x"),
            ):
                assert is_problem(await rig.post("/api/v1/tasks/batch", {"tasks": tasks}), 422, "invalid", pointer)
            assert (await rig.get("/api/v1/log?limit=1"))[1]["seq"] == before

    asyncio.run(scenario())


def test_content_is_stored_by_digest_once(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            headers = {"Content-Type": "application/octet-stream"}
            first = await rig.call("POST", "/api/v1/blobs", raw=b"\x00\xffecho hi", headers=headers)
            again = await rig.call("POST", "/api/v1/blobs", raw=b"\x00\xffecho hi", headers=headers)
            assert first[:2] == again[:2]
            assert first[0] == 201
            assert await rig.gateway.bus.get_blob(first[1]["sha256"]) == b"\x00\xffecho hi"

    asyncio.run(scenario())


ENDED = {"h1": Outcome.UNREACHED, "h2": Outcome.LOST, "h3": Outcome.SKIPPED}


def test_who_wrote_through_a_gateway_reads_what_he_wrote(home: Home) -> None:
    async def scenario() -> None:
        async with reporter_on(home) as reporter, gateway_on(home) as rig:
            for _ in range(20):
                _, body = await rig.post("/api/v1/tasks", spec_json())
                status, shown = await rig.get(f"/api/v1/tasks/{body['task_id']}")
                assert (status, shown["data"]["state"]) == (200, "submitted")
                assert shown["seq"] >= body["seq"]
            assert reporter.asked[-1][1]["at_least_seq"] == body["seq"]
            await rig.get("/api/v1/tasks?as_of=3")
            assert (reporter.asked[-1][1]["as_of_seq"], reporter.asked[-1][1]["at_least_seq"]) == (3, 3)

    asyncio.run(scenario())


def test_filters_of_a_question_reach_the_reporter_as_they_are(home: Home) -> None:
    async def scenario() -> None:
        async with reporter_on(home) as reporter, gateway_on(home) as rig:
            await rig.get("/api/v1/hosts?presence=online&label=env%3Dprod&limit=7&cursor=abc")
            asked = reporter.asked[-1]
            assert asked[0] == "hosts"
            assert asked[1] == {"presence": "online", "label": "env=prod", "limit": 7, "cursor": "abc"}
            await rig.post("/api/v1/sql", {"query": "select 1", "limit": 3})
            assert (reporter.asked[-1][0], reporter.asked[-1][1]["query"]) == ("sql", "select 1")

    asyncio.run(scenario())


def test_cancel_takes_a_whole_task_or_hosts_by_name_id_or_range(home: Home) -> None:
    async def scenario() -> None:
        async with reporter_on(home), gateway_on(home) as rig:
            task_id = await planned_task(rig)
            status, body = await rig.post(f"/api/v1/tasks/{task_id[-8:]}/cancel", {"hosts": ["web[1-2]"], "host_ids": ["h3"]})
            assert (status, body["task_id"], body["checked"]) == (202, task_id, True)
            assert (await rig.call("POST", f"/api/v1/tasks/{task_id}/cancel"))[0] == 202
            assert (await rig.post(f"/api/v1/tasks/{task_id}/cancel", {"reason": "wrong one"}))[0] == 202
            cancels = [event["data"] for event in await log_of(rig, task_id) if "cancel" in event["type"]]
            assert cancels == [
                {"task_id": task_id, "host_ids": ["h3", "h1", "h2"]}, {"task_id": task_id},
                {"task_id": task_id, "reason": "wrong one"},
            ]

    asyncio.run(scenario())


def test_cancel_refuses_what_is_unknown_or_over(home: Home) -> None:
    async def scenario() -> None:
        async with reporter_on(home), gateway_on(home) as rig:
            assert is_problem(await rig.post(f"/api/v1/tasks/{new_key()}/cancel", {}), 404, "task-not-found")
            task_id = await planned_task(rig)
            path = f"/api/v1/tasks/{task_id}/cancel"
            assert is_problem(await rig.post(path, {"hosts": ["web1", "web9"]}), 422, "invalid", "/hosts/1")
            assert is_problem(await rig.post(path, {"hosts": ["web[9-1]"]}), 422, "invalid", "/hosts/0")
            assert is_problem(await rig.post(path, {"host_ids": ["*"]}), 422, "invalid", "/host_ids/0")
            await end(rig, task_id, {"h1": Outcome.UNREACHED})
            assert is_problem(await rig.post(path, {"hosts": ["web1"]}), 409, "task-ended")
            await end(rig, task_id, ENDED, task=True)
            assert is_problem(await rig.post(path, {}), 409, "task-ended")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (None, ["h1", "h2", "h3"]), ({}, ["h1", "h2", "h3"]), ({"failed": True}, ["h1"]),
        ({"failed": True, "include_lost": True}, ["h1", "h2"]), ({"outcomes": ["lost", "skipped"]}, ["h2", "h3"]),
    ],
)
def test_rerun_takes_the_hosts_that_ended_so(home: Home, body: Any, expected: list[str]) -> None:
    async def scenario() -> None:
        async with reporter_on(home), gateway_on(home) as rig:
            await enrol(rig, "web1", "web2", "web3")
            task_id = await planned_task(rig, name="daily")
            await end(rig, task_id, ENDED, task=True)
            key = new_key()
            first = await rig.post(f"/api/v1/tasks/{task_id}/rerun", body, Idempotency_Key=key)
            again = await rig.post(f"/api/v1/tasks/{task_id}/rerun", body, Idempotency_Key=key)
            assert first == again
            assert (first[0], first[1]["hosts"], first[1]["task_id"]) == (202, len(expected), key)
            submitted = await log_of(rig, key)
            assert len(submitted) == 1
            spec = submitted[0]["data"]["tasks"][0]["spec"]
            assert (spec["host_ids"], spec["rerun_of"], spec["name"]) == (expected, task_id, "daily")
            assert "target" not in spec
            other = await rig.post(f"/api/v1/tasks/{task_id}/rerun", {"outcomes": ["error"]}, Idempotency_Key=key)
            assert is_problem(other, 422, "idempotency-key-reused")

    asyncio.run(scenario())


def test_rerun_without_a_host_to_take_says_so_and_names_the_lost_ones(home: Home) -> None:
    async def scenario() -> None:
        async with reporter_on(home), gateway_on(home) as rig:
            task_id = await planned_task(rig, hosts=1)
            await end(rig, task_id, {"h1": Outcome.LOST}, task=True)
            status, body = await rig.post(f"/api/v1/tasks/{task_id}/rerun", {"failed": True})
            assert is_problem((status, body), 409, "nothing-to-rerun")
            assert "1 lost" in body["detail"]
            path = f"/api/v1/tasks/{task_id}/rerun"
            assert is_problem(await rig.post(path, {"include_lost": True}), 422, "invalid", "/include_lost")
            both = {"failed": True, "outcomes": ["lost"]}
            assert is_problem(await rig.post(path, both), 422, "invalid", "/outcomes")
            assert is_problem(await rig.post(path, {"outcomes": ["sad"]}), 422, "invalid", "/outcomes/0")

    asyncio.run(scenario())


def test_why_puts_reporter_and_dispatcher_together_and_names_who_is_missing(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            task_id = await planned_task(rig)
            path = f"/api/v1/tasks/{task_id}/why"
            assert is_problem(await rig.get(path), 503, "service-unavailable")
            group = {"state": "waiting", "reason": "slot", "message": "m", "hosts": "web1", "count": 1, "since": None}

            async def waiting(_subject: str, _body: bytes, reply: str) -> None:
                await bus.publish(reply, msgspec.json.encode({"seq": 5, "data": [group], "problem": None}))

            bus = await connect(home, "dispatcher")
            stop = await bus.subscribe("ask.dispatcher.waiting", waiting)
            status, body = await rig.get(path)
            assert (status, body["data"]) == (
                200, {"task": None, "waiting": [group], "failures": None, "missing": ["reporter"], "difference": None},
            )
            async with reporter_on(home):
                status, body = await rig.get(path)
                assert status == 200
                assert body["data"]["waiting"] == [group]
                assert body["data"]["missing"] == []
                assert body["data"]["task"]["task_id"] == task_id
                assert "commands" not in body["data"]["task"]
                await stop()
                status, body = await rig.get(path)
                assert (status, body["data"]["waiting"], body["data"]["missing"]) == (200, None, ["dispatcher"])
                await end(rig, task_id, ENDED, task=True)
                status, body = await rig.get(path)
                assert (status, body["data"]["waiting"], body["data"]["missing"]) == (200, [], [])
                assert len(body["data"]["failures"]) == 2
            await bus.close()

    asyncio.run(scenario())


def test_plan_asks_the_dispatcher_and_checks_the_specification_first(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            assert is_problem(await rig.post("/api/v1/plan", spec_json(target="")), 422, "invalid", "/target")
            status, body = await rig.post("/api/v1/plan", spec_json())
            assert is_problem((status, body), 503, "service-unavailable")
            assert "dispatcher" in body["detail"]

            async def plan(_subject: str, body: bytes, reply: str) -> None:
                assert msgspec.json.decode(body)["spec"]["target"] == "web*"
                await bus.publish(reply, b'{"seq":3,"data":{"plan_hash":"x","hosts":[],"offline":0,"problem":null}}')

            bus = await connect(home, "dispatcher")
            await bus.subscribe("ask.dispatcher.plan", plan)
            status, body = await rig.post("/api/v1/plan", spec_json())
            assert (status, body["data"]["plan_hash"], body["seq"]) == (200, "x", 3)
            await bus.close()

    asyncio.run(scenario())


def test_a_reporter_that_is_away_or_behind_is_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "READY_SECONDS", 0.0)

    async def scenario() -> None:
        async with gateway_on(home) as rig:
            status, body = await rig.get("/api/v1/tasks")
            assert is_problem((status, body), 503, "service-unavailable")
            assert "reporter" in body["detail"]
            assert (await rig.get("/readyz"))[0] == 503
            async with reporter_on(home):
                rig.gateway.appender.appended_seq = 10**9
                assert is_problem(await rig.get("/api/v1/tasks/last"), 504, "behind")
                rig.gateway.appender.appended_seq = 0

                async def ready() -> bool:
                    return (await rig.get("/readyz"))[0] == 200

                # A probe waits a second for the reporter: on a busy machine it may take another one.
                await until(ready, what="the gateway says that it can serve")

    asyncio.run(scenario())


def test_a_service_that_answers_nonsense_is_a_fault_and_not_a_crash(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            bus = await connect(home, "reporter")
            answers = iter([b"\x00", b"{}", b"[1]", b'{"seq":1,"data":{"state":7}}'])

            async def nonsense(_subject: str, _body: bytes, reply: str) -> None:
                await bus.publish(reply, next(answers))

            await bus.subscribe("ask.reporter.*", nonsense)
            for _ in range(3):
                assert is_problem(await rig.get("/api/v1/tasks"), 500, "internal")
            assert is_problem(await rig.post(f"/api/v1/tasks/{new_key()}/cancel", {}), 500, "internal")
            await bus.close()

    asyncio.run(scenario())


def test_without_the_reporter_a_task_can_still_be_cancelled_by_its_full_id(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            await enrol(rig, "web1")
            key = new_key()
            for given in ({}, {"hosts": ["web1"]}, {"host_ids": ["h1"]}):
                status, body = await rig.post(f"/api/v1/tasks/{key}/cancel", given)
                assert (status, body["checked"]) == (202, False)
            assert [event["data"].get("host_ids") for event in await log_of(rig, key)] == [None, ["h1"], ["h1"]]
            nobody = await rig.post(f"/api/v1/tasks/{key}/cancel", {"hosts": ["web1", "nobody"]})
            assert is_problem(nobody, 422, "invalid", "/hosts/1")
            for path in (key[-8:], "last"):
                assert is_problem(await rig.post(f"/api/v1/tasks/{path}/cancel", {}), 503, "service-unavailable")

    asyncio.run(scenario())


def test_description_version_and_health_are_there(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            status, body = await rig.get("/api/v1/openapi.json")
            assert (status, set(body["paths"])) == (200, {row.path for row in REGISTRY})
            assert (await rig.get("/api/v1/version"))[1]["api"] == "v1"
            assert (await rig.call("GET", "/livez", headers={"Authorization": ""}))[0] == 200
            assert (await rig.call("HEAD", "/livez"))[0] == 200
            assert home.gateway_url() == rig.url

    asyncio.run(scenario())


def test_every_post_takes_only_its_own_fields(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            for row in REGISTRY:
                if row.method != "POST" or row.body in (Nothing, Raw):
                    continue
                path = re.sub(r"\{\w+\}", "x", row.path)
                status, body = await rig.post(path, {"surely_unknown": 1})
                assert (status, body["code"]) == (422, "invalid"), row.path

    asyncio.run(scenario())
