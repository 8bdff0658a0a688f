-- The events between two sequences, in the order of the log; and of those before them the ones that say what narrows
-- admission: policies stand until they are changed, and a dispatch that was decided before one is void.
SELECT seq, subject, time_ms, body FROM raw_events WHERE seq BETWEEN $1 AND $2
UNION ALL
SELECT seq, subject, time_ms, body FROM raw_events WHERE seq < $1 AND seq <= $2 AND type IN (
    'fleetlog.fleet.frozen.v1', 'fleetlog.fleet.thawed.v1', 'fleetlog.window.set.v1', 'fleetlog.window.removed.v1',
    'fleetlog.queue.limited.v1', 'fleetlog.host.maintenance-set.v1')
ORDER BY seq
