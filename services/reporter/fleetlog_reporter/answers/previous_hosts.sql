-- The names of the hosts of one ended task.
SELECT host FROM ended_attempts WHERE task_id = $1 AND command_state IS NOT NULL ORDER BY host, host_id
