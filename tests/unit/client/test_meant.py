"""Errors in words that say what to do."""

from __future__ import annotations

import msgspec
import pytest

from fleetlog.http import _problem
from fleetlog.meant import decoder_text, typed_text


class Cake(msgspec.Struct, forbid_unknown_fields=True):
    layers: int
    fillings: tuple[str, ...] = ()
    note: str | None = None


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"layers": 1, "filings": []}, "there is no field filings: did you mean fillings?"),
        ({"layers": 1, "oven": 3}, "there is no field oven"),
        ({"fillings": ["jam"]}, "layers is missing"),
        ({"layers": 1, "fillings": "jam"}, 'must be a list (["..."]), not a text ("...") - at `$.fillings`'),
        ({"layers": "1"}, 'must be a whole number, not a text ("...") - at `$.layers`'),
        ({"layers": 1, "note": 3}, 'must be a text ("...") or nothing, not a whole number - at `$.note`'),
    ],
)
def test_what_a_decoder_says_is_put_in_words_of_people(given: object, text: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(given, Cake)
    assert decoder_text(str(caught.value), Cake) == text


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("argument VERB: invalid choice: 'exce' (choose from 'exec', 'show')", "there is no VERB 'exce': did you mean exec?"),
        ("argument VERB: invalid choice: 'ps' (choose from 'ls', 'show')", "there is no VERB 'ps': did you mean ls?"),
        ("argument VERB: invalid choice: 'zzz' (choose from 'exec', 'show')", "there is no VERB 'zzz': it is one of exec, show"),
        ("the following arguments are required: NAME, N", "NAME, N is missing"),
        ("expected one argument", "expected one argument"),
    ],
)
def test_what_argparse_says_is_told_in_plain_words(said: str, text: str) -> None:
    assert typed_text(said) == text


def test_of_many_choices_none_is_named_unless_it_is_near() -> None:
    many = ", ".join(f"'{letter}{letter}'" for letter in "abcdefghijklmnopqrstuvwxyz")
    assert typed_text(f"argument VERB: invalid choice: 'zq' (choose from {many})") == "there is no VERB 'zq'"


@pytest.mark.parametrize(
    ("status", "pointer", "text", "said"),
    [
        (422, "/queue", "must be short", "--queue: must be short"),
        (422, "/events", "there is no event x", "--on: there is no event x"),
        (422, "/name", "a host name is short", "a host name is short"),
        (422, "/name", "must be short", "--name: must be short"),
        (422, "/query", "Parser Error", "Parser Error"),
        (404, "/name", "no host is named x", "no host is named x"),
    ],
)
def test_an_error_of_the_gateway_names_what_was_typed_and_no_option_that_there_is_not(status: int, pointer: str, text: str, said: str) -> None:
    body = msgspec.json.encode({"detail": text, "errors": [{"pointer": pointer, "message": text}]})
    assert str(_problem(status, body, "http://gateway")) == said
