"""What target expressions mean, and how they are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlog_schemas.hosts import Host
from fleetlog_schemas.targets import TargetError, resolve


def host(name: str, **labels: str) -> Host:
    return Host(host_id=f"h-{name}", name=name, public_key="", labels=labels)


FLEET = [
    *(host(f"web{number:02d}", env="prod", role="web", dc="a" if number < 3 else "b") for number in range(1, 6)),
    host("api1", env="prod", role="api", dc="a"),
    host("db1.example.org", env="test", role="db"),
    Host(host_id="h-gone", name="gone", public_key="", revoked=True),
]


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("web01", "web01"),
        ("h-web01", "web01"),
        ("web[01-03]", "web01 web02 web03"),
        ("web[01,05], api1", "api1 web01 web05"),
        ("web*", "web01 web02 web03 web04 web05"),
        ("web0?", "web01 web02 web03 web04 web05"),
        ("env=test", "db1.example.org"),
        ("env=prod and role in (web, api) and not dc=b", "api1 web01 web02"),
        ("role != web", "api1 db1.example.org"),
        ("role not in (web, db)", "api1"),
        ("env=prod and !role=web", "api1"),
        ("(dc=a or dc=b) and role=web and not web[04-05]", "web01 web02 web03"),
        ("role=a*", "api1"),
        ("all", "api1 db1.example.org web01 web02 web03 web04 web05"),
        ("*", "api1 db1.example.org web01 web02 web03 web04 web05"),
        ("db1.example.org", "db1.example.org"),
        ("env=test, web01", "db1.example.org web01"),
    ],
)
def test_a_target_means_these_hosts(target: str, names: str) -> None:
    assert " ".join(one.name for one in resolve(target, FLEET)) == names


@pytest.mark.parametrize(
    ("target", "code", "says"),
    [
        ("", "target-empty", "never means every host"),
        ("  ", "target-empty", "never means every host"),
        ("web99", "target-unknown", "did you mean"),
        ("web[01-09]", "target-unknown", "web[06-09]"),
        ("gone", "target-unknown", "gone"),
        ("prod", "target-unknown", "did you mean env=prod?"),
        ("env=nowhere", "target-empty", "means no host"),
        ("zzz*", "target-empty", "means no host"),
        ("web01 and role=api", "target-empty", "means no host"),
        ("web[3-1]", "target-syntax", "backwards"),
        ("web[1-", "target-syntax", "cannot read"),
        ("env=", "target-syntax", "expected"),
        ("env=prod and", "target-syntax", "at the end"),
        ("(env=prod", "target-syntax", "expected ')'"),
        ("web01 web02", "target-syntax", "did not expect 'web02'"),
        ("role in web", "target-syntax", "expected '('"),
        ("web[1-999999999]", "target-syntax", "more than"),
        ("not " * 100 + "web01", "target-syntax", "nesting"),
        ("(" * 1000, "target-syntax", "nesting"),
    ],
)
def test_a_wrong_target_is_refused_with_what_is_wrong(target: str, code: str, says: str) -> None:
    with pytest.raises(TargetError) as caught:
        resolve(target, FLEET)
    assert caught.value.code == code
    assert says in str(caught.value)


@given(st.text(alphabet="web01[]-,()=! andorti*?h.é\x00", max_size=60))
def test_any_text_is_either_hosts_or_a_clear_refusal(target: str) -> None:
    try:
        chosen = resolve(target, FLEET)
    except TargetError as error:
        assert error.code in ("target-syntax", "target-unknown", "target-empty")
        assert str(error)
    else:
        assert chosen
        assert all(not one.revoked for one in chosen)
