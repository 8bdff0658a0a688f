-- Everything the projection keeps. Rows are only ever added: a task is written once, when it has ended.
-- Times are Unix milliseconds; the views of views.sql show them as timestamps. No index: ids carry their
-- time, so block statistics find a task without one, and an append costs the same at any size.

CREATE TABLE meta (version BIGINT, created_ms BIGINT);

-- How far the tables reflect the log. One row, written in the transaction that wrote the rows.
CREATE TABLE checkpoint (position BIGINT);

-- What was open at an earlier position (JSON: it takes integers of any size, as the log does): a restart folds on from there. One row.
CREATE TABLE open_state (position BIGINT, state BLOB);

-- Every stored event as it stands in the log. `touches` joins the CRC-32 (8 hexadecimal digits) of each
-- task id and host id that it names: to find candidates, whose body is then looked at.
CREATE TABLE raw_events (
    seq BIGINT, subject VARCHAR, type VARCHAR, time_ms BIGINT, id VARCHAR, authid VARCHAR,
    touches VARCHAR, body VARCHAR
);

-- Messages of the log that are not events: kept as they are, counted, and passed over.
CREATE TABLE parked (seq BIGINT, subject VARCHAR, time_ms BIGINT, error VARCHAR, body BLOB);

-- `waves` (JSON) is null unless the task had a rollout: any other has one, which says nothing. What says of which version
-- of which definition it was a run is null when it was of none; the definition's name is the one of then. `schedule` is null when no schedule asked for it, `nominal_ms` when no tick did.
-- Of a task that is part of a workflow, `workflow_id`, `part` and `item` say of which; of a workflow, `parts` (JSON) is what became of each.
CREATE TABLE ended_tasks (
    task_id VARCHAR, kind VARCHAR, name VARCHAR, summary VARCHAR, state VARCHAR, outcome VARCHAR,
    target VARCHAR, submitted_by VARCHAR, submitted_ms BIGINT, submitted_seq BIGINT, planned_ms BIGINT,
    ended_ms BIGINT, ended_seq BIGINT, plan_hash VARCHAR, rerun_of VARCHAR, tags VARCHAR,
    stop VARCHAR, stop_by VARCHAR, stop_reason VARCHAR, stop_ms BIGINT,
    refusal_code VARCHAR, refusal VARCHAR, refusal_pointer VARCHAR,
    hosts BIGINT, counts VARCHAR, payload_key VARCHAR, spec VARCHAR,
    priority BIGINT, queue VARCHAR, key VARCHAR, waves VARCHAR,
    definition_id VARCHAR, definition_name VARCHAR, definition_version BIGINT,
    schedule VARCHAR, nominal_ms BIGINT, workflow_id VARCHAR, part VARCHAR, item BIGINT, parts VARCHAR
);

-- One row for each attempt. The row of a command's last attempt also describes the command (`command_state`
-- is null on the others); a command that never had an attempt has one row with attempt 0. A null `state` is `ended`,
-- a null `command_ran` is the same as `ran`, a null `error` or `tail` is empty. `rest` (JSON) has what SQL rarely asks
-- for; on the row that describes the command also its wave, counted from 0, and what it waited for, as far as noted.
CREATE TABLE ended_attempts (
    task_id VARCHAR, host_id VARCHAR, host VARCHAR, kind VARCHAR,
    command_state VARCHAR, command_ran VARCHAR, command_ended_seq BIGINT, task_ended_seq BIGINT,
    attempt BIGINT, state VARCHAR, dispatched_ms BIGINT, outcome VARCHAR, ran VARCHAR, exit_code BIGINT,
    started_ms BIGINT, ended_ms BIGINT, duration_ms BIGINT, error VARCHAR, tail VARCHAR, decided BOOLEAN,
    end_seq BIGINT, end_ms BIGINT, rest VARCHAR
);

-- Ends that came after the one that stands, or for a task that had left memory.
CREATE TABLE late_results (
    seq BIGINT, time_ms BIGINT, task_id VARCHAR, host_id VARCHAR, attempt BIGINT,
    outcome VARCHAR, ran VARCHAR, exit_code BIGINT, ended_ms BIGINT, body VARCHAR
);
