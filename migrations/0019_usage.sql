-- What users have used, and the limits of their tiers.
--
-- Triggers, because a row of `sandboxes` is changed by many statements and each of these changes is
-- of account: in one place, and committed with the change. A volatile function looks at what is
-- committed by now, where the statement that fires it sees what was there when it began: so whoever
-- counts behind a lock on the user's row counts what others have made before.

ALTER TABLE public.users
    ADD COLUMN spending_limit bigint CHECK (spending_limit >= 0), -- millionths a month; NULL: none
    ADD COLUMN hard_stop      boolean NOT NULL DEFAULT false;     -- and nothing runs beyond it

ALTER TABLE public.sandboxes
    ADD COLUMN metered_at    timestamptz,  -- what was used before is in `usage`; NULL: uses nothing
    ADD COLUMN running_since timestamptz;  -- without a pause

UPDATE public.sandboxes SET metered_at = date_trunc('milliseconds', now()), running_since = now()
WHERE pool IS NULL AND state IN ('running', 'pausing', 'paused', 'resuming', 'stopping');

-- Those that count as there, of their owner.
CREATE INDEX sandboxes_held ON public.sandboxes (owner) WHERE pool IS NULL AND state IN
    ('creating', 'running', 'pausing', 'paused', 'resuming', 'stopping', 'starting');

-- Of a sandbox and a day (UTC). It outlives the sandbox.
CREATE TABLE public.usage (
    sandbox    text   NOT NULL,
    day        date   NOT NULL,
    owner      text   NOT NULL,
    template   text,             -- NULL: made from an image
    running_ms bigint NOT NULL DEFAULT 0 CHECK (running_ms >= 0),
    paused_ms  bigint NOT NULL DEFAULT 0 CHECK (paused_ms >= 0),
    cost       bigint NOT NULL DEFAULT 0, -- prices (an hour) times milliseconds: never rounded
    PRIMARY KEY (sandbox, day)
) WITH (fillfactor = 70);
CREATE INDEX usage_owner ON public.usage (owner, day);

-- Runs of code that count: from before they begin. One that came to nothing is removed.
CREATE TABLE public.usage_runs (
    id          text        PRIMARY KEY, -- of the execution
    owner       text        NOT NULL,
    sandbox     text        NOT NULL,
    template    text,
    day         date        NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    worker      text,                   -- whose request it is
    runtime     text,
    packages    json,
    done        boolean     NOT NULL,
    duration_ms bigint      NOT NULL DEFAULT 0
);
CREATE INDEX usage_runs_owner ON public.usage_runs (owner, day);
CREATE INDEX usage_runs_open ON public.usage_runs (at) WHERE NOT done;

-- Alerts that were told: once in a month.
CREATE TABLE public.spending_alerts (
    owner   text   NOT NULL,
    month   date   NOT NULL,
    percent bigint NOT NULL,
    PRIMARY KEY (owner, month, percent)
);

-- --- reading ---

CREATE FUNCTION public.usage_month() RETURNS date LANGUAGE sql STABLE AS
$$ SELECT date_trunc('month', now() AT TIME ZONE 'UTC')::date $$;

-- When the month's limits begin anew.
CREATE FUNCTION public.usage_reset() RETURNS timestamptz LANGUAGE sql STABLE AS
$$ SELECT (public.usage_month() + interval '1 month') AT TIME ZONE 'UTC' $$;

-- What an hour costs: as the first size that holds it.
CREATE FUNCTION public.usage_price(cpu bigint, memory bigint, paused boolean) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN paused THEN p.paused_micros ELSE p.micros END FROM public.prices p
    ORDER BY p.cpu_milli < cpu OR p.memory_mb < memory,
        CASE WHEN p.cpu_milli < cpu OR p.memory_mb < memory THEN -1 ELSE 1 END * p.cpu_milli,
        CASE WHEN p.cpu_milli < cpu OR p.memory_mb < memory THEN -1 ELSE 1 END * p.memory_mb
    LIMIT 1
