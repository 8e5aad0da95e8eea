-- Every statement of the ledger. `-- name:` begins a statement, `-- include:` puts another one's text in its place.
-- Several rows travel as one jsonb array, so that a batch costs what a single row costs.

-- name: claim_core
-- $1 rows, $2 owner, $3 lease in seconds, $4 owners that are proved dead.
-- ON CONFLICT locks and judges the newest version of the row, whatever the snapshot of this statement shows.
WITH input AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset($1::jsonb) AS i (
        ord int, task_id text, queue_id text, entry_id text, service_id text, user_id text, tier text, model_id text,
        job_id text, refs jsonb, request_id text, trace_id text, message jsonb, body_sha256 text,
        accepted_at float8, wants_context bool)
), taken AS (
    INSERT INTO qstreamd.tasks AS t (
        task_id, queue_id, entry_id, service_id, user_id, tier, model_id, job_id, refs, request_id, trace_id,
        state, attempt, owner, heartbeat_at, message, body_sha256, created_at, started_at)
    SELECT task_id, queue_id, entry_id, service_id, user_id, tier, model_id, job_id, refs, request_id, trace_id,
           'running', 1, $2::text, now(), message, body_sha256, least(to_timestamp(accepted_at), now()), now()
    FROM input
    ORDER BY task_id  -- one lock order for all batches
    ON CONFLICT (task_id) DO UPDATE SET
        state = 'running',
        attempt = t.attempt + 1,
        crashes = t.crashes
            + (t.state = 'running' AND (t.owner = ANY ($4::text[])
                                        OR t.heartbeat_at < now() - make_interval(secs => $3::float8)))::int,
        owner = excluded.owner,
        entry_id = excluded.entry_id,
        model_id = excluded.model_id,
        heartbeat_at = now(),
        started_at = coalesce(t.started_at, now()),
        error_code = NULL
    WHERE t.queue_id = excluded.queue_id
      AND t.body_sha256 = excluded.body_sha256
      AND (t.state IN ('queued', 'retrying')
           OR t.state = 'running' AND (t.owner = excluded.owner AND t.entry_id = excluded.entry_id
                                       OR t.owner = ANY ($4::text[])
                                       OR t.heartbeat_at < now() - make_interval(secs => $3::float8)))
    RETURNING t.task_id, t.attempt, t.failures, t.crashes, t.created_at, t.model_id
), noted AS (
    -- The new attempt, and the end of the one before if nobody ended it. An upsert, since a plain UPDATE would miss an
    -- attempt that another claim of the same entry committed after our snapshot.
    INSERT INTO qstreamd.attempts AS a (task_id, attempt, model_id, finished_at, outcome)
    SELECT task_id, attempt, model_id, NULL, NULL FROM taken
    UNION ALL
    SELECT task_id, attempt - 1, NULL, now(), 'lost' FROM taken WHERE attempt > 1
    ON CONFLICT (task_id, attempt) DO UPDATE SET finished_at = excluded.finished_at, outcome = excluded.outcome
    WHERE a.finished_at IS NULL
)

-- name: claim_columns
SELECT i.ord,
       n.attempt, n.failures, n.crashes, extract(epoch FROM n.created_at)::float8 AS created_at,
       e.queue_id AS old_queue, e.body_sha256 AS old_sha256, e.state AS old_state, e.attempt AS old_attempt,
       e.error_code AS old_code, e.entry_id AS old_entry,
       e.owner = $2::text AND e.entry_id = i.entry_id OR e.owner = ANY ($4::text[])
           OR e.heartbeat_at < now() - make_interval(secs => $3::float8) AS old_free,
       r.id, r.content, r.data, r.content_sha256, r.model_id, r.usage, r.finish_reason

-- name: claim_rows
FROM input i
LEFT JOIN taken n ON n.task_id = i.task_id
LEFT JOIN qstreamd.tasks e ON e.task_id = i.task_id AND n.task_id IS NULL
LEFT JOIN qstreamd.results r ON r.task_id = e.task_id AND e.state = 'done'

