"""Who may be invited and who may join."""

from __future__ import annotations

import pytest

from fleetlog_gateway import enrolment
from fleetlog_gateway.access import Access, Invitation
from fleetlog_gateway.limits import INVITATIONS_OPEN_MAX
from fleetlog_gateway.problems import HttpProblem
from fleetlog_runtime.shell import nats_auth
from fleetlog_schemas import hosts

KEY = "UD747KQ5BSMMLNYYEC7KDEXYT5T5E75WJBYB6P3IIE2SR3C63RQSFZBJ"
OTHER_KEY = nats_auth.public_key(nats_auth.new_seed("user"))
KEY_OF_AN_ACCOUNT = "ADBCNAVWPUQK333RN7QAUOCB4ENEUABVRCD6BIX5YKKN42JAAHN4IS22"
HOST_ID = nats_auth.host_id_of(KEY)


def access(**fields: object) -> Access:
    invitation = Invitation(name="web1", labels={"a": "b"}, expires_ms=5_000)
    return Access(invitations={enrolment.token_sha256("t"): invitation}, **fields)  # type: ignore[arg-type]


def refused(given: Access, token: str = "t", key: str = KEY, now_ms: int = 1_000) -> str:
    with pytest.raises(HttpProblem) as caught:
        enrolment.check_join(given, token, nats_auth.host_id_of(key), key, now_ms)
    return caught.value.code


@pytest.mark.parametrize("name", ["web1", "db-01.example.org", "A_b", "9", "x" * 253])
def test_names_that_the_target_language_can_spell_are_taken(name: str) -> None:
    enrolment.check_name(name)


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "web*", "web[01-03]", "a,b", "a=b", "!a", "(a)", "a\x00", "a\n", "ü", "-a", ".a", "x" * 254, "and",
     "not", "all", "last", HOST_ID, "\u202eweb"],
)
def test_names_that_would_mean_something_else_are_refused(name: str) -> None:
    with pytest.raises(HttpProblem) as caught:
        enrolment.check_name(name)
    assert caught.value.errors[0].pointer == "/name"


@pytest.mark.parametrize("labels", [{"env": "prod"}, {"team/role": "web-1"}, {"zone": "münchen"}, {"gone": None}])
def test_labels_that_can_be_selected_are_taken(labels: dict[str, str | None]) -> None:
    enrolment.check_labels(labels)


@pytest.mark.parametrize(
    "labels",
    [{"": "a"}, {"a b": "c"}, {"a": ""}, {"a": "b c"}, {"a": "b,c"}, {"a": "b*"}, {"a": "\x1b[31m"}, {"a": "x" * 257},
     {"x" * 257: "a"}, {"in": "a"}, {"a": "or"}, {f"k{n}": "v" for n in range(65)}],
)
def test_labels_that_could_not_be_selected_are_refused(labels: dict[str, str | None]) -> None:
    with pytest.raises(HttpProblem) as caught:
        enrolment.check_labels(labels)
    assert caught.value.errors[0].pointer.startswith("/labels")


def test_a_label_is_pointed_at_with_its_key_escaped() -> None:
    with pytest.raises(HttpProblem) as caught:
        enrolment.check_labels({"a/b": "c d"})
    assert caught.value.errors[0].pointer == "/labels/a~1b"


@pytest.mark.parametrize(
    "key",
    ["", "U", KEY[:-1], KEY + "A", KEY[:-1] + ("A" if KEY[-1] != "A" else "B"), KEY.lower(), "ü" * 56,
     KEY_OF_AN_ACCOUNT, "0" * 56],
)
def test_what_is_not_the_public_half_of_a_user_key_is_refused(key: str) -> None:
    with pytest.raises(HttpProblem) as caught:
        enrolment.check_public_key(key)
    assert caught.value.errors[0].pointer == "/public_key"


def test_the_public_half_of_a_user_key_is_taken() -> None:
    enrolment.check_public_key(KEY)


def test_a_token_that_is_known_and_in_time_gives_its_invitation() -> None:
    found = enrolment.check_join(access(), "t", HOST_ID, KEY, 1_000)
    assert isinstance(found, Invitation)
    assert found.name == "web1"


def test_a_token_is_refused_when_unknown_or_at_the_moment_it_expires() -> None:
    assert refused(access(), token="other") == "join-token"
    assert refused(access(), now_ms=5_000) == "join-token"


def test_a_used_token_answers_the_same_key_again_and_refuses_another() -> None:
    known = hosts.Hosts(by_id={HOST_ID: hosts.Host(host_id=HOST_ID, name="web1", public_key=KEY)})
    given = access(hosts=known, used={enrolment.token_sha256("t"): HOST_ID})
    assert enrolment.check_join(given, "t", HOST_ID, KEY, 1_000) is known.by_id[HOST_ID]
    assert refused(given, key=OTHER_KEY) == "join-token-used"


def test_a_revoked_key_never_joins_again() -> None:
    assert refused(access(revoked={KEY: 1})) == "key-revoked"


def test_a_key_that_is_enrolled_already_does_not_spend_another_token() -> None:
    known = hosts.Hosts(by_id={HOST_ID: hosts.Host(host_id=HOST_ID, name="db1", public_key=KEY)})
    assert refused(access(hosts=known)) == "key-enrolled"


def test_a_name_taken_since_the_invitation_refuses_the_join() -> None:
    known = hosts.Hosts(by_id={"hx": hosts.Host(host_id="hx", name="web1", public_key=OTHER_KEY)})
    assert refused(access(hosts=known)) == "name-taken"


def test_the_name_of_a_revoked_host_is_free_again() -> None:
    known = hosts.Hosts(by_id={"hx": hosts.Host(host_id="hx", name="web1", public_key=OTHER_KEY, revoked=True)})
    enrolment.check_invite(access(hosts=known), "web1", 1_000)


def test_open_invitations_are_limited() -> None:
    one = Invitation(name="x", labels={}, expires_ms=5_000)
    given = Access(invitations={str(number): one for number in range(INVITATIONS_OPEN_MAX)})
    with pytest.raises(HttpProblem) as caught:
        enrolment.check_invite(given, "web1", 1_000)
    assert caught.value.code == "too-many-invitations"
    enrolment.check_invite(given, "web1", 5_000)
