-- What became of the ticks of a period, and the runs of those fired, in the order of the log.
SELECT ticks.schedule, epoch_ms(ticks.nominal_at), epoch_ms(until), count, ticks.outcome, reason, ticks.task_id, backfill_seq,
    epoch_ms(decided_at), all_tasks.submitted_ms, nullif(all_tasks.ended_ms, 0), all_tasks.outcome
FROM ticks LEFT JOIN all_tasks ON all_tasks.task_id = ticks.task_id
WHERE (len($names::VARCHAR[]) = 0 OR list_contains($names::VARCHAR[], ticks.schedule))
  AND epoch_ms(decided_at) > $since_ms AND epoch_ms(ticks.nominal_at) <= $until_ms
ORDER BY seq, index
LIMIT $limit
