-- A command that has not ended has a record, too: without a duration.
ALTER TABLE public.sandbox_executions ALTER COLUMN duration_ms DROP NOT NULL;

CREATE INDEX sandbox_executions_running
    ON public.sandbox_executions (sandbox) WHERE duration_ms IS NULL;
