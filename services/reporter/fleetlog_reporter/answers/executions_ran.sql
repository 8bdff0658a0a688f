-- What the attempts of some tasks say of each. A list, for a subquery would be looked up after all of them were gathered.
SELECT task_id, started_ms, first.return_value, worst.error, worst.traceback FROM ran WHERE list_contains($1, task_id)
