"""Secrets are hidden in every form and however the output is cut."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlog_agent.masking import Masker

SECRET = 'pa"ss/wörd 99'


@pytest.mark.parametrize(
    "form",
    [
        SECRET.encode(), base64.b64encode(SECRET.encode()), base64.urlsafe_b64encode(SECRET.encode()),
        quote(SECRET, safe="").encode(), json.dumps(SECRET)[1:-1].encode(),
        json.dumps(SECRET, ensure_ascii=False)[1:-1].encode(),
    ],
)
def test_every_form_is_hidden_at_its_full_length(form: bytes) -> None:
    masked = Masker([SECRET]).mask(b"before " + form + b" after", final=True)
    assert masked == b"before " + b"*" * len(form) + b" after"


@pytest.mark.parametrize("before", ["", "u", "us"])
def test_a_secret_inside_a_longer_base64_text_cannot_be_decoded(before: str) -> None:
    text = base64.b64encode(f"{before}{SECRET}:tail".encode())
    masked = Masker([SECRET]).mask(text, final=True)
    assert masked.count(b"*") >= len(SECRET.encode())


def test_each_line_of_a_longer_secret_is_hidden() -> None:
    key = "-----BEGIN KEY-----\nabcdefgh\nijklmnop\n-----END KEY-----"
    masked = Masker([key]).mask(b"x ijklmnop y\r\n", final=True)
    assert masked == b"x ******** y\r\n"


def test_what_is_too_short_to_hide_is_left_alone() -> None:
    assert Masker(["no", ""]).mask(b"no no no", final=True) == b"no no no"


@given(st.lists(st.sampled_from([b"secret", b"sec", b"ret", b"x", b"s", b"secretsecret", b"e"]), max_size=30),
       st.lists(st.integers(1, 9), min_size=1, max_size=40))
def test_masking_in_pieces_equals_masking_the_whole(parts: list[bytes], reads: list[int]) -> None:
    data, masker = b"".join(parts), Masker(["secret"])
    whole = data.replace(b"secret", b"******")
    out, position, available = b"", 0, 0
    for size in reads:
        available = min(available + size, len(data))
        piece = masker.mask(data[position:available], final=False)
        out, position = out + piece, position + len(piece)
    out += masker.mask(data[position:], final=True)
    assert out == whole
