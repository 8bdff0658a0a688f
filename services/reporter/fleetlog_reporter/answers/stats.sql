-- How commands ended and how long they took (milliseconds), by kind, host or day.
SELECT CASE $by WHEN 'kind' THEN kind WHEN 'host' THEN host ELSE strftime(epoch_ms(end_ms), '%Y-%m-%d') END AS key,
    count(*), histogram(outcome), quantile_cont(duration_ms, [0.5, 0.95, 0.99])
FROM all_attempts
WHERE command_state = 'ended'
  AND end_ms >= $since_ms AND ($until_ms = 0 OR end_ms < $until_ms)
  AND ($kind = '' OR kind = $kind)
  AND ($host = '' OR host_id = $host OR host = $host)
GROUP BY key ORDER BY key
