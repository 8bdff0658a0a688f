"""Segments: the same log gives the same bytes, what was written is read back, and nothing else is believed."""

from __future__ import annotations

import hashlib
import zlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetlog_runtime.pure import segments
from fleetlog_runtime.pure.bus import Stored
from fleetlog_schemas import chain


def log(*bodies: bytes, first: int = 1, subject: str = "evt.dispatch") -> list[Stored]:
    return [Stored(first + n, subject, 1_800_000_000_000 + n, body) for n, body in enumerate(bodies)]


BODIES = st.lists(st.binary(max_size=200), min_size=1, max_size=30)


@given(BODIES, st.integers(1, 10**9))
def test_what_is_packed_is_unpacked_again_byte_for_byte(bodies, first):
    messages = log(*bodies, first=first)
    sealed, file = segments.pack(messages, chain.START)
    assert segments.unpack(file, sealed).messages == messages
    assert segments.pack(messages, chain.START) == (sealed, file)


def test_the_head_of_the_chain_is_the_link_over_every_message():
    messages = log(b"a", b"", b"a\nb")
    head = chain.START
    for stored in messages:
        head = chain.link(head, stored.seq, stored.subject, stored.body)
    sealed, _ = segments.pack(messages, chain.START)
    assert sealed.chain_head == head
    assert chain.link(chain.START, 1, "evt.dispatch", b"a") == hashlib.sha256(bytes(32) + b"1 evt.dispatch 1\na").hexdigest()


@settings(max_examples=400)
@given(st.data())
def test_no_flipped_bit_goes_unnoticed(data):
    sealed, file = segments.pack(log(b'{"a": 1}', b'{"b": 2}', b"c" * 300), chain.START)
    place = data.draw(st.integers(0, len(file) - 1))
    flipped = bytearray(file)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(segments.Damaged):
        segments.unpack(bytes(flipped), sealed)
    # The file alone is enough to find it: nothing but the head of the chain before it has to be believed.
    with pytest.raises(segments.Damaged):
        segments.unpack(bytes(flipped))


@given(st.integers(0, 10_000))
def test_a_file_that_was_cut_is_damaged(size):
    sealed, file = segments.pack(log(b"x" * 100, b"y"), chain.START)
    if size < len(file):
        with pytest.raises(segments.Damaged):
            segments.unpack(file[:size], sealed)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_segment_or_damaged(rest):
    for file in (rest, segments.MAGIC + rest):
        with pytest.raises(segments.Damaged):
            segments.unpack(file)


def test_a_whole_segment_in_the_place_of_another_is_damaged():
    sealed, _ = segments.pack(log(b"a", b"b"), chain.START)
    _, other = segments.pack(log(b"a", b"c"), chain.START)
    segments.unpack(other)
    with pytest.raises(segments.Damaged, match="not the segment that the log says"):
        segments.unpack(other, sealed)


def test_what_unpacks_to_more_than_it_says_is_not_unpacked():
    sealed, file = segments.pack(log(b"a"), chain.START)
    head, _ = segments.read_head(file)
    packed = zlib.compress(bytes(10**7))
    bomb = segments.Head(sealed=head.sealed, chain_before=head.chain_before, packed_sha256=hashlib.sha256(packed).hexdigest())
    with pytest.raises(segments.Damaged, match="another size"):
        segments.unpack(segments.MAGIC + msgspec.json.encode(bomb) + b"\n" + packed, sealed)


def test_a_hole_is_never_sealed():
    messages = log(b"a", b"b", b"c")
    with pytest.raises(segments.Damaged, match="after sequence 1 comes 3"):
        segments.pack([messages[0], messages[2]], chain.START)


def test_a_segment_ends_where_a_batch_ends():
    messages = log(b"a", b"b")
    with pytest.raises(segments.Damaged, match="atomic batch"):
        segments.pack([messages[0], msgspec.structs.replace(messages[1], batch_end=False)], chain.START)


def test_a_segment_is_full_at_the_first_batch_end_with_enough_events_or_bytes():
    messages = log(*[b"x" * 10] * 6)
    messages[2] = msgspec.structs.replace(messages[2], batch_end=False)
    assert segments.full_at(messages, 3, 10**9) == 4
    assert segments.full_at(messages, 100, 45) == 5
    assert segments.full_at(messages, 100, 25) == 4
    assert segments.full_at(messages, 7, 10**9) is None


def test_segments_join_when_each_begins_where_the_one_before_ended():
    first, file = segments.pack(log(b"a", b"b"), chain.START)
    _, next_file = segments.pack(log(b"c", first=3), first.chain_head)
    _, unchained = segments.pack(log(b"c", first=3), chain.START)
    heads = [segments.read_head(one)[0] for one in (file, next_file, unchained)]
    assert segments.joined(heads[:2]) == ""
    assert "3 on is not chained" in segments.joined([heads[0], heads[2]])
    assert segments.joined(heads[1:2]) == "sequences 1 to 2 are in no segment"