-- name: claim
-- include: claim_core
-- include: claim_columns
-- include: claim_rows
ORDER BY i.ord

-- name: claim_with_context
-- The row of the task itself wins over one of its job, that over one known by refs alone; each is looked for only when
-- the one before was not found, so that a missing index on refs costs nobody who does not use refs.
-- include: claim_core
-- include: claim_columns
       , coalesce(by_task.found, by_job.found, by_refs.found, false) AS context_found
       , CASE WHEN by_task.found THEN by_task.template_id WHEN by_job.found THEN by_job.template_id
              ELSE by_refs.template_id END AS template_id
       , CASE WHEN by_task.found THEN by_task.variables WHEN by_job.found THEN by_job.variables
              ELSE by_refs.variables END AS variables
       , CASE WHEN by_task.found THEN by_task.images WHEN by_job.found THEN by_job.images
              ELSE by_refs.images END AS images
-- include: claim_rows
LEFT JOIN LATERAL (
    SELECT true AS found, v.template_id, v.variables::text, v.images::text
    FROM qstreamd.task_context v
    WHERE i.wants_context AND n.task_id IS NOT NULL
      AND v.task_id = i.task_id
      AND v.user_id = i.user_id AND (v.service_id IS NULL OR v.service_id = i.service_id)
    ORDER BY v.service_id NULLS LAST LIMIT 1
) by_task ON true
LEFT JOIN LATERAL (
    SELECT true AS found, v.template_id, v.variables::text, v.images::text
    FROM qstreamd.task_context v
    WHERE i.wants_context AND n.task_id IS NOT NULL AND by_task.found IS NULL
      AND v.task_id IS NULL AND v.job_id = i.job_id AND (v.refs IS NULL OR v.refs <@ coalesce(i.refs, '{}'))
      AND v.user_id = i.user_id AND (v.service_id IS NULL OR v.service_id = i.service_id)
    ORDER BY v.service_id NULLS LAST, v.refs NULLS LAST LIMIT 1
) by_job ON true
LEFT JOIN LATERAL (
    SELECT true AS found, v.template_id, v.variables::text, v.images::text
    FROM qstreamd.task_context v
    WHERE i.wants_context AND n.task_id IS NOT NULL AND by_task.found IS NULL AND by_job.found IS NULL
      AND v.task_id IS NULL AND v.job_id IS NULL AND v.refs <@ i.refs AND v.refs <> '{}'
      AND v.user_id = i.user_id AND (v.service_id IS NULL OR v.service_id = i.service_id)
    ORDER BY v.service_id NULLS LAST LIMIT 1
) by_refs ON true
ORDER BY i.ord

-- name: finish
-- $1 rows. The state, the result and the end of the attempt stand or fall together; a zombie matches no row.
WITH input AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset($1::jsonb) AS i (
        task_id text, attempt int, owner text, content text, data jsonb, content_sha256 text, model_id text,
        usage jsonb, first_token_at float8, finish_reason text)
), won AS (
    UPDATE qstreamd.tasks t
    SET state = 'done', finished_at = now(), heartbeat_at = now(), model_id = i.model_id, error_code = NULL
    FROM input i
    WHERE t.task_id = i.task_id AND t.attempt = i.attempt AND t.owner = i.owner AND t.state = 'running'
    RETURNING t.task_id, t.attempt, t.owner
), closed AS (
    UPDATE qstreamd.attempts a
    SET finished_at = now(), outcome = 'done', code = NULL, usage = i.usage, model_id = i.model_id,
        first_token_at = to_timestamp(i.first_token_at)
    FROM won JOIN input i USING (task_id, attempt, owner)
    WHERE a.task_id = i.task_id AND a.attempt = i.attempt
)
INSERT INTO qstreamd.results (task_id, attempt, content, data, content_sha256, model_id, usage, finish_reason)
SELECT i.task_id, i.attempt, i.content, i.data, i.content_sha256, i.model_id, i.usage, i.finish_reason
FROM won JOIN input i USING (task_id, attempt, owner)
RETURNING id, task_id, attempt, (SELECT owner FROM won w WHERE w.task_id = results.task_id) AS owner

