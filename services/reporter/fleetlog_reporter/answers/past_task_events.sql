-- The events up to a sequence that name one task, or move it without naming it: what stops every task, and what narrows
-- admission and so makes dispatches void that were decided before it.
SELECT seq, subject, time_ms, body FROM raw_events
    WHERE seq <= $1 AND time_ms >= $2 AND contains(touches, $3) AND contains(body, $4)
UNION ALL
SELECT seq, subject, time_ms, body FROM raw_events WHERE seq <= $1 AND type IN (
    'fleetlog.task.all-cancel-requested.v1', 'fleetlog.fleet.frozen.v1', 'fleetlog.window.set.v1',
    'fleetlog.queue.limited.v1', 'fleetlog.host.maintenance-set.v1')
ORDER BY seq
