-- Which tasks are over, the newest end first, after a cursor; with the name of the definition, if that is still there.
SELECT task_id, all_tasks.kind, all_tasks.name, definition_id, definition_version, outcome, submitted_by, submitted_ms, ended_ms,
    ended_seq, hosts, counts, refusal, all_tasks.spec -> '$.definition.parameters', definitions.name
FROM all_tasks LEFT JOIN definitions USING (definition_id)
WHERE state IN ('ended', 'refused')
  AND ($task_id = '' OR task_id = $task_id)
  AND ($kind = '' OR all_tasks.kind = $kind)
  AND ($definition = '' OR definition_name = $definition OR definition_id = $definition)
  AND ($outcome = '' OR outcome = $outcome)
  AND ended_ms >= $since_ms AND ($until_ms = 0 OR ended_ms < $until_ms)
  AND ($before_seq = 0 OR ended_seq < $before_seq OR (ended_seq = $before_seq AND task_id < $before_id))
ORDER BY ended_seq DESC, task_id DESC
LIMIT $limit
