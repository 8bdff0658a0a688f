-- Which event stands at a sequence, or before it when none is there; and when it was stored.
SELECT $1::BIGINT, coalesce(max(time_ms), 0) FROM raw_events WHERE seq <= $1
