-- What people and answers ask: ended rows joined with the small tables of what is open. Made on each reader's own
-- connection, for the live tables are temporary. `committed` is the position up to which the kept rows count and
-- `seq` the one that the whole picture reflects: both are set before a question, so a past moment is shown alike. Of history,
-- what lies up to `after` is not shown: 0, but where it is read a stretch at a time.

CREATE TEMP TABLE live_tasks AS SELECT *, NULL::VARCHAR AS hold, NULL::VARCHAR AS hold_reason FROM ended_tasks LIMIT 0;
CREATE TEMP TABLE live_attempts AS FROM ended_attempts LIMIT 0;
CREATE TEMP TABLE live_hosts (
    host_id VARCHAR, name VARCHAR, presence VARCHAR, since_ms BIGINT, maintenance BOOLEAN, maintenance_reason VARCHAR,
    epoch BIGINT, version VARCHAR, enrolled_ms BIGINT, revoked BOOLEAN, running BIGINT, labels VARCHAR, facts VARCHAR,
    refusals BIGINT
);
CREATE TEMP TABLE live_freezes (freeze_id VARCHAR, target VARCHAR, reason VARCHAR, "by" VARCHAR, since_ms BIGINT);
CREATE TEMP TABLE live_windows (
    name VARCHAR, kind VARCHAR, target VARCHAR, days VARCHAR, begins VARCHAR, lasts_minutes BIGINT, zone VARCHAR,
    reason VARCHAR, "by" VARCHAR, since_ms BIGINT
);
CREATE TEMP TABLE live_queues (queue VARCHAR, in_flight_max BIGINT, in_flight BIGINT, waiting BIGINT);

-- By name, for no ended task is on hold.
CREATE TEMP VIEW all_tasks AS
    SELECT * FROM ended_tasks WHERE ended_seq > getvariable('after') AND ended_seq <= getvariable('committed')
    UNION ALL BY NAME SELECT * FROM live_tasks;

CREATE TEMP VIEW all_attempts AS
    SELECT * FROM ended_attempts WHERE task_ended_seq > getvariable('after') AND task_ended_seq <= getvariable('committed')
    UNION ALL SELECT * FROM live_attempts;

-- One row for each task. `hold` (paused or halted) and its reason are of open ones only.
CREATE TEMP VIEW tasks AS
    SELECT task_id, kind, name, summary, state, outcome, target, submitted_by,
        epoch_ms(submitted_ms) AS submitted_at, epoch_ms(nullif(planned_ms, 0)) AS planned_at,
        epoch_ms(nullif(ended_ms, 0)) AS ended_at, (nullif(ended_ms, 0) - submitted_ms) / 1000.0 AS duration_seconds,
        hosts, counts::JSON AS counts, priority, queue, key, definition_name AS definition,
        definition_version AS version, definition_id, spec -> '$.definition.parameters' AS parameters,
        schedule, epoch_ms(nominal_ms) AS nominal_at, workflow_id, part, item, hold, nullif(hold_reason, '') AS hold_reason,
        from_json(tags, '["VARCHAR"]') AS tags, nullif(stop, '') AS stop, nullif(stop_by, '') AS stop_by,
        nullif(stop_reason, '') AS stop_reason, rerun_of, refusal_code, refusal, spec::JSON AS spec,
        submitted_seq, nullif(ended_seq, 0) AS ended_seq
    FROM all_tasks;

-- One row for each task and host. `reason` is what it waits for now, and since when, if that was noted.
CREATE TEMP VIEW commands AS
    SELECT task_id, host_id, host, kind, command_state AS state,
        CASE WHEN command_state = 'ended' THEN outcome END AS outcome,
        CASE WHEN command_state = 'ended' THEN coalesce(command_ran, ran) END AS ran, attempt AS attempts,
        exit_code, TRY(epoch_ms(started_ms)) AS started_at, TRY(epoch_ms(coalesce(ended_ms, end_ms))) AS ended_at,
        duration_ms / 1000.0 AS duration_seconds, coalesce(error, '') AS error, coalesce(tail, '') AS tail, decided,
        epoch_ms(end_ms) AS recorded_at, command_ended_seq AS ended_seq,
        coalesce(TRY_CAST(rest ->> '$.wave' AS BIGINT), 0) + 1 AS wave,
        CASE WHEN (rest ->> '$.waits[#-1].until_ms') = '0' THEN rest ->> '$.waits[#-1].reason' END AS reason,
        CASE WHEN (rest ->> '$.waits[#-1].until_ms') = '0'
            THEN epoch_ms(TRY_CAST(rest ->> '$.waits[#-1].since_ms' AS BIGINT)) END AS reason_since
    FROM all_attempts WHERE command_state IS NOT NULL;

