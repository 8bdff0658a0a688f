-- The late results of one task up to a sequence, in the order of the log.
SELECT seq, body FROM late_results WHERE task_id = $1 AND seq <= $2 ORDER BY seq
