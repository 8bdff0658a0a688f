-- Which task was submitted last of those that ran a payload, or were of a definition.
SELECT task_id, submitted_ms, outcome, spec FROM all_tasks
WHERE state IN ('planned', 'ended')
  AND ($payload_key = '' OR payload_key = $payload_key)
  AND ($definition_id = '' OR definition_id = $definition_id)
  AND ($outcome = '' OR outcome = $outcome)
  AND ($before_id = '' OR task_id < $before_id)
ORDER BY submitted_seq DESC, task_id DESC
LIMIT 1
