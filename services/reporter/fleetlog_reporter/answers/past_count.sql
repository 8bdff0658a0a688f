-- How many events stand between two sequences.
SELECT count(*) FROM raw_events WHERE seq BETWEEN $1 AND $2
