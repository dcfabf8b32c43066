-- How the limit of a sandbox's disk is kept: by the engine's storage driver, or by looking at it.

ALTER TABLE public.sandboxes
    ADD COLUMN disk_limit text NOT NULL DEFAULT 'none'
        CHECK (disk_limit IN ('none', 'enforced', 'watched'));

CREATE INDEX sandboxes_watched ON public.sandboxes (worker)
    WHERE disk_limit = 'watched' AND state = 'running';
