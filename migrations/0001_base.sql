-- The base: who may do what (users, api_keys), what exists (sandboxes), what happened
-- (events, sandbox_executions), and who works here (workers).
--
-- Names carry the schema, so that no search_path can lead anywhere else. Ranges are the hard ones
-- of the product; the narrower ones that an operator or an issue may change are the server's.

CREATE TABLE public.meta (
    key   text PRIMARY KEY,
    value text NOT NULL
);
-- The installation's id: a letter and 19 hexadecimal digits of a random UUID.
INSERT INTO public.meta (key, value)
VALUES ('cluster', 'c' || substr(replace(gen_random_uuid()::text, '-', ''), 1, 19));

CREATE TABLE public.users (
    id          text        PRIMARY KEY CHECK (id ~ '^[a-z][a-z0-9]{19}$'),
    name        text        NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 128),
    role        text        NOT NULL CHECK (role IN ('user', 'admin')),
    created_at  timestamptz NOT NULL DEFAULT now(),
    disabled_at timestamptz
);

-- A key is stored as its keyed hash only; the prefix is for people to recognise it.
CREATE TABLE public.api_keys (
    id         text        PRIMARY KEY CHECK (id ~ '^[a-z][a-z0-9]{19}$'),
    user_id    text        NOT NULL REFERENCES public.users (id) ON DELETE CASCADE,
    name       text        NOT NULL CHECK (length(name) BETWEEN 1 AND 128),
    prefix     text        NOT NULL CHECK (length(prefix) <= 16),
    hash       bytea       NOT NULL UNIQUE CHECK (length(hash) = 32),
    scopes     text        NOT NULL CHECK (length(scopes) BETWEEN 1 AND 255),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz
);
CREATE INDEX api_keys_user ON public.api_keys (user_id);

-- A worker is alive while its heartbeat is younger than 10 seconds.
CREATE TABLE public.workers (
    id           text        PRIMARY KEY CHECK (id ~ '^[a-z][a-z0-9]{19}$'),
    alone        boolean     NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE public.sandboxes (
    id               text        PRIMARY KEY CHECK (id ~ '^[a-z][a-z0-9]{19}$'),
    owner            text        NOT NULL REFERENCES public.users (id),
    worker           text,                 -- who holds the channel; rows of workers come and go
    name             text        CHECK (length(name) <= 128),
    template         text        CHECK (length(template) <= 128), -- NULL: made from an image
    image            text        NOT NULL CHECK (length(image) BETWEEN 1 AND 255),
    state            text        NOT NULL CHECK (state IN (
        'creating', 'running', 'pausing', 'paused', 'resuming', 'stopping', 'stopped',
        'starting', 'deleting', 'deleted', 'failed')),
    reason           json,                 -- stateReason
    size             text        NOT NULL CHECK (size IN (
        'nano', 'small', 'medium', 'large', 'xlarge')),
    cpu_milli        bigint      NOT NULL CHECK (cpu_milli BETWEEN 10 AND 1024000),
    memory_mb        bigint      NOT NULL CHECK (memory_mb BETWEEN 6 AND 16777216),
    pids             bigint      NOT NULL CHECK (pids BETWEEN 1 AND 4194304),
    disk_mb          bigint      NOT NULL DEFAULT 0 CHECK (disk_mb >= 0), -- 0: not set
    network          text        NOT NULL CHECK (network IN ('open', 'none', 'allowlist')),
    metadata         jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    env_names        json        NOT NULL DEFAULT '[]',
    env_sealed       bytea,                -- encrypted by the server; removed with the sandbox
    command          json,
    timeout_s        bigint      NOT NULL CHECK (timeout_s BETWEEN 1 AND 86400),
    idle_timeout_s   bigint      NOT NULL CHECK (idle_timeout_s BETWEEN 0 AND 86400), -- 0: none
    on_timeout       text        NOT NULL CHECK (on_timeout IN ('delete', 'pause', 'stop')),
    on_idle          text        NOT NULL CHECK (on_idle IN ('delete', 'pause', 'stop')),
    created_at       timestamptz NOT NULL DEFAULT now(),
    started_at       timestamptz,
    last_active_at   timestamptz NOT NULL DEFAULT now(),
    expires_at       timestamptz,
    state_changed_at timestamptz NOT NULL DEFAULT now(),
    deadline_at      timestamptz,          -- of a transitional state
    container_id     text        CHECK (length(container_id) <= 64),
    token            bytea       NOT NULL CHECK (length(token) = 16),
    epoch            bigint      NOT NULL DEFAULT 0,
    change           bigint      NOT NULL DEFAULT 0, -- random number of the last change of state
    image_user       text        CHECK (length(image_user) <= 255),
    runtime          text        NOT NULL DEFAULT '' CHECK (length(runtime) <= 31),
    host             text        NOT NULL DEFAULT '' CHECK (length(host) <= 63)
) WITH (fillfactor = 80); -- room for the frequent update of last_active_at beside its row

CREATE INDEX sandboxes_owner ON public.sandboxes (owner, created_at DESC, id DESC);
CREATE INDEX sandboxes_newest ON public.sandboxes (created_at DESC, id DESC);
CREATE INDEX sandboxes_state ON public.sandboxes (state);
CREATE INDEX sandboxes_expiry ON public.sandboxes (expires_at)
    WHERE state IN ('running', 'paused');
CREATE INDEX sandboxes_transitional ON public.sandboxes (deadline_at)
    WHERE state IN ('creating', 'pausing', 'resuming', 'stopping', 'starting', 'deleting');
CREATE INDEX sandboxes_deleted ON public.sandboxes (state_changed_at) WHERE state = 'deleted';
CREATE INDEX sandboxes_metadata ON public.sandboxes USING gin (metadata jsonb_path_ops);

CREATE TABLE public.sandbox_executions (
    id          text        PRIMARY KEY CHECK (id ~ '^[a-z][a-z0-9]{19}$'),
    sandbox     text        NOT NULL REFERENCES public.sandboxes (id) ON DELETE CASCADE,
    owner       text        NOT NULL,
    kind        text        NOT NULL CHECK (kind IN ('exec', 'run', 'main')),
    command     json        NOT NULL,
    started_at  timestamptz NOT NULL,
    duration_ms bigint      NOT NULL CHECK (duration_ms >= 0),
    exit_code   integer     CHECK (exit_code BETWEEN 0 AND 255),
    signal      integer     CHECK (signal BETWEEN 1 AND 127),
    timed_out   boolean     NOT NULL,
    oom_killed  boolean     NOT NULL,
    truncated   boolean     NOT NULL,
    error       text        NOT NULL DEFAULT '' CHECK (length(error) <= 63)
);
CREATE INDEX sandbox_executions_sandbox
    ON public.sandbox_executions (sandbox, started_at DESC, id DESC);

-- Numbers rise with each event; a gap means nothing (a statement that was rolled back).
CREATE TABLE public.events (
    seq     bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner   text        NOT NULL,
    sandbox text,
    type    text        NOT NULL CHECK (length(type) BETWEEN 1 AND 64),
    data    json        NOT NULL,
    at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX events_owner ON public.events (owner, seq);
CREATE INDEX events_sandbox ON public.events (sandbox, seq);
