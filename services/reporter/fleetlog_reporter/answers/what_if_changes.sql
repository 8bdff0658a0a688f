-- What people did to schedules, in the order of the log; no names: to all of them.
SELECT seq, subject, time_ms, body FROM raw_events
WHERE seq <= getvariable('seq') AND subject = 'evt.schedule' AND (len($names::VARCHAR[]) = 0 OR list_contains($names::VARCHAR[], body ->> '$.data.name'))
ORDER BY seq
