-- From when to when a tick waited that nobody could fire in time, of any schedule. One that waited for an earlier run
-- is late for another reason.
SELECT greatest(epoch_ms(nominal_at), $since_ms), least(epoch_ms(decided_at), $until_ms) FROM ticks
WHERE backfill_seq IS NULL AND (outcome = 'missed' OR (outcome = 'fired' AND reason = 'late'))
  AND epoch_ms(decided_at) > $since_ms AND epoch_ms(nominal_at) < $until_ms
  AND NOT EXISTS (
    FROM ticks AS waiting WHERE waiting.outcome = 'queued' AND waiting.schedule = ticks.schedule AND waiting.nominal_at = ticks.nominal_at)
ORDER BY 1
