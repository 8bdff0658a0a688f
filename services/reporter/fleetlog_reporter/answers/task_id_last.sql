-- Which ended task was submitted last, up to a sequence: by somebody, and not for a part of a workflow.
SELECT submitted_seq, task_id FROM ended_tasks WHERE submitted_seq <= $1 AND workflow_id IS NULL ORDER BY submitted_seq DESC, task_id DESC LIMIT 1
