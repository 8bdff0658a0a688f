-- One task that ended up to a sequence.
FROM ended_tasks WHERE task_id = $1 AND ended_seq <= $2
