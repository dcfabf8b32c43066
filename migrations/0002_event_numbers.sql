-- Events are numbered per owner, without gaps and in the order in which they become visible, so
-- that whoever has read up to a number has missed nothing. The row of the counter is locked by the
-- statement that writes the event, until it commits.

CREATE TABLE public.event_counters (
    owner text   PRIMARY KEY,
    last  bigint NOT NULL CHECK (last >= 0)
) WITH (fillfactor = 50); -- room for the frequent update beside its row

ALTER TABLE public.events RENAME TO old_events;

CREATE TABLE public.events (
    owner   text        NOT NULL,
    seq     bigint      NOT NULL CHECK (seq > 0),
    sandbox text,
    type    text        NOT NULL CHECK (length(type) BETWEEN 1 AND 64),
    data    json        NOT NULL,
    at      timestamptz NOT NULL DEFAULT now()
);

INSERT INTO public.events (owner, seq, sandbox, type, data, at)
SELECT owner, row_number() OVER (PARTITION BY owner ORDER BY seq), sandbox, type, data, at
FROM public.old_events;

INSERT INTO public.event_counters (owner, last)
SELECT owner, max(seq) FROM public.events GROUP BY owner;

DROP TABLE public.old_events;

ALTER TABLE public.events ADD PRIMARY KEY (owner, seq);
CREATE INDEX events_sandbox ON public.events (owner, sandbox, seq);
CREATE INDEX events_age ON public.events USING brin (at);