-- name: outcome
-- What became of an attempt: read back when a compare-and-set matched nothing.
SELECT t.state, t.attempt, t.owner, t.error_code, a.outcome, a.code,
       r.id, r.attempt AS result_attempt, r.content, r.data, r.content_sha256, r.model_id, r.usage,
       r.finish_reason
FROM qstreamd.tasks t
LEFT JOIN qstreamd.attempts a ON a.task_id = t.task_id AND a.attempt = $2::int
LEFT JOIN qstreamd.results r ON r.task_id = t.task_id
WHERE t.task_id = $1::text

-- name: leave
-- The row keeps its last owner: whoever repeats this after a lost reply finds itself there.
WITH left_running AS (
    UPDATE qstreamd.tasks
    SET state = $3::text, error_code = $4::text, failures = failures + $6::int, heartbeat_at = now(),
        -- an attempt that failed has not killed its process; one that was interrupted or put off might still
        crashes = CASE WHEN $3::text = 'retrying' AND $5::text = 'failed' THEN 0 ELSE crashes END,
        model_id = coalesce($8::text, model_id),
        finished_at = CASE WHEN $3::text IN ('done', 'failed', 'cancelled', 'expired') THEN now() END
    WHERE task_id = $1::text AND attempt = $2::int AND owner = $10::text AND state = 'running'
    RETURNING task_id
), closed AS (
    UPDATE qstreamd.attempts a
    SET finished_at = now(), outcome = $5::text, code = $4::text, usage = $7::jsonb,
        model_id = coalesce($8::text, a.model_id), first_token_at = to_timestamp($9::float8)
    FROM left_running l
    WHERE a.task_id = l.task_id AND a.attempt = $2::int
), fenced AS (
    -- The task is another attempt's by now. What this one has cost is true all the same.
    UPDATE qstreamd.attempts
    SET usage = $7::jsonb
    WHERE task_id = $1::text AND attempt = $2::int AND usage IS NULL AND $7::jsonb IS NOT NULL
      AND NOT EXISTS (SELECT FROM left_running)
)
SELECT task_id FROM left_running

-- name: end_unclaimed
-- $1 rows as in claim, a task once; $2 state, $3 code. Ours as well when an earlier try of the same entry committed.
WITH input AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset($1::jsonb) AS i (
        task_id text, queue_id text, entry_id text, service_id text, user_id text, tier text, model_id text,
        job_id text, refs jsonb, request_id text, trace_id text, message jsonb, body_sha256 text, accepted_at float8)
)
INSERT INTO qstreamd.tasks AS t (
    task_id, queue_id, entry_id, service_id, user_id, tier, model_id, job_id, refs, request_id, trace_id,
    state, attempt, message, body_sha256, error_code, created_at, finished_at)
SELECT task_id, queue_id, entry_id, service_id, user_id, tier, model_id, job_id, refs, request_id, trace_id,
       $2::text, 0, message, body_sha256, $3::text, least(to_timestamp(accepted_at), now()), now()
FROM input
ON CONFLICT (task_id) DO UPDATE SET
    state = excluded.state, error_code = excluded.error_code, entry_id = excluded.entry_id, owner = NULL,
    heartbeat_at = now(), finished_at = coalesce(t.finished_at, now())
WHERE t.queue_id = excluded.queue_id AND t.body_sha256 = excluded.body_sha256
  AND (t.state IN ('queued', 'retrying')
       OR t.state = excluded.state AND t.error_code = excluded.error_code AND t.entry_id = excluded.entry_id)
RETURNING t.task_id

-- name: identity
SELECT queue_id AS old_queue, body_sha256 AS old_sha256 FROM qstreamd.tasks WHERE task_id = $1::text

