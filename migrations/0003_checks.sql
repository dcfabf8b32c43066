-- Readiness and health of sandboxes: what was asked for, and what is known of the health. Readiness
-- needs no column of its own: a sandbox that runs was found ready.
ALTER TABLE public.sandboxes
    ADD COLUMN readiness    json,  -- as in the request, defaults filled in; NULL: none
    ADD COLUMN health       json,  -- the same
    ADD COLUMN health_state json;  -- status, failures, checkedAt, message; NULL: not checked yet
