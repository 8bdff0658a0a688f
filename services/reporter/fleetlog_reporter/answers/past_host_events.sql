-- The events up to a sequence that say what a host is and whether it is there.
SELECT seq, subject, time_ms, body FROM raw_events WHERE seq <= $1 AND (
    starts_with(type, 'fleetlog.host.') OR starts_with(type, 'fleetlog.access.host-')
    OR starts_with(type, 'fleetlog.report.')) ORDER BY seq
