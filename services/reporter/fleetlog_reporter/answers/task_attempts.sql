-- The attempts of one ended task.
FROM ended_attempts WHERE task_id = $1
