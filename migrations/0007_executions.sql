-- What is told of a command beside its end. NULL: not known (commands of an older agent).
ALTER TABLE public.sandbox_executions
    ADD COLUMN cpu_ms     bigint  CHECK (cpu_ms >= 0),
    ADD COLUMN peak_kb    bigint  CHECK (peak_kb >= 0),
    ADD COLUMN chunks     bigint  CHECK (chunks >= 0), -- numbered pieces of output that it had
    ADD COLUMN cpu_limit  boolean NOT NULL DEFAULT false,
    ADD COLUMN background boolean NOT NULL DEFAULT false,
    ADD COLUMN terminal   boolean NOT NULL DEFAULT false;
