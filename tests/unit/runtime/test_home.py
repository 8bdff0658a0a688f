"""A home is minted once, read by its owner only, and says what to do when something is missing."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path

import pytest

from fleetlog_runtime.shell import nats_auth
from fleetlog_runtime.shell.files import create_private, write_atomic
from fleetlog_runtime.shell.home import (
    Home,
    HomeError,
    agent_user_jwt,
    agents_account_jwt,
    create_home,
    default_path,
)
from fleetlog_schemas.ids import HOST_ID, InvalidId


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def claims(jwt: str) -> dict:
    part = jwt.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def test_a_second_start_changes_nothing(tmp_path):
    create_home(tmp_path / "home")
    before = contents(tmp_path / "home")
    create_home(tmp_path / "home")
    assert contents(tmp_path / "home") == before
    assert len(before) > 20


def test_what_is_missing_is_made_again_and_the_rest_kept(tmp_path):
    home = create_home(tmp_path / "home")
    before = contents(home.path)
    home.creds_path("gateway").unlink()
    create_home(home.path)
    after = contents(home.path)
    assert set(after) == set(before)
    assert {name for name in after if after[name] != before[name]} == {"creds/gateway.creds"}


def test_only_the_owner_can_read_it(tmp_path):
    home = create_home(tmp_path / "home")
    for path in [home.path, *home.path.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_starters_at_the_same_time_agree(tmp_path):
    homes: list[Home] = []
    threads = [threading.Thread(target=lambda: homes.append(create_home(tmp_path / "home"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({(home.gateway_token(), home.secret("token"), home.seed("operator")) for home in homes}) == 1
    assert not [path for path in homes[0].path.rglob(".*") if path.is_file()]


def test_secrets_are_32_bytes_and_differ(tmp_path):
    home = create_home(tmp_path / "home")
    secrets = {home.secret(name) for name in ("token", "ticket", "blob")}
    assert len(secrets) == 3
    assert {len(secret) for secret in secrets} == {32}
    with pytest.raises(HomeError, match="no secret"):
        home.secret("../operator")


def test_a_home_that_was_never_started_says_how_to_start_it(tmp_path):
    home = Home(tmp_path / "nothing")
    assert not home.exists()
    for ask in (home.nats_url, home.gateway_url, home.gateway_token, home.signer, lambda: home.secret("blob")):
        with pytest.raises(HomeError, match="fleetlog up --data"):
            ask()


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError, match="cannot make the home"):
        create_home(tmp_path / "file" / "home")


def test_the_default_follows_the_data_home_of_the_user(monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    assert default_path() == Path("/somewhere/fleetlog")


def test_the_signing_key_is_the_same_at_every_start(tmp_path):
    home = create_home(tmp_path / "home")
    assert home.signer().public_key == Home(home.path).signer().public_key


def test_a_host_id_is_one_subject_token_and_belongs_to_its_key():
    key = nats_auth.public_key(nats_auth.new_seed("user"))
    assert HOST_ID.fullmatch(nats_auth.host_id_of(key))
    assert len(nats_auth.host_id_of(key)) == 16
    assert nats_auth.host_id_of(key) == nats_auth.host_id_of(key)
    assert nats_auth.host_id_of(key) != nats_auth.host_id_of(nats_auth.public_key(nats_auth.new_seed("user")))


def test_an_agents_jwt_names_its_host_and_carries_no_rights_of_its_own(tmp_path):
    home = create_home(tmp_path / "home")
    key = nats_auth.public_key(nats_auth.new_seed("user"))
    found = claims(agent_user_jwt(home, "h123", key))
    assert (found["name"], found["sub"]) == ("h123", key)
    assert found["nats"] == {
        "type": "user", "version": 2, "issuer_account": nats_auth.public_key(home.seed("account-agents"))
    }


@pytest.mark.parametrize("host_id", [">", "*", "a.b", "a b", "", "{{name()}}"])
def test_a_host_id_that_is_no_safe_token_gets_no_jwt(tmp_path, host_id):
    home = create_home(tmp_path / "home")
    with pytest.raises(InvalidId):
        agent_user_jwt(home, host_id, nats_auth.public_key(nats_auth.new_seed("user")))


def test_the_agents_account_carries_its_revocations(tmp_path):
    home = create_home(tmp_path / "home")
    assert claims(agents_account_jwt(home, {"UB": 5, "UA": 7}))["nats"]["revocations"] == {"UA": 7, "UB": 5}
    assert "revocations" not in claims(agents_account_jwt(home, {}))["nats"]


def test_no_service_may_use_a_wildcard_over_everything():
    for user in nats_auth.SERVICE_USERS:
        rights = nats_auth.service_rights(user)
        for subject in rights["pub"]["allow"]:
            assert subject not in (">", "evt.>", "$JS.API.>", "*")
            if (user, subject) != ("keeper", "$JS.API.STREAM.PURGE.EVENTS"):
                assert not any(verb in subject for verb in ("DELETE", "PURGE", "UPDATE", "STREAM.CREATE", "RESTORE"))
        assert ">" not in rights["sub"]["allow"]


def test_a_file_written_whole_replaces_the_old_one_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "f"
    write_atomic(path, b"one")
    write_atomic(path, b"two", 0o644)
    assert path.read_bytes() == b"two"
    assert [one.name for one in tmp_path.iterdir()] == ["f"]


def test_a_private_file_is_never_written_over(tmp_path):
    path = tmp_path / "f"
    assert create_private(path, b"one")
    assert not create_private(path, b"two")
    assert path.read_bytes() == b"one"
    assert path.stat().st_mode & 0o777 == 0o600
