"""Identifiers carry their time and are safe as subject tokens."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlog_schemas.ids import InvalidId, check_host_id, id_ms, new_id, short

MS = st.integers(0, 2**48 - 1)


@given(MS, st.binary(min_size=10, max_size=16))
def test_an_id_is_a_uuid7_that_carries_its_time(now_ms: int, entropy: bytes) -> None:
    identifier = new_id(now_ms, entropy)
    assert uuid.UUID(identifier).version == 7
    assert uuid.UUID(identifier).variant == uuid.RFC_4122
    assert id_ms(identifier) == now_ms


@given(MS, MS, st.binary(min_size=10, max_size=10), st.binary(min_size=10, max_size=10))
def test_ids_sort_by_time(one_ms: int, other_ms: int, one: bytes, other: bytes) -> None:
    if one_ms < other_ms:
        assert new_id(one_ms, one) < new_id(other_ms, other)


def test_every_random_bit_is_used() -> None:
    zeros, ones = new_id(0, b"\x00" * 10), new_id(0, b"\xff" * 10)
    assert zeros == "00000000-0000-7000-8000-000000000000"
    assert ones == "00000000-0000-7fff-bfff-ffffffffffff"


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "0b7e1f0e-5c5b-4d3f-9a52-0f0b2f6e7d11", "01A0C450-6C00-7C1C-8707-070707070707",
        "01a0c4506c007c1c8707070707070707", "{01a0c450-6c00-7c1c-8707-070707070707}",
        "urn:uuid:01a0c450-6c00-7c1c-8707-070707070707", "01a0c450-6c00-7c1c-8707-070707070707\n",
    ],
)
def test_only_a_uuid7_in_canonical_form_is_a_task_id(text: str) -> None:
    with pytest.raises(InvalidId):
        id_ms(text)


@given(st.text(max_size=60))
def test_any_text_is_an_id_or_invalid(text: str) -> None:
    with pytest.raises(InvalidId):
        id_ms(text)


@pytest.mark.parametrize("host_id", ["h1", "A-b_9", "x" * 40])
def test_a_host_id_is_one_subject_token(host_id: str) -> None:
    assert check_host_id(host_id) == host_id


@pytest.mark.parametrize("host_id", ["", "a.b", "*", ">", "a b", "x" * 41, "h1\n", "höst", "a/b"])
def test_what_could_be_more_than_one_subject_token_is_no_host_id(host_id: str) -> None:
    with pytest.raises(InvalidId):
        check_host_id(host_id)


def test_the_short_form_is_the_tail_because_the_head_is_time() -> None:
    assert short("01a0c450-6c00-7c1c-8707-070707070abc") == "07070abc"