-- name: let_go
-- $1 task, $2 entry, $3 owner, $4 lease in seconds, $5 owners that are proved dead. A row comes back if the task runs by
-- this entry and may not be released.
WITH put_back AS (
    UPDATE qstreamd.tasks
    SET state = 'queued', heartbeat_at = now(),
        crashes = crashes + (owner = ANY ($5::text[]) OR heartbeat_at < now() - make_interval(secs => $4::float8))::int
    WHERE task_id = $1::text AND entry_id = $2::text AND state = 'running'
      AND (owner = $3::text OR owner = ANY ($5::text[]) OR heartbeat_at < now() - make_interval(secs => $4::float8))
    RETURNING task_id, attempt
), closed AS (
    UPDATE qstreamd.attempts a
    SET finished_at = now(), outcome = 'lost'
    FROM put_back p
    WHERE a.task_id = p.task_id AND a.attempt = p.attempt AND a.finished_at IS NULL
)
SELECT task_id FROM qstreamd.tasks t
WHERE t.task_id = $1::text AND t.entry_id = $2::text AND t.state = 'running'
  AND NOT EXISTS (SELECT FROM put_back p WHERE p.task_id = t.task_id)

-- name: raise_attempt
-- $1 task, $2 attempt, $3 owner, $4 the number above those that its events know. The attempt has not begun: its record
-- gets the new number too.
WITH raised AS (
    UPDATE qstreamd.tasks
    SET attempt = $4::int, heartbeat_at = now()
    WHERE task_id = $1::text AND attempt IN ($2::int, $4::int) AND owner = $3::text AND state = 'running'
    RETURNING task_id
), moved AS (
    UPDATE qstreamd.attempts a
    SET attempt = $4::int
    FROM raised r
    WHERE a.task_id = r.task_id AND a.attempt = $2::int
      AND NOT EXISTS (SELECT FROM qstreamd.attempts b WHERE b.task_id = r.task_id AND b.attempt = $4::int)
)
SELECT task_id FROM raised

-- name: heartbeat
UPDATE qstreamd.tasks t
SET heartbeat_at = now()
FROM unnest($1::text[], $2::int[]) AS i (task_id, attempt)
WHERE t.task_id = i.task_id AND t.attempt = i.attempt AND t.owner = $3::text AND t.state = 'running'
RETURNING t.task_id, t.attempt

-- name: row_columns
SELECT t.task_id, t.queue_id, t.entry_id, t.service_id, t.user_id, t.tier, t.model_id, t.request_id, t.trace_id,
       t.state, t.attempt, t.failures, t.crashes, t.owner, t.message::text AS message, t.body_sha256, t.error_code,
       extract(epoch FROM t.created_at)::float8 AS created_at,
       extract(epoch FROM t.started_at)::float8 AS started_at,
       extract(epoch FROM t.finished_at)::float8 AS finished_at,
       extract(epoch FROM t.heartbeat_at)::float8 AS heartbeat_at

-- name: row
-- include: row_columns
       , r.id, r.content, r.data, r.content_sha256, r.model_id AS result_model_id, r.usage, r.finish_reason
FROM qstreamd.tasks t
LEFT JOIN qstreamd.results r ON r.task_id = t.task_id
WHERE t.task_id = $1::text

-- name: ended
-- Those of $1 that have ended, with their results.
-- include: row_columns
       , r.id, r.content, r.data, r.content_sha256, r.model_id AS result_model_id, r.usage, r.finish_reason
FROM qstreamd.tasks t
LEFT JOIN qstreamd.results r ON r.task_id = t.task_id
WHERE t.task_id = ANY ($1::text[]) AND t.state IN ('done', 'failed', 'cancelled', 'expired')

-- name: over
-- Those of $1 that have a row, and whether they have ended.
SELECT task_id, state IN ('done', 'failed', 'cancelled', 'expired') AS over
FROM qstreamd.tasks WHERE task_id = ANY ($1::text[])

-- name: cancel_waiting
-- A task that waits is ended where it lies; one that runs is its attempt's to end.
UPDATE qstreamd.tasks
SET state = 'cancelled', error_code = 'CANCELLED', owner = NULL, heartbeat_at = now(), finished_at = now()
WHERE task_id = $1::text AND state IN ('queued', 'retrying')
RETURNING task_id

