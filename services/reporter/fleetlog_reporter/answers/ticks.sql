-- What became of the ticks of schedules, newest decision first, after a cursor.
SELECT ticks.schedule, epoch_ms(ticks.nominal_at), epoch_ms(until), count, more, ticks.outcome, reason, message, ticks.task_id,
    all_tasks.outcome, version, epoch_ms(decided_at), coalesce(backfill_seq, 0) > 0, seq, index
FROM ticks LEFT JOIN all_tasks ON all_tasks.task_id = ticks.task_id
WHERE ($schedule = '' OR ticks.schedule = $schedule)
  AND ($outcome = '' OR ticks.outcome = $outcome)
  AND epoch_ms(coalesce(until, ticks.nominal_at)) >= $since_ms
  AND ($until_ms = 0 OR epoch_ms(ticks.nominal_at) < $until_ms)
  AND ($before_seq = 0 OR seq < $before_seq OR (seq = $before_seq AND index < $before_index))
ORDER BY seq DESC, index DESC
LIMIT $limit