-- One row for each reason for which a command waited, as far as that lasted long enough to be noted. A null `until`:
-- it still does.
CREATE TEMP VIEW waits AS
    SELECT task_id, host_id, host, wait.reason AS reason, wait.message AS message, epoch_ms(wait.since_ms) AS since,
        epoch_ms(nullif(wait.until_ms, 0)) AS until
    FROM (
        SELECT task_id, host_id, host, unnest(from_json(
            rest -> '$.waits', '[{"reason": "VARCHAR", "message": "VARCHAR", "since_ms": "BIGINT", "until_ms": "BIGINT"}]'
        )) AS wait
        FROM all_attempts WHERE command_state IS NOT NULL AND contains(rest, '"waits":')
    );

-- One row for each try.
CREATE TEMP VIEW attempts AS
    SELECT task_id, host_id, host, kind, attempt, coalesce(state, 'ended') AS state,
        epoch_ms(dispatched_ms) AS dispatched_at,
        TRY(epoch_ms(started_ms)) AS started_at, TRY(epoch_ms(coalesce(ended_ms, end_ms))) AS ended_at,
        duration_ms / 1000.0 AS duration_seconds, outcome, ran, exit_code,
        TRY_CAST(rest ->> '$.signal' AS BIGINT) AS signal, coalesce(error, '') AS error,
        coalesce(tail, '') AS tail, decided,
        TRY_CAST(rest ->> '$.output.bytes' AS BIGINT) AS output_bytes, epoch_ms(end_ms) AS recorded_at, end_seq
    FROM all_attempts WHERE attempt > 0;

-- One row for each host as it was at the moment asked for.
CREATE TEMP VIEW hosts AS
    SELECT host_id, name, presence, epoch_ms(since_ms) AS since, maintenance, maintenance_reason, epoch, version,
        epoch_ms(enrolled_ms) AS enrolled_at, revoked, running, labels::JSON AS labels, facts::JSON AS facts, refusals
    FROM live_hosts;

-- One row for each freeze in force at that moment.
CREATE TEMP VIEW freezes AS
    SELECT freeze_id, target, reason, "by", epoch_ms(since_ms) AS since FROM live_freezes;

-- One row for each window in force at that moment; `days` on which it begins: 0 is Monday.
CREATE TEMP VIEW windows AS
    SELECT name, kind, target, from_json(days, '["BIGINT"]') AS days, begins, lasts_minutes, zone, nullif(reason, '') AS reason,
        "by", epoch_ms(since_ms) AS since
    FROM live_windows;

-- One row for each queue that has a limit or open tasks at that moment: how many of its commands are in flight and
-- wait. A null `in_flight_max` is no limit.
CREATE TEMP VIEW queues AS FROM live_queues;

-- The log itself.
CREATE TEMP VIEW events AS
    SELECT seq, epoch_ms(time_ms) AS stored_at, subject, type, id, authid, body AS event
    FROM raw_events WHERE seq > getvariable('after') AND seq <= getvariable('seq');

