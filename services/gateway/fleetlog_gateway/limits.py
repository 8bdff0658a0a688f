"""The gateway's own limits, each with its reason. What may be written to the log is limited in the schemas."""

from __future__ import annotations

JSON_BODY_BYTES_MAX = 1024 * 1024
"""One JSON body: four times the largest event, so that whitespace and escapes are not what refuses a task."""
BATCH_BODY_BYTES_MAX = 8 * 1024 * 1024
"""A body of ten thousand small tasks (800 bytes each), or of fewer large ones; what is stored of it fits one batch."""
BATCH_CHECKED_AT_ONCE = 500
"""Tasks of a batch that are checked before other requests get their turn: some ten milliseconds."""
BODY_READ_SECONDS_MAX = 30.0
"""A client that sends slower than this holds a connection for nothing (slow-loris)."""
SQL_TEXT_MAX = 100_000
"""Characters of one SQL statement."""
HEADER_LINE_BYTES_MAX = 8 * 1024
HEADERS_MAX = 100
KEEPALIVE_SECONDS = 75.0
"""Idle connections are closed after this; longer than the pause between two commands of a person."""
LINGER_SECONDS = 1.0
"""How long the rest of a refused body is read and dropped, so that its sender sees why."""
SHUTDOWN_SECONDS = 5.0
"""How long requests that are being answered may go on after a stop."""

ASK_MS_MAX = 10_000
"""How long another service may take to answer; it waits itself at most a few seconds for a log sequence."""
ASK_EACH_MS = 2_000
"""Silence of one reporter after which all of them are asked: it may have been stopped, or cut off, with the question."""
ASK_EXTRA_MS_MAX = 2_000
"""How long is waited for what only completes an answer that stands without it."""
ASK_OFFERS_SECONDS = 10.0
"""Between two tries to learn from a silent reporter what hosts offer: until then the dispatcher alone says what cannot run."""
ASK_CHECK_MS_MAX = 1_000
"""Longest wait for the reporter's word on a task that is named by its full id and is to be stopped, held or let go on:
in an incident the request counts, and the word is a courtesy."""
ASK_READY_MS_MAX = 1_000
"""A readiness probe must not hang longer than probes usually wait."""
SQL_MS_MAX = 60_000
"""Statements and rebuilds run longer than questions."""
EXPORT_SECONDS_MAX = 15.0
"""How long a request waits for an export that is being made, before it says so: whoever asks again waits for the same one."""
EXPORT_AGAIN_SECONDS_MAX = 120.0
"""How long a download that has begun waits for its next piece: another reporter may have to make the export first."""
EXPORT_PAUSE_SECONDS = 0.1
"""Between two questions for a piece."""
ASKED_ONCE = ("sql", "verify", "what-if", "export")
"""Questions that may well take longer than ASK_EACH_MS, and cost as much each time."""
VERIFY_MS_MAX = 600_000
APPEND_SECONDS_MAX = 10.0
"""How long a request waits for its append before it says that it does not know."""

APPEND_PAUSE_SECONDS = 0.1
"""Between two tries of the same bytes."""

RECENT_KEYS_MAX = 10_000
"""Idempotency keys remembered with what they answered; beyond it the first submission of an id stands in the log."""

TAIL_EVENTS_MAX = 8_192
TAIL_BYTES_MAX = 32 * 1024 * 1024
"""The newest events kept in memory for live streams; older ones are read from the log."""
STREAMS_MAX = 1_000
"""Live streams at once: each is an open connection and a task of the loop."""
STREAM_AHEAD_SECONDS_MAX = 10.0
"""How long a stream that resumes behind the end of this gateway's log waits for it: nodes that were apart agree within this."""
STREAM_WRITE_SECONDS_MAX = 10.0
"""A client that takes nothing for this long is dropped; it resumes where it was."""
STREAM_WRITE_BUFFER_BYTES = 64 * 1024
"""What may wait in the process for one client; beyond it, writing waits for the client."""
HEARTBEAT_SECONDS = 15.0
"""Shorter than the usual minute after which proxies cut silent connections."""
RETRY_MS = 2_000
"""How soon a browser reconnects a stream."""
LOG_PAGE_MAX = 128
"""Events read from the log at once: at most 32 MiB when every one is of the largest size."""
LOG_READERS_MAX = 8
"""Streams that read old events at the same time; the others wait their turn."""
LOG_ANSWER_BYTES_MAX = 4 * 1024 * 1024
"""One page of the raw log, unless a single event is larger."""
LOG_SCAN_MAX = 5_000
"""Events looked at for one page of a task's raw log; the page then says where to go on."""

AUTH_FAILURES_MAX = 20
AUTH_WINDOW_SECONDS = 60
"""Failed authentications of one remote address in one window; a mistyped script is not locked out for long."""
REMOTES_MAX = 10_000
"""Remote addresses whose failures are counted; the one that failed longest ago goes first."""

INVITATION_MS = 15 * 60_000
"""How long a join token works: time to paste a line, not to lose it."""
INVITATIONS_OPEN_MAX = 1_000
"""Open invitations at once."""
CONFLICTS_MAX = 8
"""How often a fenced append is decided anew before giving up: each conflict means that somebody else got through."""
ACCESS_PAGE = 1_000
"""Events read at once when the hosts are folded at start."""

RULE_TARGET_CHARS_MAX = 4_096
"""Characters of the target of a freeze or a window: it is resolved again and again, and shown in lists."""
QUEUE_IN_FLIGHT_MAX = 1_000_000
"""Largest limit of a queue; above it, no limit says the same."""
FROZEN_TEXT_CHARS_MAX = 200
"""Characters of a freeze's target, and of its reason, in the header of every answer; `GET /freezes` has all of them."""

EVENTS_FULL_RATIO = 0.85
"""New tasks are refused above this share of the log's reserved bytes, so that results keep their room."""
FULL_CHECK_SECONDS = 5.0
"""How old the measured size of the log may be when a task is taken."""

REVOKED_AHEAD_SECONDS = 300
"""Credentials made up to this long after a revocation are refused too: the clocks of two machines differ."""
REVOKE_MS_MAX = 2_000
"""How long the bus may take to confirm one push of revocations."""
REVOKE_SECONDS_MAX = 5.0
"""How long the request that revokes waits for the bus; the push goes on after it."""
REVOKE_PAUSE_SECONDS_MIN = 0.2
REVOKE_PAUSE_SECONDS_MAX = 5.0
"""Between pushes that the bus did not confirm."""
REVOKER_STOP_SECONDS = 1.0
"""How long a stop waits for a push in hand."""
READY_SECONDS = 1.0
"""How long the answer to a readiness probe is reused: probes need no token, and must not be a way to load services."""
