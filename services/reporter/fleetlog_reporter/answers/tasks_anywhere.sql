-- Which tasks there are, newest first, after a cursor, of those submitted from a sequence on.
SELECT task_id, kind, name, summary, state, outcome, target, submitted_by, submitted_ms, ended_ms, hosts, counts, tags,
    hold, definition_name, definition_version, schedule, nominal_ms, workflow_id, part, submitted_seq
FROM all_tasks
WHERE ($kind = '' OR kind = $kind)
  AND ($state = '' OR state = $state OR ($state = 'open' AND state IN ('submitted', 'planned')))
  AND ($outcome = '' OR outcome = $outcome)
  AND ($submitted_by = '' OR submitted_by = $submitted_by)
  AND ($name = '' OR name = $name)
  AND ($tag = '' OR contains(tags, concat('"', $tag, '"')))
  AND ($definition = '' OR definition_name = $definition OR definition_id = $definition)
  AND ($schedule = '' OR schedule = $schedule)
  AND ($part_of = '' OR workflow_id = $part_of)
  AND ($parts = '' OR workflow_id IS NULL)
  AND submitted_ms >= $since_ms
  AND ($until_ms = 0 OR submitted_ms < $until_ms)
  AND ($before_seq = 0 OR submitted_seq < $before_seq OR (submitted_seq = $before_seq AND task_id < $before_id))
  AND submitted_seq >= $from_seq
ORDER BY submitted_seq DESC, task_id DESC
LIMIT $limit