$$;

-- A time, by days.
CREATE FUNCTION public.usage_days(since timestamptz, until timestamptz)
RETURNS TABLE (day date, ms bigint) LANGUAGE sql STABLE AS $$
    SELECT d::date, (extract(epoch FROM least(until AT TIME ZONE 'UTC', d + interval '1 day')
        - greatest(since AT TIME ZONE 'UTC', d)) * 1000)::bigint
    FROM generate_series(date_trunc('day', since AT TIME ZONE 'UTC'), until AT TIME ZONE 'UTC',
        interval '1 day') d
    WHERE until > since
$$;

-- All of a user's, with what is not metered yet.
CREATE FUNCTION public.usage_all(who text)
RETURNS TABLE (sandbox text, day date, template text, running_ms bigint, paused_ms bigint,
               cost bigint)
LANGUAGE sql STABLE AS $$
    SELECT u.sandbox, u.day, u.template, u.running_ms, u.paused_ms, u.cost
    FROM public.usage u WHERE u.owner = who
    UNION ALL
    SELECT s.id, d.day, s.template, CASE WHEN p.paused THEN 0 ELSE d.ms END,
        CASE WHEN p.paused THEN d.ms ELSE 0 END,
        d.ms * public.usage_price(s.cpu_milli, s.memory_mb, p.paused)
    FROM public.sandboxes s, LATERAL (SELECT s.state IN ('paused', 'resuming')) p (paused),
        LATERAL public.usage_days(s.metered_at, date_trunc('milliseconds', now())) d
    WHERE s.owner = who AND s.pool IS NULL AND s.metered_at IS NOT NULL AND s.state IN
        ('creating', 'running', 'pausing', 'paused', 'resuming', 'stopping', 'starting')
$$;

-- The same of this month, added up.
CREATE FUNCTION public.usage_now(who text, OUT running_ms bigint, OUT paused_ms bigint,
                                 OUT cost numeric)
LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(a.running_ms), 0)::bigint, coalesce(sum(a.paused_ms), 0)::bigint,
        coalesce(sum(a.cost), 0)
    FROM public.usage_all(who) a WHERE a.day >= public.usage_month()
$$;

-- --- limits ---

-- The server reads the detail: what, how much it is, how much is used, when it begins anew (Unix
-- time, 0: never).
CREATE FUNCTION public.quota_refuse(what text, most bigint, used bigint, monthly boolean)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a limit of the user is reached' USING ERRCODE = 'SBXQ1',
        DETAIL = format('%s %s %s %s', what, most, used, CASE WHEN monthly
            THEN extract(epoch FROM public.usage_reset())::bigint ELSE 0 END);
END $$;

