-- Moves of several steps, changes of a sandbox that exists, and the numbers of its log.
ALTER TABLE public.sandboxes
    -- What a stop is on the way to: 'start' the same container again, or a 'fresh' one.
    ADD COLUMN goal          text        CHECK (goal IN ('start', 'fresh')),
    ADD COLUMN log_seq       bigint      NOT NULL DEFAULT 0, -- the log goes on behind it
    ADD COLUMN version       bigint      NOT NULL DEFAULT 0, -- counts changes by the owner
    ADD COLUMN env_version   bigint      NOT NULL DEFAULT 0, -- counts changes of env
    -- Until then the limits of row and container may differ; whoever finds it passed compares.
    ADD COLUMN limits_due_at timestamptz;

CREATE INDEX sandboxes_limits ON public.sandboxes (limits_due_at) WHERE limits_due_at IS NOT NULL;
