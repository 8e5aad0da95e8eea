-- The ledger: tasks, attempts, results; templates, audit, environment; the view that a deployment redefines.
-- Plain SQL for Postgres 15 and later: no extension, no uuidv7, no superuser.

CREATE TABLE qstreamd.tasks (
    task_id      text PRIMARY KEY,
    queue_id     text NOT NULL,
    entry_id     text NOT NULL,               -- the entry that holds the task: tasks/{id} or ready/{id}
    service_id   text NOT NULL,
    user_id      text NOT NULL,
    tier         text CHECK (tier IN ('paid', 'free')),
    model_id     text,
    job_id       text,
    refs         jsonb,
    request_id   text,
    trace_id     text,
    state        text NOT NULL
                 CHECK (state IN ('queued', 'running', 'retrying', 'done', 'failed', 'cancelled', 'expired')),
    attempt      integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),    -- claims so far: the fence, never falls
    failures     integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
    crashes      integer NOT NULL DEFAULT 0 CHECK (crashes >= 0),
    owner        text,
    heartbeat_at timestamptz NOT NULL DEFAULT now(),                 -- last sign of life: claim, beat or leaving
    message      jsonb NOT NULL,                                     -- without image bytes
    body_sha256  text NOT NULL,
    error_code   text,
    created_at   timestamptz NOT NULL DEFAULT now(),                 -- accepted by the relay
    started_at   timestamptz,                                        -- first claim
    finished_at  timestamptz
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

-- No index holds heartbeat_at, so that a beat is a heap-only update; the rows that live are few and filtered by hand.
CREATE INDEX tasks_active ON qstreamd.tasks (queue_id, created_at) WHERE state IN ('queued', 'running', 'retrying');
CREATE INDEX tasks_stopped ON qstreamd.tasks (queue_id, finished_at DESC) WHERE state IN ('failed', 'expired');
CREATE INDEX tasks_user ON qstreamd.tasks (user_id, created_at DESC);
CREATE INDEX tasks_created ON qstreamd.tasks (created_at DESC);

CREATE TABLE qstreamd.attempts (
    task_id        text NOT NULL REFERENCES qstreamd.tasks ON DELETE CASCADE,
    attempt        integer NOT NULL,
    model_id       text,
    started_at     timestamptz NOT NULL DEFAULT now(),
    first_token_at timestamptz,
    finished_at    timestamptz,
    outcome        text,          -- null: running; done, failed, deferred, handed_back, interrupted, cancelled, expired, lost
    code           text,
    usage          jsonb,
    PRIMARY KEY (task_id, attempt)
) WITH (fillfactor = 80);
CREATE INDEX attempts_started ON qstreamd.attempts (started_at DESC);

CREATE TABLE qstreamd.results (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id        text NOT NULL UNIQUE REFERENCES qstreamd.tasks ON DELETE CASCADE,
    attempt        integer NOT NULL,
    content        text NOT NULL,
    data           jsonb,
    content_sha256 text NOT NULL,
    model_id       text,
    usage          jsonb NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE qstreamd.prompt_templates (
    name          text NOT NULL CHECK (name <> '' AND name NOT LIKE '%@%'),
    version       integer NOT NULL CHECK (version > 0),
    system        text,                                        -- null: the service's own
    prompt        text NOT NULL,
    output        text CHECK (output IN ('text', 'json')),     -- null: as the service says
    output_schema jsonb,                                       -- null: as the service says
    note          text NOT NULL DEFAULT '',
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, version)
);

-- A version is cached for ever by every process: it may be deleted, never changed.
CREATE FUNCTION qstreamd.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'template %@% can''t be changed: insert version % instead', OLD.name, OLD.version, OLD.version + 1
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER prompt_templates_immutable BEFORE UPDATE ON qstreamd.prompt_templates
    FOR EACH ROW EXECUTE FUNCTION qstreamd.refuse_change();

CREATE TABLE qstreamd.audit_log (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    actor      text NOT NULL,
    role       text,
    ip         text,
    action     text NOT NULL,
    target     text NOT NULL,
    params     jsonb,               -- free of secrets and prompts
    reason     text,
    result     text,
    request_id text
);
CREATE INDEX audit_log_at ON qstreamd.audit_log (at DESC);
CREATE INDEX audit_log_target ON qstreamd.audit_log (target, at DESC);

-- Which NODE_ENV owns this database: one row at most.
CREATE TABLE qstreamd.environment (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    name       text NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT now()
);

-- The input of ID-first tasks. Empty until a deployment replaces it over its own tables (docs/guides/task-context.md);
-- no later migration may touch it.
CREATE VIEW qstreamd.task_context AS
SELECT NULL::text  AS task_id,
       NULL::text  AS job_id,
       NULL::jsonb AS refs,
       NULL::text  AS service_id,
       NULL::text  AS user_id,
       NULL::text  AS template_id,
       NULL::jsonb AS variables,
       NULL::jsonb AS images
WHERE false;
