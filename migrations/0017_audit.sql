-- Who did what: one row for each request that changed something, or was refused. Rows are added and,
-- when they are old enough, removed; nothing ever changes one.

CREATE TABLE public.audit (
    id         text        PRIMARY KEY CHECK (id ~ '^[a-z][a-z0-9]{19}$'),
    at         timestamptz NOT NULL,
    request_id text        CHECK (length(request_id) <= 64),
    actor      text,                     -- who did it: a user; the row outlives him, and the key
    key_id     text,
    address    text        CHECK (length(address) <= 64),
    method     text        CHECK (length(method) <= 8),
    action     text        NOT NULL CHECK (length(action) BETWEEN 1 AND 64),
    object     text        CHECK (length(object) <= 64),
    part       text        CHECK (length(part) <= 64),
    status     integer,                  -- NULL: no request, the server itself
    code       text        CHECK (length(code) <= 64),
    count      bigint      NOT NULL DEFAULT 1 CHECK (count > 0)
);
CREATE INDEX audit_newest ON public.audit (at DESC, id DESC);
CREATE INDEX audit_actor ON public.audit (actor, at DESC);
CREATE INDEX audit_key ON public.audit (key_id, at DESC);
CREATE INDEX audit_object ON public.audit (object, at DESC) WHERE object IS NOT NULL;

-- The removal of old rows says for how many days they are kept, within its transaction; what is
-- younger than that, or than a day, stays whoever asks.
CREATE FUNCTION public.audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND OLD.at < now() - make_interval(days => greatest(1,
        nullif(current_setting('sandboxd.audit_days', true), '')::integer))
        AND nullif(current_setting('sandboxd.audit_days', true), '') IS NOT NULL THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_rows BEFORE UPDATE OR DELETE ON public.audit
    FOR EACH ROW EXECUTE FUNCTION public.audit_append_only();
CREATE TRIGGER audit_whole BEFORE TRUNCATE ON public.audit
    FOR EACH STATEMENT EXECUTE FUNCTION public.audit_append_only();
