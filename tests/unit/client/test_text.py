"""What hosts wrote is washed; times, sizes and tables read well; values are read or refused with an example."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlog import values
from fleetlog.build_options import EXPORTS
from fleetlog.exits import Exit, of_counts
from fleetlog.render.text import RESET, Style, clean, clean_json, seconds, size, table, width
from fleetlog.sse import LINE_BYTES_MAX, Broken, parse
from fleetlog_schemas.exports import FORMATS

PLAIN = Style(colour=False, unicode=True)


@given(st.text(alphabet=st.sampled_from("\x1b[]()0123456789;?mJHABK\x07\\P^_X\x9b\x90 abc\n\t\r\x00\x7f\u202e"), max_size=60))
def test_no_control_character_survives(text):
    washed = clean(text, colour=False)
    assert not [character for character in washed if (ord(character) < 32 and character not in "\n\t") or
                127 <= ord(character) < 160 or character == "\u202e"]


@given(st.text(alphabet=st.sampled_from("\x1b[]0123;?mJHA\x07\x9b a\n"), max_size=60))
def test_with_colour_nothing_but_colours_survives(text):
    washed = clean(text, colour=True)
    rest = washed.replace("\x1b[", "", -1) if "\x1b" in washed else washed
    for piece in washed.split("\x1b")[1:]:
        head, mark, _ = piece.partition("m")
        assert head.startswith("[")
        assert mark
        assert not set(head[1:]) - set("0123456789;:")
    assert "\x9b" not in rest
    assert "\x07" not in rest


def test_colours_are_reset_at_the_end_of_each_line():
    assert clean("\x1b[31mred\nplain", colour=True) == f"\x1b[31mred{RESET}\nplain"


def test_text_without_tricks_is_left_alone():
    assert clean("schöne Grüße\t✓\nzweite", colour=False) == "schöne Grüße\t✓\nzweite"
    assert clean("10%\r20%\r\ndone", colour=False) == "10%\n20%\ndone"


def test_json_escapes_only_what_could_act():
    assert clean_json('{"a":"é\x9b"}') == '{"a":"é\\u009b"}'


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.4, "0.40s"), (9.94, "9.9s"), (59.4, "59s"), (200, "3m20s"), (7500, "2h05m"), (100_000, "1d03h")]
)
def test_durations_are_short(value, text):
    assert seconds(value) == text


def test_sizes_are_short():
    assert [size(number) for number in (0, 999, 1500, 2_000_000)] == ["0 B", "999 B", "1.5 kB", "2.0 MB"]


def test_a_table_is_as_wide_as_what_is_seen():
    style = Style(colour=True, unicode=True)
    lines = table(("A", "B"), [(style.paint("xx", "red"), "1"), ("yyyy", "2")], style).splitlines()
    assert [width(line) for line in lines] == [7, 7, 7]


@pytest.mark.parametrize(
    ("text", "ms"), [("500ms", 500), ("30", 30_000), ("1.5s", 1_500), ("1h30m", 5_400_000), ("7d", 604_800_000)]
)
def test_times_are_read(text, ms):
    assert values.duration_ms(text) == ms


@pytest.mark.parametrize("text", ["", "x", "5x", "1h30", "-5s", "1 h", "m"])
def test_other_times_are_refused(text):
    with pytest.raises(ArgumentTypeError, match="write 30s"):
        values.duration_ms(text)


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("512M", 512_000_000), ("10Mi", 10_485_760), ("2GiB", 2**31), ("3kB", 3000)])
def test_sizes_are_read(text, number):
    assert values.quantity(text) == number


def test_labels_and_environment_are_read_or_refused():
    assert values.label("a=b=c") == ("a", "b=c")
    assert values.label("a-") == ("a", None)
    assert values.env_value("A") == ("A", None)
    assert values.env_value("A=") == ("A", "")
    for wrong, read in (("=x", values.label), ("1A=2", values.env_value), ("-", values.secret_value), ("9", values.octal)):
        with pytest.raises(ArgumentTypeError):
            read(wrong)


def test_skipped_hosts_are_not_successes():
    assert of_counts({"success": 3, "skipped": 1}) is Exit.FAILED
    assert of_counts({"success": 3, "lost": 0}) is Exit.OK


class _Bytes:
    def __init__(self, body: bytes, step: int) -> None:
        self._body, self._step = body, step

    def read1(self, _n: int = -1, /) -> bytes:
        found, self._body = self._body[: self._step], self._body[self._step :]
        return found


@given(st.integers(1, 40))
def test_the_feed_is_read_whatever_the_pieces_it_comes_in(step):
    body = b": hb\n\nid: 7\r\nevent: a.b\r\ndata: {\"x\":\r\ndata: 1}\r\n\r\ndata:last\n\nid: 9\ndata: unfinished"
    items = list(parse(_Bytes(body, step)))
    assert [(item.id, item.event, item.data) for item in items] == [
        ("7", "a.b", b'{"x":\n1}'), ("7", "message", b"last"),
    ]


def test_a_feed_that_is_one_endless_line_is_given_up():
    with pytest.raises(Broken):
        list(parse(_Bytes(b"x" * (LINE_BYTES_MAX + 100_000), 65536)))


def test_the_command_line_starts_without_what_only_the_server_needs():
    script = (
        "import sys, fleetlog.main as m; m.main(['help', 'exit-codes']);"
        "print([name for name in ('nats', 'aiohttp', 'duckdb', 'rich', 'uvloop', 'structlog', 'msgspec', 'http.client')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_command_line_knows_everything_that_can_be_exported():
    assert tuple(what.value for what in FORMATS) == EXPORTS


def test_listing_tasks_loads_no_event_types(cli):
    script = "import sys, fleetlog.main as m; print(m.main(['ls']), [n for n in sys.modules if n.startswith('fleetlog_schemas')])"
    environment = dict(os.environ, FLEETLOG_URL=cli.url)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_the_reference_is_what_the_parser_says():
    from fleetlog.reference import reference

    root = Path(__file__).parents[3]
    assert (root / "docs" / "cli.md").read_text() == reference(), "write it anew: python -m fleetlog.reference > docs/cli.md"
