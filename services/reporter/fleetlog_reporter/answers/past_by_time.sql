-- Which event was the last one stored up to a time; and when.
SELECT coalesce(max(seq), 0), coalesce(max(time_ms), 0) FROM raw_events WHERE time_ms <= $1
