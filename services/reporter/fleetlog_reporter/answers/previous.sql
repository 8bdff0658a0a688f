-- Which task was submitted last of those that ran a payload.
SELECT task_id, submitted_ms, outcome, spec FROM all_tasks
WHERE payload_key = $1 AND state IN ('planned', 'ended')
ORDER BY submitted_seq DESC, task_id DESC
LIMIT 1
