-- How long, in seconds, the commands of the newest tasks that ran the same payload took in the middle.
SELECT median(duration_ms) / 1000 FROM ended_attempts
WHERE duration_ms IS NOT NULL AND task_id IN (
    SELECT task_id FROM ended_tasks WHERE payload_key = $1 ORDER BY submitted_seq DESC LIMIT 10
)
