"""Folded host names are read back as they were."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlog_schemas.hostset import RANGE_HOSTS_MAX, BadRange, expand, fold

NAME = st.from_regex(r"[a-z]{0,3}[0-9]{0,4}[a-z.-]{0,2}[0-9]{0,3}[a-z.]{0,3}", fullmatch=True).filter(bool)


def read_back(folded: str) -> list[str]:
    """Split at the commas outside brackets, as the target grammar does, and expand each piece."""
    pieces, depth, piece = [], 0, ""
    for character in folded:
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "," and not depth:
            pieces.append(piece)
            piece = ""
        else:
            piece += character
    return [name for one in [*pieces, piece] for name in expand(one)]


@given(st.sets(NAME, min_size=1, max_size=40))
def test_what_is_folded_is_read_back(names: set[str]) -> None:
    assert sorted(read_back(fold(names))) == sorted(names)


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        (["web01"], "web01"),
        (["web01", "web02", "web03", "web07"], "web[01-03,07]"),
        (["web9", "web10"], "web9,web10"),
        (["db", "web2", "web1", "db"], "db,web[1-2]"),
        (["a1.example", "a2.example"], "a[1-2].example"),
        (["rack1-node5", "rack1-node6", "rack2-node5"], "rack1-node[5-6],rack2-node5"),
        ([], ""),
    ],
)
def test_names_are_folded_as_people_write_them(names: list[str], folded: str) -> None:
    assert set(fold(names).replace("web10,web9", "web9,web10").split(",")) == set(folded.split(","))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("web", ["web"]),
        ("web[1]", ["web1"]),
        ("web[01-03,07]x", ["web01x", "web02x", "web03x", "web07x"]),
        ("web[8-11]", ["web8", "web9", "web10", "web11"]),
        ("web[098-101]", ["web098", "web099", "web100", "web101"]),
    ],
)
def test_a_range_stands_for_its_names(text: str, names: list[str]) -> None:
    assert list(expand(text)) == names


@pytest.mark.parametrize(
    "text",
    [
        "web[", "web]", "web[]", "web[1", "web[1-]", "web[-1]", "web[1-2-3]", "web[1,]", "web[a-b]", "web[1][2]", "web[[1]]",
        "web[3-1]", f"web[1-{RANGE_HOSTS_MAX + 1}]", f"web[{'9' * 5000}]", "web[0-999999999999999999]", "web[1 - 2]",
    ],
)
def test_a_range_that_cannot_be_read_says_so(text: str) -> None:
    with pytest.raises(BadRange) as raised:
        list(expand(text))
    assert len(str(raised.value)) < 300


@given(st.text(alphabet="ab01,-[] ", max_size=12))
def test_any_text_expands_or_is_a_bad_range(text: str) -> None:
    try:
        assert list(expand(text))
    except BadRange:
        return
