"""Limits of what may be written, each with its reason. A unit's own limits stand in its settings."""

from __future__ import annotations

EVENT_COMMANDS_MAX = 1_000
"""Entries in one plural event: a thousand commands fit well inside EVENT_BYTES_MAX."""
EVENT_BYTES_MAX = 256 * 1024
"""Bytes of one stored event; a quarter of the bus's own 1 MiB payload limit leaves room for headers."""
BATCH_MESSAGES_MAX = 1_000
"""Messages in one atomic batch: the server's limit (NATS ADR-50)."""
BUS_MESSAGE_BYTES_MAX = 1024 * 1024
"""Largest message the bus carries (`max_payload`)."""
PUSH_BYTES_MAX = 512 * 1024
"""Bytes of one signed push; more attempts than fit are several pushes."""
REPORT_BYTES_MAX = 256 * 1024
"""Bytes of one report: an agent splits what would be larger."""
HEARTBEAT_BYTES_MAX = 256 * 1024
"""Bytes of one heartbeat or session request: room for HELD_MAX entries."""
HELD_MAX = 1_000
"""Attempts an agent holds at once (accepted, running, or ended and not yet forgotten)."""
OUTPUT_FRAME_BYTES_MAX = 64 * 1024
"""Bytes of process output in one frame."""
OUTPUT_INDEX_ENTRIES_MAX = 256
"""Entries of the sparse index in an end report; the step doubles when it is full."""
OUTPUT_TAIL_BYTES_MAX = 2 * 1024
"""Bytes of masked output kept in the log with the end of an attempt."""
BLOB_BYTES_MAX = 16 * 1024 * 1024
"""Bytes of one blob (script, stdin, environment)."""
BLOB_CHUNK_BYTES = 256 * 1024
"""Bytes of one blob chunk as agents receive it."""
ARGV_BYTES_MAX = 64 * 1024
"""Bytes of one argv: it is kept in the log for ever, and repeated in each push."""
SPEC_BYTES_MAX = 192 * 1024
"""Bytes of one task's specification as JSON: one submission must fit into one event (EVENT_BYTES_MAX)."""
TASK_NAME_BYTES_MAX = 200
"""Bytes of a task's name: one line of a list."""
HASH_OR_ID_BYTES_MAX = 64
"""Bytes of a task id or a hash in a specification: 64 hexadecimal digits."""
PATH_BYTES_MAX = 4096
"""Bytes of a path: Linux's own PATH_MAX."""
ERROR_TEXT_BYTES_MAX = 2 * 1024
"""Bytes of an error text in an event."""
FACTS_BYTES_MAX = 16 * 1024
"""Bytes of a host's facts in one event."""
LABELS_PER_HOST_MAX = 64
"""Labels of one host: they are folded by every reader and shown in one line."""
LABEL_BYTES_MAX = 256
"""Bytes of one label's key, and of its value."""
HOST_NAME_BYTES_MAX = 253
"""A DNS name's limit (RFC 1035)."""
HOSTS_PER_TASK_MAX = 100_000
"""Hosts of one task: a hundred parts of a plan in one batch."""
TASKS_PER_SUBMIT_MAX = 10_000
"""Tasks in one submitted batch: ten events of a thousand small ones, stored together or not at all."""
WAVES_MAX = 1_000
"""Waves of one task: a wave for each host of a thousand; more hosts take larger waves."""
WAITS_PER_COMMAND_MAX = 20
"""Reasons for which a command waited that are kept with it; of more, the newest. All of them are in the log."""
FREEZES_MAX = 100
"""Freezes in force at once: each is looked at for every host."""
WINDOWS_MAX = 200
"""Windows in force at once: each is looked at for every host."""
QUEUES_MAX = 1_000
"""Queues that have a limit."""
SCHEDULES_MAX = 100_000
"""Schedules at once: each gateway and scheduler keeps all of them in memory."""
SCHEDULE_WINDOWS_MAX = 20
"""Windows of one schedule: each tick is looked up in all of them."""
MISFIRE_WINDOW_MS_MAX = 366 * 86_400_000
"""How late a tick may be and still be fired, at most: beyond a year nobody means it any more."""
MISFIRE_RUNS_MAX = 100
"""Missed ticks that are caught up at once."""
JITTER_MS_MAX = 86_400_000
"""A day: more is another time."""
BACKFILL_TICKS_MAX = 1_000
"""Ticks of one backfill: they stand in one event."""
BACKFILL_WAITING_MAX = 10_000
"""Ticks of backfills that wait on one schedule, all together: each scheduler keeps them in memory, and in its snapshots."""
WHAT_IF_TICKS_MAX = 20_000
"""Ticks of one replay of the past: two weeks of minutes, and a few seconds of work."""
WHAT_IF_SCHEDULES_MAX = 1_000
"""Schedules of one replay: each is told one by one."""
ALERT_SUBJECTS_MAX = 20
"""What an alert names one by one; of more it says how many."""
ALERTS_APART_MAX = 5
"""Alerts of one kind that are raised at once; more causes than this are one alert with their count."""
ALERTS_RESOLVED_MAX = 200
"""Resolved alerts that are listed, the newest; all of them are in the log."""
WEBHOOKS_MAX = 50
"""Webhooks at once: what happens is compared with each, and each may have a request in flight."""
WEBHOOK_URL_BYTES_MAX = 2_000
"""Bytes of a webhook's address: what servers commonly take."""
WEBHOOK_FILTERS_MAX = 100
"""Definitions, and tags, that one webhook asks for."""
WEBHOOK_BODY_BYTES_MAX = 20_000
"""Bytes of one webhook message: it says what happened, and where to ask for more."""
WEBHOOK_WAITING_MAX = 1_000
"""Messages that wait for one endpoint; one that takes so little is disabled, with an alert."""
WEBHOOK_DONE_MAX = 20
"""Deliveries of one webhook that are listed once they are over; all of them are in the log."""
DEFINITIONS_MAX = 5_000
"""Definitions at once: each gateway keeps all of them in memory."""
DEFINITION_NAMES_MAX = 100_000
"""Names that definitions ever had: their last version is remembered, so that a version of a name never comes twice."""
DEFINITION_BYTES_MAX = 64 * 1024
"""Bytes of one definition as JSON: with its parameters' values it still makes a task (SPEC_BYTES_MAX). Texts are blobs."""
DEFINITIONS_BYTES_MAX = 64 * 1024 * 1024
"""Bytes of all definitions as JSON: each gateway keeps them in memory."""
DEFINITION_VERSIONS_MAX = 1_000
"""Versions of one definition that are listed; older ones are still in the log."""
DESCRIPTION_BYTES_MAX = 4_000
"""Bytes of a definition's description: a page of text."""
FILES_MAX = 5_000
"""Task files at once: each gateway keeps their versions in memory."""
FILE_NAMES_MAX = 20_000
"""Paths that task files ever had: their versions are remembered, so that each can be restored."""
FILE_VERSIONS_MAX = 100
"""Versions of one task file that are listed and can be restored; older ones are still in the log."""
FILE_VERSIONS_HELD_MAX = 100_000
"""Versions of all task files that are listed: half a kilobyte each in every gateway. Beyond, the longest histories are shortened."""
FILE_BYTES_MAX = 1024 * 1024
"""Bytes of one task file: a script that people edit."""
FILE_PATH_CHARACTERS_MAX = 200
"""Of a task file's path: one line."""
FILE_PATH_STEPS_MAX = 8
"""Folders in a task file's path, and its name."""
PARAMETERS_MAX = 50
"""Parameters of one definition: a form that people still fill in."""
PARAMETER_VALUES_MAX = 200
"""Values of an enumeration, and items of a list."""
PARAMETER_BYTES_MAX = 16 * 1024
"""Bytes of one parameter's value as text; Linux takes 128 KiB in one environment variable."""
PARAMETERS_BYTES_MAX = 64 * 1024
"""Bytes of all values of one task: they are kept in the log with it."""
WORKFLOW_PARTS_MAX = 100
"""Parts of one workflow: a picture that people still read."""
WORKFLOW_ITEMS_MAX = 1_000
"""Items for each of which one part is run: each is a task of its own, on any number of hosts."""
WORKFLOW_TASKS_MAX = 10_000
"""Tasks of one workflow, all parts and items together: every reader keeps their ends until the workflow has ended."""
WORKFLOW_VALUE_BYTES_MAX = 64 * 1024
"""Bytes of what one part returned, all items and hosts together, as JSON: it is kept with the workflow."""
FUNCTION_ARGUMENTS_BYTES_MAX = 64 * 1024
"""Bytes of a function's arguments as JSON: they are kept in the log, and repeated in each push."""
FUNCTION_ARGUMENTS_DEPTH_MAX = 64
"""Lists and objects in one another in a function's arguments: every reader of the log decodes them on its own stack."""
RETURN_VALUE_BYTES_MAX = 64 * 1024
"""Bytes of what a command returns, as JSON: it is kept in the log; four of them fit into one event."""
TRACEBACK_BYTES_MAX = 8 * 1024
"""Bytes of a traceback in the log: its end, where the error is."""
BUILD_STEPS_MAX = 100
"""Steps of one build: each has a heading in its output."""
BUILD_INPUTS_MAX = 100
"""Files that are put into a build's folder: each is fetched and kept by its digest."""
ARTIFACTS_PER_ATTEMPT_MAX = 100
"""Artifacts of one attempt: each is named in the log; of many files, keep their folder."""
ARTIFACT_BYTES_MAX = 1024**3
"""Bytes of one artifact: it is kept beside the output of commands, whose stream has 20 GiB."""
ARTIFACTS_BYTES_MAX = 2 * 1024**3
"""Bytes of all artifacts of one attempt."""
ARTIFACT_CHUNK_BYTES = 256 * 1024
"""Bytes of an artifact in one message: a quarter of what the bus carries."""
EXPORT_BYTES_MAX = ARTIFACT_BYTES_MAX
"""Bytes of one export: it lies in the reporter's folder until it is fetched, and is an artifact when a task made it."""
EXPORT_TASKS_MAX = 100
"""Tasks that one export names; of more, name a time."""
EXPORT_PIECE_BYTES = 512 * 1024
"""Bytes of an export in one answer: as base64 they fit into a message."""
EXPORT_TIME_MS_MAX = 253_402_300_799_000
"""The end of the year 9999: later times have no common text."""
PROGRESS_NOTE_BYTES_MAX = 200
"""Bytes of what a function says beside how far it is: one line."""
PROGRESS_MS_MIN = 1_000
"""Between two reports of how far one attempt is: each is an event."""
FUNCTIONS_PER_HOST_MAX = 500
"""Functions of one host: their names are among its facts (FACTS_BYTES_MAX)."""
REASON_BYTES_MAX = 1_000
"""Bytes of a reason that a person gives: it is kept in the log for ever."""
TIMEOUT_MS_MAX = 30 * 24 * 3_600_000
"""Thirty days: a longer-lived process is a service, not a command."""
ATTEMPTS_MAX = 100
"""Attempts of one command: at the longest backoff of a minute, more than an hour of trying."""
TASK_ID_AGE_MS_MAX = 24 * 3_600_000
"""Older task ids are refused, so that remembering the ids of one day is enough to make "first wins" hold for ever."""
TASK_ID_AHEAD_MS_MAX = 5 * 60_000
"""How far a client's clock may be ahead of the bus's."""

DISK_HEADROOM_BYTES = 128 * 1024**2
"""Free bytes of the bus's disk below which no new task is taken, so that results of what runs still fit: about a hundred
thousand ends, with output beside them."""
