"""A change says which version it rests on, of whatever it is a change."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from fleetlog_gateway.matching import Present, check_absent, check_match, has_already
from fleetlog_gateway.problems import HttpProblem

PRESENT = Present("the file a.sh", 4, "ann", 1_000)


def problem(tag: str | None, *, absent: bool = False, code: str = "version-changed") -> HttpProblem | None:
    request = make_mocked_request("PUT", "/", headers={} if tag is None else {"If-Match": tag})
    try:
        if absent:
            check_absent(request, "the file a.sh")
        else:
            check_match(request, PRESENT, changed_code=code)
    except HttpProblem as found:
        return found
    return None


@pytest.mark.parametrize("tag", ['"4"', "*"])
def test_a_change_of_the_present_version_or_of_any_goes_on(tag: str) -> None:
    assert problem(tag) is None


@pytest.mark.parametrize("tag", [None, "*"])
def test_what_is_not_there_is_made_without_a_version(tag: str | None) -> None:
    assert problem(tag, absent=True) is None


def test_a_change_of_another_version_says_who_came_first_and_which_it_is_now() -> None:
    found = problem('"3"')
    assert found is not None
    assert (found.code, found.status, found.headers) == ("version-changed", 412, {"ETag": '"4"'})
    assert found.detail.startswith("version 3 was meant, and by now it is 4, changed by ann at 1970-01-01T00:00:01.000Z")
    other = problem('"3"', code="schedule-changed")
    assert other is not None
    assert other.code == "schedule-changed"


def test_a_change_that_names_no_version_is_asked_for_one() -> None:
    found = problem(None)
    assert found is not None
    assert (found.code, found.status) == ("version-missing", 428)
    assert "the file a.sh exists, version 4" in found.detail


def test_a_change_of_what_is_not_there_any_more_says_so() -> None:
    found = problem('"3"', absent=True)
    assert found is not None
    assert (found.code, found.status) == ("version-changed", 412)
    assert "version 3 of the file a.sh was meant, and there is none by now" in found.detail


@pytest.mark.parametrize(("said", "has"), [
    ('"abc"', True), ('"x", "abc"', True), ('W/"abc"', True), ("*", True), ('"ab"', False), ("", False), ("nonsense", False),
])
def test_content_that_somebody_has_is_known_by_its_tag(said: str, has: bool) -> None:
    assert has_already(make_mocked_request("GET", "/", headers={"If-None-Match": said}), "abc") is has