-- One row for each definition that there was at that moment, as its newest version says.
CREATE TEMP VIEW definitions AS
    SELECT body ->> '$.data.definition.name' AS name, body ->> '$.data.definition_id' AS definition_id,
        TRY_CAST(body ->> '$.data.version' AS BIGINT) AS version, body ->> '$.data.definition.spec.payload.kind' AS kind,
        coalesce(body ->> '$.data.definition.description', '') AS description,
        coalesce(body ->> '$.data.definition.spec.target', '') AS target,
        coalesce(from_json(body -> '$.data.definition.spec.tags', '["VARCHAR"]'), []) AS tags,
        epoch_ms(time_ms) AS changed_at, authid AS changed_by, coalesce(body ->> '$.data.message', '') AS message,
        body -> '$.data.definition.parameters' AS parameters, body -> '$.data.definition.spec' AS spec
    FROM raw_events
    WHERE seq <= getvariable('seq') AND type = 'fleetlog.definition.set.v1' AND (body ->> '$.data.definition_id') NOT IN (
        SELECT body ->> '$.data.definition_id' FROM raw_events
        WHERE seq <= getvariable('seq') AND type = 'fleetlog.definition.removed.v1')
    QUALIFY row_number() OVER (PARTITION BY definition_id ORDER BY version DESC, seq) = 1;

-- The ledger: one row for each tick of a schedule that met its fate, or for several in a row that met the same one (`count`
-- from `nominal_at` to `until`). `queued` is not final: the same tick has a later row. `more`: there were more than counted.
CREATE TEMP VIEW ticks AS
    SELECT tick.name AS schedule, epoch_ms(tick.nominal_ms) AS nominal_at, epoch_ms(nullif(tick.until_ms, 0)) AS until,
        coalesce(tick.count, 1) AS count, tick.outcome AS outcome, coalesce(tick.reason, '') AS reason,
        coalesce(tick.message, '') AS message, coalesce(tick.more, false) AS more, tick.task_id AS task_id,
        tick.version AS version, tick.backfill_seq AS backfill_seq, epoch_ms(time_ms) AS decided_at,
        (time_ms - tick.nominal_ms) / 1000.0 AS delay_seconds, seq, index
    FROM (
        SELECT seq, time_ms, unnest(ticks) AS tick, generate_subscripts(ticks, 1) AS index
        FROM (
            SELECT seq, time_ms, from_json(body -> '$.data.ticks', '[{"name": "VARCHAR", "outcome": "VARCHAR",
                "nominal_ms": "BIGINT", "until_ms": "BIGINT", "count": "BIGINT", "reason": "VARCHAR", "message": "VARCHAR",
                "more": "BOOLEAN", "task_id": "VARCHAR", "version": "BIGINT", "backfill_seq": "BIGINT"}]') AS ticks
            FROM raw_events WHERE seq <= getvariable('seq') AND type = 'fleetlog.tick.decided.v1'));

-- One row for each alert: what it is about (`subjects`: of many, the first), and what became of it.
CREATE TEMP VIEW alerts AS
    WITH raised AS (
        SELECT seq, time_ms, unnest(from_json(body -> '$.data.alerts', '[{"alert_id": "VARCHAR", "kind": "VARCHAR",
            "message": "VARCHAR", "names": ["VARCHAR"], "count": "BIGINT", "since_ms": "BIGINT"}]')) AS one
        FROM raw_events WHERE seq <= getvariable('seq') AND type = 'fleetlog.alert.raised.v1'
    ), acknowledged AS (
        SELECT body ->> '$.data.alert_id' AS alert_id, min(time_ms) AS acknowledged_ms, arg_min(authid, seq) AS acknowledged_by
        FROM raw_events WHERE seq <= getvariable('seq') AND type = 'fleetlog.alert.acknowledged.v1' GROUP BY 1
    ), ends AS (
        SELECT time_ms, unnest(from_json(body -> '$.data.alert_ids', '["VARCHAR"]')) AS alert_id
        FROM raw_events WHERE seq <= getvariable('seq') AND type = 'fleetlog.alert.resolved.v1'
    ), resolved AS (
        SELECT alert_id, min(time_ms) AS resolved_ms FROM ends GROUP BY 1
    ), alerts AS (
        SELECT one.alert_id AS alert_id, one.kind AS kind, one.message AS message, one.names AS subjects, one.count AS count,
            epoch_ms(one.since_ms) AS since, epoch_ms(time_ms) AS raised_at, seq
        FROM raised QUALIFY row_number() OVER (PARTITION BY one.alert_id ORDER BY seq) = 1
    )
    SELECT alerts.* EXCLUDE (seq), epoch_ms(acknowledged_ms) AS acknowledged_at, acknowledged_by,
        epoch_ms(resolved_ms) AS resolved_at, seq
    FROM alerts LEFT JOIN acknowledged USING (alert_id) LEFT JOIN resolved USING (alert_id);