-- A run is about to begin. Asking twice is asking once.
CREATE FUNCTION public.quota_run(run_id text, who text, box text, of_template text, how text,
                                 by_worker text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    most bigint;
    used bigint;
BEGIN
    SELECT t.executions INTO most FROM public.users u JOIN public.tiers t ON t.name = u.tier
    WHERE u.id = who;
    IF most IS NOT NULL THEN
        PERFORM 1 FROM public.users WHERE id = who FOR NO KEY UPDATE;
        SELECT count(*) INTO used FROM public.usage_runs
        WHERE owner = who AND day >= public.usage_month() AND id <> run_id;
        IF used >= most THEN
            PERFORM public.quota_refuse('executions', most, used, true);
        END IF;
    END IF;
    INSERT INTO public.usage_runs (id, owner, sandbox, template, day, worker, runtime, done)
    VALUES (run_id, who, box, of_template, (now() AT TIME ZONE 'UTC')::date, by_worker, how, false)
    ON CONFLICT (id) DO NOTHING;
END $$;

-- The end of a run, or its being heard of: it counts if anything of it has run.
CREATE FUNCTION public.usage_of_run() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.error <> '' AND NEW.error <> 'lost' AND NEW.exit_code IS NULL AND NEW.signal IS NULL
        AND NOT NEW.timed_out AND NOT NEW.oom_killed THEN
        DELETE FROM public.usage_runs WHERE id = NEW.id;
        RETURN NULL;
    END IF;
    INSERT INTO public.usage_runs AS u
        (id, owner, sandbox, template, day, runtime, packages, done, duration_ms)
    SELECT NEW.id, NEW.owner, NEW.sandbox, s.template, (NEW.started_at AT TIME ZONE 'UTC')::date,
        NEW.runtime, NEW.packages, NEW.duration_ms IS NOT NULL, coalesce(NEW.duration_ms, 0)
    FROM (SELECT 1) one LEFT JOIN public.sandboxes s ON s.id = NEW.sandbox
    ON CONFLICT (id) DO UPDATE SET done = excluded.done, duration_ms = excluded.duration_ms,
        runtime = coalesce(excluded.runtime, u.runtime),
        packages = coalesce(excluded.packages, u.packages);
    RETURN NULL;
END $$;

CREATE TRIGGER usage_of_run AFTER INSERT OR UPDATE ON public.sandbox_executions
    FOR EACH ROW WHEN (NEW.kind = 'run') EXECUTE FUNCTION public.usage_of_run();

-- A sandbox is made, taken out of a pool, started, resumed, or is to live longer.
CREATE FUNCTION public.sandbox_quota() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    l    record;
    used record;
    n    bigint;
    made boolean := TG_OP = 'INSERT';
    back boolean := false; -- it is there already
BEGIN
    IF NOT made THEN
        made := OLD.pool IS NOT NULL;
        back := NOT made AND OLD.state NOT IN ('stopped', 'failed');
    END IF;
    SELECT t.*, u.spending_limit, u.hard_stop AND u.spending_limit IS NOT NULL AS stops INTO l
    FROM public.users u JOIN public.tiers t ON t.name = u.tier WHERE u.id = NEW.owner;
    -- the sandbox of a run outlives its code a little, to tell how it ended
    n := NEW.timeout_s - CASE WHEN NEW.run IS NULL THEN 0 ELSE 60 END;
    IF n > l.longest_s AND (made OR NEW.timeout_s > OLD.timeout_s) THEN
        PERFORM public.quota_refuse('longestRunSeconds', l.longest_s, n, false);
    END IF;
    IF back AND NEW.state = OLD.state THEN
        RETURN NEW;
    END IF;
    IF l.concurrent IS NOT NULL OR l.compute_s IS NOT NULL OR l.stops THEN
        PERFORM 1 FROM public.users WHERE id = NEW.owner FOR NO KEY UPDATE;
    END IF;
    IF l.concurrent IS NOT NULL AND NOT back THEN
        SELECT count(*) INTO n FROM public.sandboxes WHERE owner = NEW.owner AND pool IS NULL
        AND state IN
            ('creating', 'running', 'pausing', 'paused', 'resuming', 'stopping', 'starting');
        IF n >= l.concurrent THEN
            PERFORM public.quota_refuse('concurrentSandboxes', l.concurrent, n, false);
        END IF;
    END IF;
    IF l.compute_s IS NOT NULL OR l.stops THEN
        SELECT * INTO used FROM public.usage_now(NEW.owner);
        IF used.running_ms >= l.compute_s * 1000 THEN
            PERFORM public.quota_refuse('computeSeconds', l.compute_s, used.running_ms / 1000,
                true);
        ELSIF l.stops AND used.cost >= l.spending_limit::numeric * 3600000 THEN
            PERFORM public.quota_refuse('spendingMicros', l.spending_limit,
                (used.cost / 3600000)::bigint, true);
        END IF;
    END IF;
    IF made AND NEW.run IS NOT NULL THEN
        PERFORM public.quota_run(NEW.run, NEW.owner, NEW.id, NEW.template, NEW.template,
            NEW.run_worker);
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER sandbox_quota_made BEFORE INSERT ON public.sandboxes
    FOR EACH ROW WHEN (NEW.pool IS NULL) EXECUTE FUNCTION public.sandbox_quota();
CREATE TRIGGER sandbox_quota_again
    BEFORE UPDATE OF pool, state, timeout_s ON public.sandboxes
    FOR EACH ROW WHEN (NEW.pool IS NULL AND (OLD.pool IS NOT NULL
        OR (OLD.state IN ('stopped', 'failed') AND NEW.state = 'starting')
        OR (OLD.state = 'paused' AND NEW.state = 'resuming')
        OR NEW.timeout_s > OLD.timeout_s))
    EXECUTE FUNCTION public.sandbox_quota();

-- --- metering ---

-- What was used in the former state, and since when it runs at a stretch, which the tier limits.
-- A sandbox that is found dead after nobody has looked for a while is not charged for that.
CREATE FUNCTION public.sandbox_meter() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    until  timestamptz := greatest(date_trunc('milliseconds', now()), OLD.metered_at);
    paused boolean := OLD.state IN ('paused', 'resuming');
    price  bigint;
BEGIN
    IF until > OLD.metered_at
        AND NOT (NEW.state = 'failed' AND until - OLD.metered_at > interval '60 seconds') THEN
        price := public.usage_price(OLD.cpu_milli, OLD.memory_mb, paused);
        INSERT INTO public.usage AS u
            (sandbox, day, owner, template, running_ms, paused_ms, cost)
        SELECT OLD.id, d.day, OLD.owner, OLD.template, CASE WHEN paused THEN 0 ELSE d.ms END,
            CASE WHEN paused THEN d.ms ELSE 0 END, d.ms * price
        FROM public.usage_days(OLD.metered_at, until) d
        ON CONFLICT (sandbox, day) DO UPDATE SET running_ms = u.running_ms + excluded.running_ms,
            paused_ms = u.paused_ms + excluded.paused_ms, cost = u.cost + excluded.cost;
    END IF;
    NEW.metered_at := CASE WHEN NEW.pool IS NULL AND NEW.state IN
        ('running', 'pausing', 'paused', 'resuming', 'stopping') THEN until END;
    IF NEW.state = 'running' AND (OLD.pool IS NOT NULL OR OLD.state NOT IN ('running', 'pausing'))
    THEN
        NEW.running_since := now();
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER sandbox_meter
    BEFORE UPDATE OF pool, state, cpu_milli, memory_mb, template, metered_at ON public.sandboxes
    FOR EACH ROW WHEN (NEW.pool IS NULL
        AND (OLD.pool, OLD.state, OLD.cpu_milli, OLD.memory_mb, OLD.template, OLD.metered_at)
        IS DISTINCT FROM
        (NEW.pool, NEW.state, NEW.cpu_milli, NEW.memory_mb, NEW.template, NEW.metered_at))
    EXECUTE FUNCTION public.sandbox_meter();

CREATE FUNCTION public.sandbox_longest() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    longest bigint;
BEGIN
    SELECT t.longest_s INTO longest FROM public.users u JOIN public.tiers t ON t.name = u.tier
    WHERE u.id = NEW.owner;
    IF longest IS NOT NULL THEN
        NEW.expires_at := least(NEW.expires_at, NEW.running_since
            + make_interval(secs => longest + CASE WHEN NEW.run IS NULL THEN 0 ELSE 60 END));
    END IF;
    RETURN NEW;
END $$;

-- Behind the one above: triggers fire in the order of their names.
CREATE TRIGGER sandbox_meter_longest BEFORE UPDATE OF pool, state, expires_at ON public.sandboxes
    FOR EACH ROW WHEN (NEW.pool IS NULL AND NEW.state = 'running' AND (OLD.state <> 'running'
        OR OLD.pool IS NOT NULL OR OLD.expires_at IS DISTINCT FROM NEW.expires_at))
    EXECUTE FUNCTION public.sandbox_longest();
