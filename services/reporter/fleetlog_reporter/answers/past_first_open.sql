-- The submission of the oldest task that was open at a position and has ended since.
SELECT min(submitted_seq) FROM ended_tasks WHERE submitted_seq <= $1 AND ended_seq > $1
