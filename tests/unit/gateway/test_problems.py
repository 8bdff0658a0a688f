"""Problems point at what was wrong, in words that are bounded and safe to show."""

from __future__ import annotations

import msgspec
import pytest

from fleetlog_gateway import problems
from fleetlog_gateway.problems import FieldError, HttpProblem, from_answer, from_validation
from fleetlog_schemas import questions
from fleetlog_schemas.spec import TaskSpec


class Labels(msgspec.Struct, forbid_unknown_fields=True):
    labels: dict[str, str]


@pytest.mark.parametrize(
    ("body", "kind", "pointer"),
    [
        (b'{"payload":{"kind":"shell","argv":["a",1]}}', TaskSpec, "/payload/argv/1"),
        (b'{"payload":{"kind":"rm"}}', TaskSpec, "/payload/kind"),
        (b'{"payload":{"kind":"shell","argv":["a"]},"zz":1}', TaskSpec, "/zz"),
        (b'{"payload":{"kind":"shell","argv":["a"],"a/b~c":1}}', TaskSpec, "/payload/a~1b~0c"),
        (b"{}", TaskSpec, "/payload"),
        (b"[]", TaskSpec, ""),
        (b'{"payload":{"kind":"shell","argv":["a"]},"retry":{"on":["bogus"]}}', TaskSpec, "/retry/on/0"),
        (b'{"labels":{"a":1}}', Labels, "/labels"),
    ],
)
def test_a_refused_field_is_pointed_at(body: bytes, kind: type, pointer: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(body, type=kind)
    wrong = from_validation(str(caught.value))
    assert wrong.pointer == pointer
    assert wrong.message
    assert " - at `" not in wrong.message


def test_a_problem_has_the_members_that_the_rfc_names() -> None:
    problem = HttpProblem("invalid", "no", errors=[FieldError("/a", "no")])
    assert msgspec.json.decode(problem.body("/api/v1/tasks")) == {
        "type": "urn:fleetlog:problem:invalid", "title": "A field is wrong", "status": 422, "detail": "no",
        "instance": "/api/v1/tasks", "code": "invalid", "errors": [{"pointer": "/a", "message": "no"}],
    }


def test_what_was_sent_is_quoted_only_so_far_and_as_valid_text() -> None:
    problem = HttpProblem("invalid", "x" * 10_000 + "\ud800", errors=[FieldError("/a", "\udfff" + "y" * 10_000)])
    assert len(problem.body("/" + "z" * 10_000)) < 2_000


def test_a_problem_of_another_service_keeps_its_status_code_and_pointer() -> None:
    problem = from_answer(questions.Problem(status=404, code="task-not-found", message="none", pointer="/task_id"))
    assert (problem.status, problem.code) == (404, "task-not-found")
    assert problem.errors == (FieldError("/task_id", "none"),)


def test_a_service_that_answers_with_a_status_that_is_no_error_is_at_fault() -> None:
    assert from_answer(questions.Problem(status=200, code="odd", message="?")).status == 500


def test_every_code_has_an_error_status_and_a_title() -> None:
    assert all(400 <= status <= 599 and title for status, title in problems.KINDS.values())
