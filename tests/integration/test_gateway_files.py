"""Task files over HTTP on a real bus: two who save at once, what is refused, and what comes back after a removal."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from fleetlog_runtime.shell.home import Home
from fleetlog_schemas.limits import FILE_BYTES_MAX
from fleetlog_testing.gateway_rig import Rig, gateway_on, is_problem, spec_json
from fleetlog_testing.nats import real_server

PATH = "/api/v1/files"
_names = (f"jobs%2Fclean{number}" for number in range(1_000))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with real_server(tmp_path_factory.mktemp("bus")) as made:
        yield made


def on_gateway(home: Home, scenario: Any) -> None:
    async def run() -> None:
        async with gateway_on(home) as rig:
            await scenario(rig)

    asyncio.run(run())


async def save(rig: Rig, name: str, content: str, version: str = "", message: str = "") -> tuple[int, Any]:
    headers = {"If-Match": version} if version else {}
    status, answer, _ = await rig.call("PUT", f"{PATH}/{name}", {"content": content, "message": message}, headers=headers)
    return status, answer


def test_of_two_who_change_one_version_one_is_told_and_nothing_is_lost(home: Home) -> None:
    async def scenario(rig: Rig) -> None:
        name = next(_names)
        makers = await asyncio.gather(*(save(rig, name, f"echo {who}\n") for who in "ab"))
        assert 200 in [status for status, _ in makers]
        assert all(status == 200 or answer["code"] == "version-missing" for status, answer in makers)
        both = await asyncio.gather(*(save(rig, name, f"echo {who}\n", '"1"') for who in (1, 2)))
        assert sorted(status for status, _ in both) == [200, 412]
        won = next(number for number, (status, _) in enumerate(both, 1) if status == 200)
        assert is_problem(both[2 - won], 412, "version-changed")
        assert (await rig.get(f"{PATH}/{name}/content"))[1] == f"echo {won}\n"
        assert is_problem(await save(rig, name, "echo 3\n"), 428, "version-missing")
        assert is_problem(await rig.call("DELETE", f"{PATH}/{name}", headers={"If-Match": '"1"'}), 412, "version-changed")
        restored = await rig.call("POST", f"{PATH}/{name}/restore", {"version": 1}, headers={"If-Match": '"1"'})
        assert is_problem(restored, 412, "version-changed")
        assert (await save(rig, name, "echo 3\n", "*"))[1]["version"] == 3

    on_gateway(home, scenario)


def test_every_version_stays_also_of_a_file_that_is_removed_and_restored(home: Home) -> None:
    async def scenario(rig: Rig) -> None:
        name, path = (encoded := next(_names)), encoded.replace("%2F", "/")
        await save(rig, name, "echo 1\n", message="m1")
        assert (await save(rig, name, "echo 2\n", '"1"', "m2"))[1]["version"] == 2
        status, told = await save(rig, name, "echo 2\n", '"2"')
        assert (status, told["version"], told["changed"]) == (200, 2, False)
        assert (await rig.call("DELETE", f"{PATH}/{name}", headers={"If-Match": '"2"'}))[0] == 200
        assert is_problem(await rig.get(f"{PATH}/{name}"), 404, "file-not-found")
        assert is_problem(await save(rig, name, "echo 3\n", '"2"'), 412, "version-changed")
        assert path not in [one["path"] for one in (await rig.get(PATH))[1]["data"]["items"]]
        assert path in [one["path"] for one in (await rig.get(f"{PATH}?removed=only"))[1]["data"]["items"]]
        assert (await rig.get(f"{PATH}/{name}/content?version=1"))[1] == "echo 1\n"
        status, told, headers = await rig.call("POST", f"{PATH}/{name}/restore", {"version": 1})
        assert (status, told["version"], headers["ETag"]) == (200, 3, '"3"')
        _, page = await rig.get(f"{PATH}/{name}/versions")
        assert [(one["version"], one["restored_version"], one["message"], one["changed_by"]) for one in page["data"]["items"]] == [
            (3, 1, "", "owner"), (2, 0, "m2", "owner"), (1, 0, "m1", "owner")]

    on_gateway(home, scenario)


def test_names_texts_and_sizes_at_their_limits(home: Home) -> None:
    async def scenario(rig: Rig) -> None:
        name = next(_names)
        for bad in ("..%2Fx", "a%00b", "%2Fetc", "a%5Cb", "nul", ".x"):
            assert is_problem(await save(rig, bad, ""), 422, "invalid", "/path"), bad
        for wrong in ("a\x00b", "#!/usr/bin/env python3\nif 1:\nx\n", "x" * (FILE_BYTES_MAX + 1)):
            assert is_problem(await save(rig, name, wrong), 422, "invalid", "/content")
        assert is_problem(await rig.get(f"{PATH}/{name}"), 404, "file-not-found")
        full = "#!/usr/bin/perl\n".ljust(FILE_BYTES_MAX, "#")
        status, told = await save(rig, name, full)
        assert (status, told["checked"]["language"]) == (200, "")
        assert (await rig.get(f"{PATH}/{name}"))[1]["data"]["size"] == FILE_BYTES_MAX

    on_gateway(home, scenario)


def test_neither_a_definition_nor_a_task_gives_other_content_the_name_of_a_task_file(home: Home) -> None:
    async def scenario(rig: Rig) -> None:
        name = next(_names)
        _, saved = await save(rig, name, "echo 1\n")
        _, other, _ = await rig.call("POST", "/api/v1/blobs", raw=b"echo 2\n", headers={"Content-Type": "application/octet-stream"})

        def asked(sha256: str, version: int) -> Any:
            content = {"sha256": sha256, "size": 7, "name": f"{name.replace('%2F', '/')}@{version}"}
            return spec_json(payload={"kind": "script", "content": content})

        async def define(sha256: str, version: int) -> tuple[int, Any]:
            return await rig.post("/api/v1/definitions", {"definition": {"name": "job", "spec": asked(sha256, version)}})

        assert is_problem(await define(other["sha256"], 1), 422, "invalid", "/definition/spec/payload/content/name")
        assert (await define(saved["sha256"], 1))[0] == 201
        assert is_problem(await rig.post("/api/v1/tasks", asked(other["sha256"], 1)), 422, "invalid", "/payload/content/name")
        batch = {"tasks": [{"spec": asked(saved["sha256"], 1)}, {"spec": asked(other["sha256"], 1)}]}
        assert is_problem(await rig.post("/api/v1/tasks/batch", batch), 422, "invalid", "/tasks/1/spec/payload/content/name")
        assert (await rig.post("/api/v1/tasks", asked(saved["sha256"], 1)))[0] == 202

    on_gateway(home, scenario)
