-- The events up to a sequence that name one task.
SELECT seq, subject, time_ms, body FROM raw_events
    WHERE seq <= $1 AND time_ms >= $2 AND contains(touches, $3) AND contains(body, $4) ORDER BY seq
