-- Runs of code: what is told of one beside its end, and whose sandbox it has to itself.

ALTER TABLE public.sandbox_executions
    ADD COLUMN runtime  text CHECK (length(runtime) BETWEEN 1 AND 64), -- NULL: no run
    ADD COLUMN packages json;                                          -- NULL: none

-- The sandbox of a one-shot run: the id of its execution, and the worker whose request it is, until
-- nobody follows it any more.
ALTER TABLE public.sandboxes
    ADD COLUMN run        text CHECK (run ~ '^[a-z][a-z0-9]{19}$'),
    ADD COLUMN run_worker text;
CREATE INDEX sandboxes_runs ON public.sandboxes (run_worker)
    WHERE run_worker IS NOT NULL AND state NOT IN ('deleting', 'deleted');
