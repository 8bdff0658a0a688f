-- Which ended tasks have an id that ends so, among those submitted up to a sequence.
SELECT task_id FROM ended_tasks WHERE task_id LIKE $1 AND submitted_seq <= $2 ORDER BY submitted_seq DESC LIMIT $3
