-- The events between two sequences, in the order of the log.
SELECT seq, subject, time_ms, body FROM raw_events WHERE seq BETWEEN $1 AND $2 ORDER BY seq
