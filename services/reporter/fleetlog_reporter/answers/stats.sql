-- How commands ended and how long they took (milliseconds), by kind, host, day or definition.
WITH origins AS (
    SELECT task_id, definition_name, definition_id FROM all_tasks
    WHERE ($by = 'definition' OR $definition <> '') AND definition_name IS NOT NULL
      AND ($definition = '' OR definition_name = $definition OR definition_id = $definition)
)
SELECT CASE $by WHEN 'kind' THEN kind WHEN 'host' THEN host WHEN 'definition' THEN definition_name
        ELSE strftime(epoch_ms(end_ms), '%Y-%m-%d') END AS key,
    count(*), histogram(outcome), quantile_cont(duration_ms, [0.5, 0.95, 0.99])
FROM all_attempts LEFT JOIN origins USING (task_id)
WHERE command_state = 'ended'
  AND (($by <> 'definition' AND $definition = '') OR definition_name IS NOT NULL)
  AND end_ms >= $since_ms AND ($until_ms = 0 OR end_ms < $until_ms)
  AND ($kind = '' OR kind = $kind)
  AND ($host = '' OR host_id = $host OR host = $host)
GROUP BY key ORDER BY key
