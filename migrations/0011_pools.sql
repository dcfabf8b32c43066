-- Pools: sandboxes that were started before anybody asked for them. They are rows like all others,
-- of an owner whom no key can belong to, until a create takes one over.
INSERT INTO public.users (id, name, role, disabled_at)
VALUES ('pool0000000000000000', 'sandboxd: pools', 'user', now());

ALTER TABLE public.sandboxes
    -- While it waits: a hash of what it was made from, a colon, and the key of its pool.
    ADD COLUMN pool text CHECK (length(pool) <= 160),
    ADD COLUMN warm boolean NOT NULL DEFAULT false; -- it came from a pool

CREATE INDEX sandboxes_pool ON public.sandboxes (pool)
    WHERE pool IS NOT NULL AND state NOT IN ('deleted', 'failed');

CREATE TABLE public.pools (
    key       text             PRIMARY KEY CHECK (length(key) <= 128), -- size/network/template
    template  text             NOT NULL,
    size      text             NOT NULL,
    network   text             NOT NULL,
    min       bigint           NOT NULL CHECK (min >= 0),
    max       bigint           NOT NULL CHECK (max >= min),
    option    text,            -- what the servers' option said; NULL: made by a request
    hits      bigint           NOT NULL DEFAULT 0,
    misses    bigint           NOT NULL DEFAULT 0,
    recent    double precision NOT NULL DEFAULT 0, -- creates, each fading by 1/e in a minute
    recent_at timestamptz      NOT NULL DEFAULT now(),
    fill_ms   bigint           NOT NULL DEFAULT 0, -- mean of the last ones
    error     text             -- of the last start for the pool; NULL: it succeeded
);
