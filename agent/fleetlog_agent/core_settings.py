"""The core's own limits and times, each with its reason. What an administrator may change is `AgentSettings`. Pure."""

from __future__ import annotations

HEARTBEAT_JITTER = 0.1
"""Part of the heartbeat time that is random, so that a fleet started together does not beat together."""
HEARTBEAT_CHANGE_MS = 1_000
"""A change of the held set that no report has told by then is told by a heartbeat."""
REPORTS_IN_FLIGHT_MAX = 1
"""Reports sent and not yet stored; while as many are under way, items gather and share the next one. What a report
costs behind the bus, in the log and in every reader hardly depends on what is in it; to be stored takes it about a
millisecond."""
REPORT_RETRY_MS, REPORT_RETRY_MS_MAX = 2_000, 30_000
"""A report that the bus did not confirm is sent again, byte for byte, after this time, doubling to the second."""
REPORT_OVERHEAD_BYTES = 1_024
"""Of REPORT_BYTES_MAX: room for everything around the items."""
FACTS_MS_MIN = 3_600_000
"""Facts are reported at most hourly: each report of them is an event for ever."""
FORGET_MS = 200
"""What may be forgotten is written with the next thing that must be, or after this time: a disk sync for it alone
costs as much as one for a start, and nothing waits for it."""
SESSION_RETRY_MS_MIN, SESSION_RETRY_MS_MAX = 500, 30_000
"""Full jitter between these when nobody answers: a fleet must not hammer a dispatcher that comes back."""
SESSION_DENIED_MS = 60_000
"""After a refusal that asking again cannot help: a person may accept the host meanwhile."""
SENDING_GRACE_MS = 20_000
"""Artifacts are sent for so long after the time limit and the grace to end: less than a dispatcher waits for the end."""
KILL_REPEAT_MS = 2_000
"""A kill is repeated after this time while the process is still there (it may be in the kernel)."""
INBOX_PUSHES_MAX = 64
"""Pushes received and not yet obeyed (32 MiB at worst); what does not fit is pushed again by reconciliation."""
REFUSALS_HELD_MAX = 1_000
"""Refused attempts kept beyond `held_max`, so that a copy of a refused start never runs later."""
GAP_DEAF_MS = 1_000
"""After a gap, pushes are dropped for so long: those that were buffered meanwhile come first."""
STOP_MS_MAX = 5_000
"""Longest wait, when stopping, for the journal and for reports to be stored."""
TICK_MS_MAX = 5_000
"""Longest time between steps: well below `gap_ms`, so that a gap means that we did not run."""
ALARM_REPEAT_MS = 60_000
"""The same alarm is raised at most once in this time."""
ALARMS_MAX = 100
"""Different alarms remembered for that."""
