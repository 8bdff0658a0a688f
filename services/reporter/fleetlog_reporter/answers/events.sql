-- Which events stand in the log after a sequence, in its order, by type, task and host.
SELECT seq, subject, time_ms, body FROM raw_events
WHERE seq > $after_seq AND seq <= $through AND time_ms >= $since_ms
  AND ($type = '' OR type = $type OR type = concat('fleetlog.', $type, '.v1'))
  AND ($task_id = '' OR (contains(touches, $task_key) AND contains(body, $task_id)))
  AND ($host_id = '' OR (contains(touches, $host_key) AND contains(body, $host_id)))
ORDER BY seq
LIMIT $limit
