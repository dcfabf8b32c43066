-- Packages of runs: volumes with what an installer has put there, and what was asked for.

-- What was asked for, by its hash, and the set that answers it.
CREATE TABLE public.package_requests (
    owner    text        NOT NULL,
    request  bytea       NOT NULL CHECK (length(request) = 32),
    set_id   text        NOT NULL,
    state    text        NOT NULL CHECK (state IN ('installing', 'sealed', 'failed')),
    worker   text        NOT NULL,
    until_at timestamptz NOT NULL, -- the installation's deadline; when names are looked up anew;
                                   -- how long a failure is answered again
    code     text,                 -- of a failure, with its message and the last output
    error    text,
    output   text,
    PRIMARY KEY (owner, request)
);
CREATE INDEX package_requests_set ON public.package_requests (set_id);
CREATE INDEX package_requests_age ON public.package_requests (until_at);

-- A volume, from before it exists until after it is removed. `removing`: nobody may begin to use it.
CREATE TABLE public.package_sets (
    id          text        PRIMARY KEY CHECK (id ~ '^[a-z][a-z0-9]{19}$'),
    owner       text        NOT NULL,
    installer   text        NOT NULL CHECK (installer IN ('pip', 'npm')),
    state       text        NOT NULL CHECK (state IN ('installing', 'sealed', 'removing')),
    worker      text        NOT NULL,
    sandbox     text,                 -- that writes to it, or looks at it
    deadline_at timestamptz NOT NULL, -- of the installation
    key         bytea       CHECK (length(key) = 32), -- image, index, and all that was installed
    installed   json,
    size_bytes  bigint      NOT NULL DEFAULT 0 CHECK (size_bytes >= 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    used_at     timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX package_sets_key ON public.package_sets (owner, key) WHERE state = 'sealed';
CREATE INDEX package_sets_unfinished ON public.package_sets (state) WHERE state <> 'sealed';
