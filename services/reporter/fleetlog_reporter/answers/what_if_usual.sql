-- How long, in milliseconds, tasks of a definition usually take from their submission to their end.
SELECT definition_name, median(ended_ms - submitted_ms) FROM all_tasks
WHERE list_contains($definitions::VARCHAR[], definition_name) AND state = 'ended' AND outcome <> 'cancelled'
GROUP BY 1
