-- The attempts of one ended task on some hosts.
FROM ended_attempts WHERE task_id = $1 AND host_id IN (SELECT unnest($2))
