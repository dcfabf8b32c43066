-- What was answered to a request that carried an Idempotency-Key, or who is at it. The row is
-- written before anything is made, with the id that it will have.

CREATE TABLE public.idempotency_keys (
    owner       text        NOT NULL,
    key         text        NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    fingerprint bytea       NOT NULL CHECK (length(fingerprint) = 32), -- hash of the request
    worker      text        NOT NULL,
    resource    text        NOT NULL,     -- id of what is made
    begun       boolean     NOT NULL DEFAULT false, -- the intent to make it was written, too
    status      integer     CHECK (status BETWEEN 200 AND 499), -- NULL: no answer yet
    location    text,
    answer      bytea,                    -- sealed by the server
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (owner, key)
);
CREATE INDEX idempotency_keys_age ON public.idempotency_keys (created_at);
