-- Named sets of sandboxes. A member that is deleted is not shown from then on, and leaves with its
-- row.

CREATE TABLE public.groups (
    id         text        PRIMARY KEY CHECK (id ~ '^[a-z][a-z0-9]{19}$'),
    owner      text        NOT NULL REFERENCES public.users (id),
    name       text        NOT NULL CHECK (length(name) BETWEEN 1 AND 128),
    metadata   jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    version    bigint      NOT NULL DEFAULT 1,  -- counts changes
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX groups_newest ON public.groups (owner, created_at DESC, id DESC);

CREATE TABLE public.group_members (
    group_id text   NOT NULL REFERENCES public.groups (id) ON DELETE CASCADE,
    sandbox  text   NOT NULL REFERENCES public.sandboxes (id) ON DELETE CASCADE,
    position bigint GENERATED ALWAYS AS IDENTITY, -- members are told in the order in which they came
    PRIMARY KEY (group_id, sandbox)
);
CREATE INDEX group_members_sandbox ON public.group_members (sandbox);

-- Another worker than its holder starts a process in the container: until then it is not paused,
-- since an engine that does both at once may never finish either.
ALTER TABLE public.sandboxes ADD COLUMN awake_until timestamptz;

-- Requests that may simply be run again under the same id, and then complete what was begun.
ALTER TABLE public.idempotency_keys
    ADD COLUMN rerun boolean NOT NULL DEFAULT false,
    ADD COLUMN taken text; -- the number of the request that took it over from a dead worker
