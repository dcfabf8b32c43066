-- Tickets: what a browser presents where it cannot send a header. Only the keyed hash is stored.

CREATE TABLE public.tickets (
    hash       bytea       PRIMARY KEY CHECK (length(hash) = 32),
    key        text        NOT NULL REFERENCES public.api_keys (id) ON DELETE CASCADE,
    method     text        NOT NULL CHECK (length(method) BETWEEN 1 AND 16),
    path       text        NOT NULL CHECK (length(path) BETWEEN 1 AND 8192),
    used       text        NOT NULL DEFAULT '' CHECK (used IN ('', 'once', 'stream')),
    use        bigint,     -- random number of the last use: tells a repeated statement
    expires_at timestamptz NOT NULL
);
CREATE INDEX tickets_unused ON public.tickets (key, expires_at) WHERE used = '';
CREATE INDEX tickets_expiry ON public.tickets (expires_at);
