-- Tiers say what a user may use: NULL is no limit. Prices say what a running sandbox costs. Both
-- are for administrators to change.

CREATE TABLE public.tiers (
    name       text   PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9-]{0,31}$'),
    position   bigint NOT NULL, -- in lists
    executions bigint CHECK (executions >= 0), -- runs of code in a calendar month, UTC
    compute_s  bigint CHECK (compute_s >= 0),  -- time of running sandboxes in such a month
    longest_s  bigint CHECK (longest_s >= 1),  -- of a sandbox, from a start or resume to its end
    concurrent bigint CHECK (concurrent >= 0)  -- sandboxes at once
);
INSERT INTO public.tiers (name, position, executions, compute_s, longest_s, concurrent) VALUES
    ('free', 1, 50, 2 * 3600, 45 * 60, 5),
    ('pro', 2, 500, 25 * 3600, 5 * 3600, 5),
    ('premium', 3, 2000, 100 * 3600, 5 * 3600, 5),
    ('enterprise', 4, NULL, NULL, NULL, NULL);

-- Whoever is there already has no limits, so that an upgrade stops nobody's work.
ALTER TABLE public.users
    ADD COLUMN tier text NOT NULL DEFAULT 'enterprise' REFERENCES public.tiers (name);
ALTER TABLE public.users ALTER COLUMN tier SET DEFAULT 'free';

-- In millionths of the currency an hour. A sandbox has the price of the first size that holds its
-- CPU and its memory.
CREATE TABLE public.prices (
    size          text   PRIMARY KEY CHECK (size IN ('nano', 'small', 'medium', 'large', 'xlarge')),
    cpu_milli     bigint NOT NULL,
    memory_mb     bigint NOT NULL,
    micros        bigint NOT NULL CHECK (micros BETWEEN 0 AND 1000000000),
    paused_micros bigint NOT NULL CHECK (paused_micros BETWEEN 0 AND 1000000000)
);
INSERT INTO public.prices (size, cpu_milli, memory_mb, micros, paused_micros) VALUES
    ('nano', 500, 256, 100000, 10000),
    ('small', 1000, 512, 200000, 20000),
    ('medium', 2000, 1024, 400000, 40000),
    ('large', 4000, 2048, 800000, 80000),
    ('xlarge', 4000, 4096, 1600000, 160000);