-- name: audit
-- $1 rows. Appended, never changed.
INSERT INTO qstreamd.audit_log (at, actor, role, ip, action, target, params, reason, result, request_id)
SELECT to_timestamp(at), actor, role, ip, action, target, params, reason, result, request_id
FROM jsonb_to_recordset($1::jsonb) AS i (
    at float8, actor text, role text, ip text, action text, target text, params jsonb, reason text, result text,
    request_id text)

-- name: write_back
-- $1 a task that ended with `done` and whose row Postgres has lost; nothing where there is a row.
WITH input AS MATERIALIZED (
    SELECT * FROM jsonb_to_record($1::jsonb) AS i (
        task_id text, queue_id text, entry_id text, service_id text, user_id text, tier text, model_id text,
        request_id text, trace_id text, attempt int, message jsonb, body_sha256 text, error_code text,
        created_at float8, finished_at float8, content text, data jsonb, content_sha256 text, usage jsonb,
        finish_reason text)
), written AS (
    INSERT INTO qstreamd.tasks (
        task_id, queue_id, entry_id, service_id, user_id, tier, model_id, request_id, trace_id, state, attempt,
        message, body_sha256, error_code, created_at, finished_at)
    SELECT task_id, queue_id, entry_id, service_id, user_id, tier, model_id, request_id, trace_id, 'done', attempt,
           message, body_sha256, error_code, to_timestamp(created_at), to_timestamp(finished_at)
    FROM input
    ON CONFLICT (task_id) DO NOTHING
    RETURNING task_id
), noted AS (
    INSERT INTO qstreamd.attempts (task_id, attempt, model_id, started_at, finished_at, outcome, code, usage)
    SELECT i.task_id, i.attempt, i.model_id, to_timestamp(i.finished_at), to_timestamp(i.finished_at), 'done',
           i.error_code, i.usage
    FROM written JOIN input i USING (task_id)
)
INSERT INTO qstreamd.results (task_id, attempt, content, data, content_sha256, model_id, usage, finish_reason)
SELECT i.task_id, i.attempt, i.content, i.data, i.content_sha256, i.model_id, i.usage, i.finish_reason
FROM written JOIN input i USING (task_id)
WHERE i.content IS NOT NULL
RETURNING task_id

-- name: forgotten
-- Rows that should have an entry somewhere in Redis and showed no life for $2 seconds; oldest first, after ($4, $5).
-- include: row_columns
FROM qstreamd.tasks t
WHERE t.queue_id = $1::text
  AND t.state IN ('queued', 'running', 'retrying')
  AND t.heartbeat_at < now() - make_interval(secs => $2::float8)
  AND (t.created_at, t.task_id) > (to_timestamp($4::float8), $5::text)
ORDER BY t.created_at, t.task_id
LIMIT $3::int

-- name: replay
WITH anew AS (
    UPDATE qstreamd.tasks
    SET state = 'queued', failures = 0, crashes = 0, error_code = NULL, owner = NULL, heartbeat_at = now(),
        started_at = NULL, finished_at = NULL
    WHERE task_id = $1::text AND state IN ('failed', 'expired')
    RETURNING *
), audited AS (
    INSERT INTO qstreamd.audit_log (actor, action, target, reason, result)
    SELECT $2::text, 'dlq.replay', task_id, $3::text, 'queued' FROM anew
)
-- include: row_columns
FROM anew t

-- name: template_version
SELECT name, version, system, prompt, output, output_schema FROM qstreamd.prompt_templates
WHERE name = $1::text AND version = $2::int

-- name: template_newest
SELECT name, version, system, prompt, output, output_schema FROM qstreamd.prompt_templates
WHERE name = $1::text
ORDER BY version DESC LIMIT 1

-- name: template_publish
INSERT INTO qstreamd.prompt_templates (name, version, system, prompt, output, output_schema, note)
SELECT $1::text, coalesce(max(version), 0) + 1, $2::text, $3::text, $4::text, $5::jsonb, $6::text
FROM qstreamd.prompt_templates WHERE name = $1::text
RETURNING version

-- name: environment_claim
INSERT INTO qstreamd.environment (name) VALUES ($1::text) ON CONFLICT DO NOTHING

