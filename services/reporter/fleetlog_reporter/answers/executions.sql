-- Records of ended tasks, the newest end first, after a cursor.
WITH page AS (
    SELECT task_id, kind, name, definition_id, definition_version, outcome, submitted_by, submitted_ms, ended_ms, ended_seq,
        hosts, counts, refusal, spec -> '$.definition.parameters' AS parameters
    FROM all_tasks
    WHERE state IN ('ended', 'refused')
      AND ($task_id = '' OR task_id = $task_id)
      AND ($kind = '' OR kind = $kind)
      AND ($definition = '' OR definition_name = $definition OR definition_id = $definition)
      AND ($outcome = '' OR outcome = $outcome)
      AND ended_ms >= $since_ms AND ($until_ms = 0 OR ended_ms < $until_ms)
      AND ($before_seq = 0 OR ended_seq < $before_seq OR (ended_seq = $before_seq AND task_id < $before_id))
    ORDER BY ended_seq DESC, task_id DESC
    LIMIT $limit
)
SELECT page.*, definitions.name AS definition, ran.started_ms, CASE WHEN hosts = 1 THEN first.return_value END,
    coalesce(refusal, worst.error), worst.traceback
FROM page
LEFT JOIN (FROM ran WHERE task_id IN (SELECT task_id FROM page)) AS ran USING (task_id)
LEFT JOIN definitions USING (definition_id)
ORDER BY ended_seq DESC, task_id DESC
