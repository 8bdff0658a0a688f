-- How many commands of the newest tasks that ran the same payload before a task have ended with a known duration, and
-- the middle of these durations and the 95th hundredth (milliseconds).
SELECT count(*), quantile_cont(duration_ms, [0.5, 0.95]) FROM ended_attempts
WHERE command_state = 'ended' AND duration_ms IS NOT NULL AND task_id IN (
    SELECT task_id FROM ended_tasks
    WHERE payload_key = $payload_key AND submitted_seq < $submitted_seq AND ended_seq <= $through
    ORDER BY submitted_seq DESC, task_id DESC LIMIT 10
)
