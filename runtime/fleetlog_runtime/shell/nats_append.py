"""Append to streams: one request for a message alone, an atomic batch (NATS ADR-50) for several.

A batch is sent without waiting for the server to accept its first message: the server handles one connection in
order, ignores members of a batch it did not accept, and then refuses the last one, so nothing can be stored in part.
Both answers are awaited; the first one's refusal, if any, says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from fleetlog_runtime.pure.bus import AppendRefused, AppendUnsettled, Batch, BusFull, NotSent
from fleetlog_runtime.shell.nats_replies import Replies
from fleetlog_schemas.codec import CONTENT_TYPE

WRONG_LAST_SEQUENCE = 10071
_REFUSED = {WRONG_LAST_SEQUENCE, 10164, 10070, 10201, 10199}
"""Expected sequence (first three), duplicate in a batch, batch too large."""
_FULL = {10077, 10047, 10023, 10054, 10002}
"""Stream full, storage or memory exhausted, message too large, account's limit."""
_NO_LISTENER = "503"


def headers_of(batch: Batch, index: int) -> dict[str, str]:
    """Return what one message of a batch carries beside its body, batch membership apart."""
    draft = batch.drafts[index]
    headers = dict(draft.headers)
    if draft.subject.startswith("evt."):
        headers["Content-Type"] = CONTENT_TYPE
    if index == 0:
        if batch.message_id:
            headers["Nats-Msg-Id"] = batch.message_id
        if batch.expected_seq is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(batch.expected_seq)
            if batch.expected_subject != draft.subject:
                headers["Nats-Expected-Last-Subject-Sequence-Subject"] = batch.expected_subject
    elif index <= len(batch.also_expected):
        subject, seq = batch.also_expected[index - 1]
        headers["Nats-Expected-Last-Subject-Sequence"] = str(seq)
        headers["Nats-Expected-Last-Subject-Sequence-Subject"] = subject
    return headers


async def send_one(client: Client, replies: Replies, batch: Batch, timeout_seconds: float) -> dict[str, Any]:
    """Send a batch of one and return the server's answer."""
    draft = batch.drafts[0]
    reply, answer = replies.expect()
    try:
        await client.publish(draft.subject, draft.body, reply=reply, headers=headers_of(batch, 0) or None)
        async with asyncio.timeout(timeout_seconds):
            return parse_answer(await answer)
    except (TimeoutError, NatsError, OSError) as error:
        raise AppendUnsettled(f"no answer to an append: {str(error) or 'timeout'}") from error
    finally:
        answer.cancel()


async def send_atomic(client: Client, replies: Replies, batch: Batch, timeout_seconds: float) -> dict[str, Any]:
    """Send a batch of several and return the server's answer."""
    # A new name for every try: the server may still hold the members of an earlier one.
    name = uuid.uuid4().hex
    last = len(batch.drafts) - 1
    first_reply, first_answer = replies.expect()
    last_reply, last_answer = replies.expect()
    try:
        async with asyncio.timeout(timeout_seconds):
            for index, draft in enumerate(batch.drafts):
                headers = headers_of(batch, index)
                headers["Nats-Batch-Id"] = name
                headers["Nats-Batch-Sequence"] = str(index + 1)
                if index == last:
                    headers["Nats-Batch-Commit"] = "1"
                reply = first_reply if index == 0 else last_reply if index == last else ""
                await client.publish(draft.subject, draft.body, reply=reply, headers=headers)
            answer = parse_answer(await last_answer)
        if "error" in answer and first_answer.done() and first_answer.result().data:
            return parse_answer(first_answer.result())
        return answer
    except (TimeoutError, NatsError, OSError) as error:
        raise AppendUnsettled(f"no answer to a batch: {str(error) or 'timeout'}") from error
    finally:
        first_answer.cancel()
        last_answer.cancel()


def parse_answer(message: Msg) -> dict[str, Any]:
    """Return the JSON of an answer of the server. Raises NotSent when nobody listened."""
    headers: Mapping[str, str] = message.headers or {}
    if not message.data and headers.get("Status") == _NO_LISTENER:
        raise NotSent("no stream takes this subject now")
    with contextlib.suppress(ValueError):
        answer = json.loads(message.data)
        if isinstance(answer, dict):
            return answer
    raise AppendUnsettled(f"the bus answered something else: {message.data[:100]!r}")


def sequence_of(answer: dict[str, Any]) -> int:
    """Return the sequence that an answer acknowledges.

    Raises:
        AppendRefused: the expected sequence did not match, or the batch was there already.
        BusFull: no room, or too large.
        AppendUnsettled: the server could not say.
    """
    error = answer.get("error")
    if error is None:
        return int(answer["seq"])
    code, description = int(error.get("err_code", 0)), str(error.get("description", ""))
    if code in _REFUSED:
        actual = re.search(r"wrong last sequence: (\d+)", description)
        raise AppendRefused(description, int(actual.group(1)) if actual else None)
    if code in _FULL:
        raise BusFull(description)
    raise AppendUnsettled(f"the bus could not store it: {description} ({code})")
