-- On which hosts an ended task has commands, by host name, after a cursor.
SELECT host_id FROM ended_attempts
WHERE task_id = $task_id AND command_state IS NOT NULL
  AND ($state = '' OR command_state = $state)
  AND ($outcome = '' OR (command_state = 'ended' AND outcome = $outcome))
  AND ($host = '' OR host_id = $host OR host = $host)
  AND (host > $after_host OR (host = $after_host AND host_id > $after_host_id))
ORDER BY host, host_id
LIMIT $limit