-- name: environment
SELECT name FROM qstreamd.environment

-- name: task_list
-- For operators: newest first, by creation, without content. $1 states, $2 queue, $3 service, $4 user, $5 seconds back,
-- $6 created before (unix), $7 limit; null means any.
SELECT task_id, queue_id, service_id, user_id, model_id, state, attempt, failures, error_code,
       extract(epoch FROM created_at)::float8 AS created_at,
       extract(epoch FROM started_at)::float8 AS started_at,
       extract(epoch FROM finished_at)::float8 AS finished_at
FROM qstreamd.tasks
WHERE ($1::text[] IS NULL OR state = ANY ($1::text[]))
  AND ($2::text IS NULL OR queue_id = $2::text)
  AND ($3::text IS NULL OR service_id = $3::text)
  AND ($4::text IS NULL OR user_id = $4::text)
  AND ($5::float8 IS NULL OR created_at > now() - make_interval(secs => $5::float8))
  AND ($6::float8 IS NULL OR created_at < to_timestamp($6::float8))
ORDER BY created_at DESC
LIMIT $7::int

-- name: task_attempts
SELECT attempt, model_id, outcome, code,
       extract(epoch FROM started_at)::float8 AS started_at,
       extract(epoch FROM first_token_at)::float8 AS first_token_at,
       extract(epoch FROM finished_at)::float8 AS finished_at,
       (usage->>'outputTokens')::bigint AS output_tokens,
       (usage->>'costUsd')::float8 AS cost_usd
FROM qstreamd.attempts
WHERE task_id = $1::text
ORDER BY attempt

-- name: recent
-- $1 seconds back, $2 attempts at most: the newest, found by the index on started_at.
WITH latest AS (
    SELECT a.*, t.service_id, t.created_at, t.started_at AS task_started_at
    FROM qstreamd.attempts a JOIN qstreamd.tasks t USING (task_id)
    WHERE a.started_at > now() - make_interval(secs => $1::float8) AND a.outcome IS NOT NULL
    ORDER BY a.started_at DESC
    LIMIT $2::int
), counted AS (
    SELECT service_id, jsonb_object_agg(ended, n) AS outcomes
    FROM (SELECT service_id, coalesce(code, outcome) AS ended, count(*) AS n FROM latest GROUP BY 1, 2) c
    GROUP BY service_id
)
SELECT l.service_id, c.outcomes,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM l.task_started_at - l.created_at)::float8)
           FILTER (WHERE l.attempt = 1) AS wait_p50_s,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM l.task_started_at - l.created_at)::float8)
           FILTER (WHERE l.attempt = 1) AS wait_p95_s,
       (avg(extract(epoch FROM l.finished_at - l.started_at)) FILTER (WHERE l.outcome = 'done'))::float8 AS run_mean_s,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM l.finished_at - l.started_at)::float8)
           FILTER (WHERE l.outcome = 'done') AS run_p95_s,
       coalesce(sum(coalesce((l.usage->>'inputTokens')::bigint, 0) + coalesce((l.usage->>'outputTokens')::bigint, 0)), 0)::bigint AS tokens,
       sum((l.usage->>'costUsd')::float8) AS cost_usd
FROM latest l JOIN counted c USING (service_id)
GROUP BY l.service_id, c.outcomes
ORDER BY l.service_id

