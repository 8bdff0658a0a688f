"""Segments of the archive: a part of the log as bytes, and back. The format is described in `docs/archive.md`.

The content is text that a person can read: for each message one line of JSON that says what the bus knew of it, then
its stored bytes. It depends on the log alone, so every keeper makes the same content, and its SHA-256 stands in the
log. The file is that content, compressed, behind a head that describes it and makes it readable without the log.
Decoding believes nothing: bytes that are not exactly what the head and the log say are `Damaged`.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import zlib
from collections.abc import Iterable

import msgspec

from fleetlog_runtime.pure.bus import Stored
from fleetlog_schemas import chain
from fleetlog_schemas.archive_events import SegmentSealed

MAGIC = b"fleetlog-segment 1\n"
"""The first line of every file. Another form gets another number, and readers keep reading this one."""
BYTES_MAX = 1024**3
"""Of one segment's content: far more than any keeper puts into one; what claims more is not unpacked."""
LEVEL = 6
_HEAD_BYTES_MAX = 4_096
_NAME = re.compile(r"(\d{16})\.segment")


class Damaged(ValueError):
    """Bytes that are not the segment they should be; the message says what is wrong."""


class Head(msgspec.Struct, frozen=True):
    """The second line of a file."""

    sealed: SegmentSealed
    chain_before: str
    """The head of the hash chain before its first message."""
    packed_sha256: str
    """Of what follows this line."""


class Segment(msgspec.Struct, frozen=True):
    """One part of the log, as it was read or is to be written."""

    head: Head
    messages: list[Stored]


class _Line(msgspec.Struct, frozen=True):
    seq: int
    subject: str
    time_ms: int
    batch_end: bool
    bytes: int


_encode = msgspec.json.Encoder().encode
_decode_line = msgspec.json.Decoder(_Line).decode
_decode_head = msgspec.json.Decoder(Head).decode


def name(first_seq: int) -> str:
    """Return the file name of the segment that begins at a sequence."""
    return f"{first_seq:016d}.segment"


def first_seq_of(file_name: str) -> int | None:
    """Return the sequence that a file name stands for, None when it is not a segment's."""
    match = _NAME.fullmatch(file_name)
    return int(match.group(1)) if match else None


def full_at(messages: Iterable[Stored], events_max: int, bytes_max: int) -> int | None:
    """Return how many *messages* make a full segment: through the first batch end with so many, or of so many bytes."""
    size = 0
    for count, stored in enumerate(messages, 1):
        size += len(stored.body)
        if stored.batch_end and (count >= events_max or size >= bytes_max):
            return count
    return None


def describe(messages: list[Stored], chain_before: str) -> tuple[SegmentSealed, bytes]:
    """Return what the log says of a segment of these messages, and its content.

    Raises:
        Damaged: a sequence is missing, or the last message does not end its batch.
    """
    check_whole(messages)
    pieces = []
    head = chain_before
    for stored in messages:
        pieces += [_encode(_line(stored)), b"\n", stored.body, b"\n"]
        head = chain.link(head, stored.seq, stored.subject, stored.body)
    content = b"".join(pieces)
    first, last = messages[0], messages[-1]
    sealed = SegmentSealed(
        first_seq=first.seq, last_seq=last.seq, first_ms=first.time_ms, last_ms=last.time_ms, bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(), chain_head=head,
    )
    return sealed, content


def check_whole(messages: list[Stored]) -> None:
    """See that messages follow on one another and end with a batch. Raises Damaged."""
    if not messages or not messages[-1].batch_end:
        raise Damaged("a segment must end where an atomic batch ends")
    for stored in messages:
        if not stored.subject:
            raise Damaged(f"the bus cannot read sequence {stored.seq} any more: restore its copy (docs/cluster.md) or the backup")
    for before, stored in itertools.pairwise(messages):
        if stored.seq != before.seq + 1:
            raise Damaged(f"after sequence {before.seq} comes {stored.seq}: what lies between is missing")


def _line(stored: Stored) -> _Line:
    return _Line(stored.seq, stored.subject, stored.time_ms, stored.batch_end, len(stored.body))


def pack(messages: list[Stored], chain_before: str) -> tuple[SegmentSealed, bytes]:
    """Return what the log says of a segment, and its file. Raises Damaged."""
    sealed, content = describe(messages, chain_before)
    packed = zlib.compress(content, LEVEL)
    head = Head(sealed=sealed, chain_before=chain_before, packed_sha256=hashlib.sha256(packed).hexdigest())
    return sealed, MAGIC + _encode(head) + b"\n" + packed


def read_head(file: bytes) -> tuple[Head, int]:
    """Return the head of a file, of which the beginning is enough, and where the packed content begins. Raises Damaged."""
    if not file.startswith(MAGIC):
        raise Damaged("it does not begin like a segment that this version can read")
    end = file.find(b"\n", len(MAGIC), _HEAD_BYTES_MAX)
    line = file[len(MAGIC) : end]
    try:
        head = _decode_head(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Damaged(f"its head cannot be read: {error}") from None
    if end < 0 or _encode(head) != line:
        raise Damaged("its head is not written as a segment's is")
    return head, end + 1


def unpack(file: bytes, sealed: SegmentSealed | None = None) -> Segment:
    """Return the segment of a file, checked against itself and, when it is given, against what the log says of it.

    Raises:
        Damaged: something differs.
    """
    head, start = read_head(file)
    if sealed is not None and head.sealed != sealed:
        raise Damaged("it is not the segment that the log says was sealed here")
    packed = file[start:]
    if hashlib.sha256(packed).hexdigest() != head.packed_sha256:
        raise Damaged("its bytes are not those that were written")
    if not 0 < head.sealed.bytes <= BYTES_MAX:
        raise Damaged(f"a content of {head.sealed.bytes} bytes cannot be")
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(packed, head.sealed.bytes + 1)
    except zlib.error as error:
        raise Damaged(f"it cannot be unpacked: {error}") from None
    if not unpacker.eof or unpacker.unused_data:
        raise Damaged("it unpacks to another size than its head says")
    try:
        messages = _messages(content)
        again, _ = describe(messages, head.chain_before)
    except (msgspec.MsgspecError, ValueError) as error:
        raise Damaged(f"its content cannot be read: {error}") from None
    if again != head.sealed:
        raise Damaged("its content is not what its head says")
    return Segment(head=head, messages=messages)


def _messages(content: bytes) -> list[Stored]:
    found = []
    position = 0
    while position < len(content):
        end = content.index(b"\n", position)
        line = _decode_line(content[position:end])
        body = content[end + 1 : end + 1 + line.bytes]
        position = end + 2 + line.bytes
        found.append(Stored(line.seq, line.subject, line.time_ms, body, line.batch_end))
    return found


def joined(heads: list[Head]) -> str:
    """Say what is wrong with the order of *heads*: nothing when each begins where the one before it ended."""
    next_seq, before = 1, chain.START
    for head in heads:
        if head.sealed.first_seq != next_seq:
            return f"sequences {next_seq} to {head.sealed.first_seq - 1} are in no segment"
        if head.chain_before != before:
            return f"the segment from {head.sealed.first_seq} on is not chained to the one before it"
        next_seq, before = head.sealed.last_seq + 1, head.sealed.chain_head
    return ""
