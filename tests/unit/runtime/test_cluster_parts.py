"""The list of nodes, the keys that go from one to the other, and holes in a copy."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from fleetlog_runtime.pure.cluster import Node, parse_cluster
from fleetlog_runtime.pure.holes import Hole, Holes
from fleetlog_runtime.pure.settings import SettingsError, resolve
from fleetlog_runtime.shell import growing, nats_auth, put_back_again
from fleetlog_runtime.shell.home import Home, HomeError, create_home
from fleetlog_runtime.shell.key_bundle import export_keys, import_keys
from fleetlog_runtime.shell.nats_config import server_config
from fleetlog_runtime.shell.nats_snapshot import StreamCopy
from fleetlog_runtime.shell.streams import StreamError, reservations

THREE = "a=10.0.0.5, b=10.0.0.6,c=10.0.0.7:4300:6300"


def test_the_list_says_who_is_where_and_this_machine_is_found_by_its_address() -> None:
    cluster = parse_cluster(THREE, own_addresses=("127.0.0.1", "10.0.0.6"))
    assert cluster is not None
    assert cluster.own == Node("b", "10.0.0.6")
    assert cluster.urls() == ["tls://10.0.0.6:4222", "tls://10.0.0.5:4222", "tls://10.0.0.7:4300"]
    assert [node.route for node in cluster.others] == ["10.0.0.5:6222", "10.0.0.7:6300"]
    assert (cluster.majority, cluster.first, cluster.tls) == (2, False, True)


def test_one_machine_can_be_all_nodes_when_each_is_named() -> None:
    cluster = parse_cluster("x=127.0.0.1:1:2,y=127.0.0.1:3:4,z=[::1]:5:6", "x")
    assert cluster is not None
    assert (cluster.tls, cluster.first) == (False, True)
    assert cluster.urls() == ["nats://127.0.0.1:1", "nats://127.0.0.1:3", "nats://[::1]:5"]


def test_no_list_is_one_node_alone() -> None:
    assert parse_cluster("") is None


@pytest.mark.parametrize(
    ("members", "node", "says"),
    [
        ("a=10.0.0.5,b=10.0.0.6", "a", "3 or 5 nodes, not 2"),
        ("a=10.0.0.5,b=10.0.0.6,c=10.0.0.6", "a", "10.0.0.6:4222 stands there twice"),
        ("a=10.0.0.5,b=10.0.0.6,a=10.0.0.7", "a", "the name a stands there twice"),
        ("a=127.0.0.1,b=10.0.0.6,c=10.0.0.7", "a", "either every node is on loopback or none"),
        ("a=0.0.0.0,b=10.0.0.6,c=10.0.0.7", "a", "give this machine's address"),
        ("a=10.0.0.5:70000,b=10.0.0.6,c=10.0.0.7", "a", "between 1 and 65535"),
        ("A=10.0.0.5,b=10.0.0.6,c=10.0.0.7", "a", "not NAME=ADDRESS"),
        ("10.0.0.5,b=10.0.0.6,c=10.0.0.7", "b", "not NAME=ADDRESS"),
        (THREE, "d", "no node 'd' among a, b, c"),
        (THREE, "", "Say --node NAME, one of a, b, c"),
        ("", "a", "Name all nodes"),
    ],
)
def test_a_list_that_cannot_work_is_an_error_that_says_what_fits(members: str, node: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says.replace("[", r"\[")):
        parse_cluster(members, node)


def test_the_list_may_stand_in_the_settings_file() -> None:
    settings = resolve(file_text=f'[cluster]\nmembers = "{THREE}"\nnode = "a"\n', file_name="settings.toml")
    cluster = parse_cluster(settings.cluster.members, settings.cluster.node)
    assert cluster is not None
    assert cluster.first


def test_the_keys_of_the_first_node_make_another_folder_the_same_system(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    count = export_keys(tmp_path / "a", file)
    assert count > 20
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    first, other = Home(tmp_path / "a"), import_keys(tmp_path / "b", file)
    assert other.exists()
    assert other.gateway_token() == first.gateway_token()
    assert other.signer().public_key == first.signer().public_key
    assert [other.secret(name) for name in ("token", "ticket", "blob", "route")] == [
        first.secret(name) for name in ("token", "ticket", "blob", "route")
    ]
    assert other.creds_path("dispatcher").read_bytes() == first.creds_path("dispatcher").read_bytes()
    assert reservations(other) == reservations(first)
    for path in (other.path / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # Once more changes nothing.
    import_keys(tmp_path / "b", file)
    assert other.gateway_token() == first.gateway_token()


def test_keys_are_not_put_over_another_system_nor_over_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    export_keys(tmp_path / "a", file)
    mine = create_home(tmp_path / "mine")
    token = mine.gateway_token()
    with pytest.raises(HomeError, match="of another system"):
        import_keys(mine.path, file)
    assert mine.gateway_token() == token
    with pytest.raises(HomeError, match="is there already"):
        export_keys(tmp_path / "a", file)


@pytest.mark.parametrize(
    "content",
    ["", "not json", '{"fleetlog_keys": 1, "files": {}}', '{"fleetlog_keys": 1, "files": {"keys/../../x": ""}}'],
)
def test_a_file_that_holds_no_keys_is_refused_and_nothing_is_made(tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(content)
    with pytest.raises(HomeError, match="not what `fleetlog node export` wrote"):
        import_keys(tmp_path / "b", file)
    assert not (tmp_path / "b").exists()


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    export_keys(tmp_path / "a", file)
    content = json.loads(file.read_text())
    content["files"]["keys/../evil"] = content["files"]["gateway/token"]
    file.write_text(json.dumps(content))
    with pytest.raises(HomeError, match="evil"):
        import_keys(tmp_path / "b", file)


def test_a_disk_that_cannot_hold_a_copy_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    first = create_home(tmp_path / "a")
    (first.path / "nats" / "reserved.json").write_text(json.dumps(dict.fromkeys(reservations(first), 2 ** 60)))
    export_keys(first.path, file)
    with pytest.raises(HomeError, match="name a folder on a larger disk"):
        import_keys(tmp_path / "b", file)
    assert not (tmp_path / "b").exists()


def test_keys_of_another_version_say_what_to_install(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text('{"fleetlog_keys": 9, "files": {}}')
    with pytest.raises(HomeError, match="version 9, this fleetlog reads 1"):
        import_keys(tmp_path / "b", file)


def test_nodes_beyond_loopback_prove_themselves_by_secret_and_certificate(tmp_path: Path) -> None:
    home = create_home(tmp_path / "home")
    cluster = parse_cluster(THREE, "a")
    text = server_config(home, listen="10.0.0.5", port=4222, monitor_port=1, file_bytes_max=1, tls=True, cluster=cluster)
    routes = text[text.index("cluster {") :]
    assert "verify: true" in routes
    assert home.secret("route").hex() in routes
    assert "server_name: a\n" in text
    assert "@10.0.0.7:6300" in routes
    assert "@10.0.0.5" not in routes, "a node has no route to itself"
    assert nats_auth.public_key(home.seed("account-core")) in text


def test_a_hole_is_met_until_no_copy_can_be_expected_to_have_the_message() -> None:
    holes = Holes(5)
    assert holes.before(5) == []
    with pytest.raises(Hole, match="message 6 is missing"):
        holes.before(8)
    assert not holes.met(6, 2)
    assert holes.met(6, 2)
    with pytest.raises(Hole, match="message 7 is missing"):
        holes.before(8)
    holes.met(7, 1)
    holes.next_seq = 6
    assert [(one.seq, one.body, one.batch_end) for one in holes.before(8)] == [(6, b"", True), (7, b"", True)]
    assert holes.before(9) == []


class Bus:
    """A server as a restore sees it: it answers with *states* one after the other (None: no such stream), and refuses a restore."""

    is_connected = True

    def __init__(self, *states: int | None, number: int = 10130, leaders: bool = False) -> None:
        self.states, self.number, self.leaders, self.calls = list(states), number, leaders, list[str]()

    async def request(self, subject: str, *_: Any, **__: Any) -> Any:
        call = subject.removeprefix("$JS.API.STREAM.")
        self.calls.append(call)
        answer: dict[str, Any] = {"success": True}
        if call == "INFO.LEADERS":
            answer = {} if self.leaders else {"error": {"code": 404, "err_code": 10059}}
        elif call.startswith("INFO."):
            last_seq = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            answer = {"error": {"code": 404, "err_code": 10059}} if last_seq is None else {"state": {"last_seq": last_seq}}
        elif call.startswith("RESTORE."):
            answer = {"error": {"code": 400, "err_code": self.number, "description": "why"}}
        return SimpleNamespace(data=json.dumps(answer).encode())


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Return a home that saved its first stream, through 3, to grow."""
    monkeypatch.setattr(put_back_again, "ABANDONED_SECONDS", 0)
    home = create_home(tmp_path)
    (folder := tmp_path / "nats" / "growing").mkdir()
    copy = StreamCopy(name=growing.STREAMS[0], config={}, state={"last_seq": 3}, bytes=0, sha256="")
    (folder / f"{copy.name}.json").write_bytes(msgspec.json.encode(copy))
    return home