-- name: service_sums
-- $1 seconds back, $2 seconds that a task may take. A row for each service and one for all (service_id null): of the
-- tasks accepted in that time, with all their attempts.
WITH chosen AS MATERIALIZED (
    SELECT task_id, service_id, state, error_code,
           extract(epoch FROM started_at - created_at)::float8 AS wait_s,
           extract(epoch FROM finished_at - created_at)::float8 AS total_s
    FROM qstreamd.tasks
    WHERE created_at > now() - make_interval(secs => $1::float8)
), shortened AS (
    SELECT c.service_id, count(*) AS cut
    FROM chosen c JOIN qstreamd.results r USING (task_id)
    WHERE r.finish_reason = 'length' GROUP BY GROUPING SETS ((c.service_id), ())
), tried AS (
    SELECT c.service_id, a.outcome, a.code,
           coalesce((a.usage->>'inputTokens')::bigint, 0) AS input_tokens,
           coalesce((a.usage->>'cachedInputTokens')::bigint, 0) AS cached_input_tokens,
           coalesce((a.usage->>'outputTokens')::bigint, 0) AS output_tokens,
           (a.usage->>'costUsd')::float8 AS cost_usd
    FROM chosen c JOIN qstreamd.attempts a USING (task_id)
), spent AS (
    SELECT service_id, count(*) AS attempts, sum(input_tokens)::bigint AS input_tokens,
           sum(cached_input_tokens)::bigint AS cached_input_tokens, sum(output_tokens)::bigint AS output_tokens,
           sum(cost_usd) AS cost_usd
    FROM tried GROUP BY GROUPING SETS ((service_id), ())
), ends AS (
    SELECT service_id, jsonb_object_agg(error_code, n) AS failures
    FROM (SELECT service_id, coalesce(error_code, 'INTERNAL') AS error_code, count(*) AS n FROM chosen
          WHERE state IN ('failed', 'expired') GROUP BY GROUPING SETS ((service_id, 2), (2))) e
    GROUP BY service_id
), again AS (
    SELECT service_id, jsonb_object_agg(code, n) AS attempt_failures
    FROM (SELECT service_id, coalesce(code, 'WORKER_LOST') AS code, count(*) AS n FROM tried
          WHERE outcome IN ('failed', 'lost') GROUP BY GROUPING SETS ((service_id, 2), (2))) e
    GROUP BY service_id
), summed AS (
    SELECT service_id, count(*) AS tasks,
           count(*) FILTER (WHERE state = 'done') AS done,
           count(*) FILTER (WHERE state = 'failed') AS failed,
           count(*) FILTER (WHERE state = 'expired') AS expired,
           count(*) FILTER (WHERE state = 'cancelled') AS cancelled,
           count(*) FILTER (WHERE state IN ('queued', 'running', 'retrying')) AS open,
           count(*) FILTER (WHERE state = 'done' AND total_s <= $2::float8) AS in_time,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY wait_s) AS wait_p50_s,
           percentile_cont(0.95) WITHIN GROUP (ORDER BY wait_s) AS wait_p95_s,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY total_s) FILTER (WHERE state = 'done') AS total_p50_s,
           percentile_cont(0.95) WITHIN GROUP (ORDER BY total_s) FILTER (WHERE state = 'done') AS total_p95_s
    FROM chosen GROUP BY GROUPING SETS ((service_id), ())
)
SELECT s.*, coalesce(p.attempts, 0) AS attempts, coalesce(e.failures, '{}') AS failures,
       coalesce(g.attempt_failures, '{}') AS attempt_failures,
       coalesce(p.input_tokens, 0) AS input_tokens, coalesce(p.cached_input_tokens, 0) AS cached_input_tokens,
       coalesce(p.output_tokens, 0) AS output_tokens, p.cost_usd, coalesce(x.cut, 0) AS cut
FROM summed s
LEFT JOIN shortened x ON x.service_id IS NOT DISTINCT FROM s.service_id
LEFT JOIN spent p ON p.service_id IS NOT DISTINCT FROM s.service_id
LEFT JOIN ends e ON e.service_id IS NOT DISTINCT FROM s.service_id
LEFT JOIN again g ON g.service_id IS NOT DISTINCT FROM s.service_id
ORDER BY s.service_id NULLS LAST

-- name: server_facts
SELECT current_setting('server_version_num')::int AS version_num,
       pg_is_in_recovery() AS standby,
       current_setting('default_transaction_read_only') AS read_only,
       current_setting('fsync') AS fsync,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('max_connections')::int AS max_connections,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
       extract(epoch FROM clock_timestamp())::float8 AS now

-- name: template_refs
SELECT name AS ref FROM qstreamd.prompt_templates
UNION
SELECT name || '@' || version FROM qstreamd.prompt_templates
