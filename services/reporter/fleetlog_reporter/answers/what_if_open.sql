-- Runs of ticks that were open when a period began, and when each ended.
SELECT schedule, task_id, nullif(ended_ms, 0) FROM all_tasks
WHERE schedule IS NOT NULL AND nominal_ms IS NOT NULL AND (len($names::VARCHAR[]) = 0 OR list_contains($names::VARCHAR[], schedule))
  AND submitted_ms <= $since_ms AND (coalesce(ended_ms, 0) = 0 OR ended_ms > $since_ms)