@pytest.mark.parametrize("half", [None, 0, 2], ids=["a name without a stream", "an empty stream", "a part of one"])
@pytest.mark.parametrize("number", [10130, 10062], ids=["the name is taken", "the server gave up"])
def test_what_an_interrupted_restore_left_is_removed_before_it_begins_again_and_not_for_ever(
    saved: Home, half: int | None, number: int
) -> None:
    bus, said = Bus(half, number=number), list[str]()
    with pytest.raises(StreamError, match="given up 5 times: .*why.*Nothing is lost: .*growing.* begin again at the next start") as caught:
        asyncio.run(growing.restore(saved, bus, 3, said.append))  # type: ignore[arg-type]
    assert caught.value.refused
    name = growing.STREAMS[0]
    assert [call for call in bus.calls if "INFO" not in call] == [f"RESTORE.{name}", f"DELETE.{name}"] * put_back_again.TRIES_MAX
    assert "was interrupted (" in said[0]


def test_a_restore_whose_last_answer_was_lost_is_not_removed(saved: Home) -> None:
    bus = Bus(None, 3)
    with pytest.raises(StreamError, match="copied to 1 of 3 nodes") as caught:
        asyncio.run(growing.restore(saved, bus, 3, lambda _: None))  # type: ignore[arg-type]
    assert not caught.value.refused, "the other nodes are waited for, before the saved copy goes"
    assert not any(call.startswith("DELETE") for call in bus.calls)


def test_nothing_is_removed_from_a_cluster_that_has_served(saved: Home) -> None:
    bus = Bus(0, leaders=True)
    with pytest.raises(StreamError, match="has served already.*Move that folder away"):
        asyncio.run(growing.restore(saved, bus, 3, lambda _: None))  # type: ignore[arg-type]
    assert bus.calls == ["INFO.LEADERS"]


@pytest.mark.parametrize(
    ("number", "refused"), [(10005, False), (10059, False), (10058, True)],
    ids=["a node is not there yet", "a node does not know it yet", "such a stream is there already"],
)
def test_what_was_saved_is_put_back_when_all_nodes_are_there(saved: Home, number: int, refused: bool) -> None:
    bus = Bus(None, number=number)
    with pytest.raises(StreamError) as caught:
        asyncio.run(growing.restore(saved, bus, 3, lambda _: None))  # type: ignore[arg-type]
    assert caught.value.refused is refused
    assert not any(call.startswith("DELETE") for call in bus.calls)