-- One row for each try to deliver a message to a webhook; `outcome` is `delivered`, `retry` or `failed`. A null `status`: no answer.
CREATE TEMP VIEW deliveries AS
    SELECT one.webhook_id AS webhook_id, one.message_id AS message_id, one.attempt AS attempt, one.outcome AS outcome,
        one.status AS status, coalesce(one.error, '') AS error, epoch_ms(one.due_ms) AS due_at, epoch_ms(time_ms) AS attempted_at, seq
    FROM (
        SELECT seq, time_ms, unnest(from_json(body -> '$.data.attempts', '[{"webhook_id": "VARCHAR", "message_id": "VARCHAR",
            "attempt": "BIGINT", "outcome": "VARCHAR", "status": "BIGINT", "error": "VARCHAR", "due_ms": "BIGINT"}]')) AS one
        FROM raw_events WHERE seq <= getvariable('seq') AND type = 'fleetlog.webhook.attempted.v1');

-- What the attempts say of each task: when the first that may have run was dispatched, by the log's time, and the
-- commands that ended worst, by host name.
CREATE TEMP VIEW ran AS
    SELECT task_id, min(dispatched_ms) FILTER (ran IS DISTINCT FROM 'no') AS started_ms,
        arg_min({'return_value': rest ->> '$.return_value'}, host) FILTER (command_state IS NOT NULL) AS first,
        arg_min({
            'error': coalesce(error, CASE WHEN exit_code IS NOT NULL THEN concat('exit code ', exit_code) END),
            'traceback': nullif(rest ->> '$.traceback', '')
        }, {'outcome': list_position(['lost', 'error', 'timeout', 'failure', 'cancelled', 'unreached', 'skipped'], outcome),
            'host': host}) FILTER (command_state IS NOT NULL AND outcome IS NOT NULL AND outcome <> 'success') AS worst
    FROM all_attempts GROUP BY task_id;

-- Records of ended tasks. `definition` is null when it came from none, or from one that is no more. `return_value` (JSON)
-- is of a task with one command; `error` and `traceback` are of the command that ended worst, or say why it was refused.
CREATE TEMP VIEW executions AS
    SELECT tasks.* EXCLUDE (definition, duration_seconds), definitions.name AS definition, outcome IS NOT DISTINCT FROM 'success' AS success,
        epoch_ms(started_ms) AS started_at, ended_at AS completed_at,
        (epoch_ms(ended_at) - started_ms) / 1000.0 AS duration_seconds,
        CASE WHEN hosts = 1 THEN first.return_value END AS return_value, coalesce(refusal, worst.error) AS error,
        worst.traceback AS traceback
    FROM tasks LEFT JOIN ran USING (task_id) LEFT JOIN definitions USING (definition_id)
    WHERE state IN ('ended', 'refused');

-- Ended commands by day (UTC, by the log's time), kind and host.
CREATE TEMP VIEW daily AS
    SELECT recorded_at::DATE AS day, kind, host, count(*) AS commands,
        count(*) FILTER (outcome = 'success') AS success, count(*) FILTER (outcome = 'failure') AS failure,
        count(*) FILTER (outcome = 'timeout') AS timeout, count(*) FILTER (outcome = 'error') AS error,
        count(*) FILTER (outcome = 'lost') AS lost, count(*) FILTER (outcome = 'unreached') AS unreached,
        count(*) FILTER (outcome = 'cancelled') AS cancelled, count(*) FILTER (outcome = 'skipped') AS skipped,
        count(*) FILTER (outcome = 'success') / count(*) AS success_ratio,
        quantile_cont(duration_seconds, 0.5) AS p50_seconds, quantile_cont(duration_seconds, 0.95) AS p95_seconds,
        quantile_cont(duration_seconds, 0.99) AS p99_seconds
    FROM commands WHERE state = 'ended' GROUP BY ALL;
