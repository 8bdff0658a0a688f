-- Which ended task was submitted last, up to a sequence.
SELECT submitted_seq, task_id FROM ended_tasks WHERE submitted_seq <= $1 ORDER BY submitted_seq DESC, task_id DESC LIMIT 1
