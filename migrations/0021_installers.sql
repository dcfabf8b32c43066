-- The sandboxes in which packages are installed belong to nobody, and count for who asked for them:
-- they hold a place, and what they use is his.

CREATE FUNCTION public.sandbox_payer(owner text, metadata jsonb) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN owner = 'pool0000000000000000' THEN coalesce(metadata ->> 'sandboxd.user', owner)
        ELSE owner END
$$;

-- How many a user has that count: those that are on their way, and the others.
CREATE FUNCTION public.sandboxes_held(who text, OUT there bigint, OUT coming bigint)
LANGUAGE sql STABLE AS $$
    SELECT count(*) FILTER (WHERE s.state NOT IN ('creating', 'starting')),
        count(*) FILTER (WHERE s.state IN ('creating', 'starting'))
    FROM public.sandboxes s
    WHERE s.owner IN (who, 'pool0000000000000000')
        AND public.sandbox_payer(s.owner, s.metadata) = who AND s.pool IS NULL AND s.state IN
            ('creating', 'running', 'pausing', 'paused', 'resuming', 'stopping', 'starting')
$$;

CREATE OR REPLACE FUNCTION public.usage_all(who text)
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
    WHERE s.owner IN (who, 'pool0000000000000000')
        AND public.sandbox_payer(s.owner, s.metadata) = who AND s.pool IS NULL AND s.metered_at IS NOT NULL AND s.state IN
        ('creating', 'running', 'pausing', 'paused', 'resuming', 'stopping', 'starting')
$$;

CREATE OR REPLACE FUNCTION public.sandbox_quota() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    l    record;
    used record;
    n    bigint;
    made boolean := TG_OP = 'INSERT';
    back boolean := false; -- it is there already
    payer text   := public.sandbox_payer(NEW.owner, NEW.metadata);
BEGIN
    IF NOT made THEN
        made := OLD.pool IS NOT NULL;
        back := NOT made AND OLD.state NOT IN ('stopped', 'failed');
    END IF;
    SELECT t.*, u.spending_limit, u.hard_stop AND u.spending_limit IS NOT NULL AS stops INTO l
    FROM public.users u JOIN public.tiers t ON t.name = u.tier WHERE u.id = payer;
    -- the sandbox of a run outlives its code a little, to tell how it ended
    n := NEW.timeout_s - CASE WHEN NEW.run IS NULL THEN 0 ELSE 60 END;
    IF n > l.longest_s AND payer = NEW.owner AND (made OR NEW.timeout_s > OLD.timeout_s) THEN
        PERFORM public.quota_refuse('longestRunSeconds', l.longest_s, n, false);
    END IF;
    IF back AND NEW.state = OLD.state THEN
        RETURN NEW;
    END IF;
    IF l.concurrent IS NOT NULL OR l.compute_s IS NOT NULL OR l.stops THEN
        PERFORM 1 FROM public.users WHERE id = payer FOR NO KEY UPDATE;
    END IF;
    IF l.concurrent IS NOT NULL AND NOT back THEN
        SELECT h.there + h.coming INTO n FROM public.sandboxes_held(payer) h;
        IF n >= l.concurrent THEN
            PERFORM public.quota_refuse('concurrentSandboxes', l.concurrent, n, false);
        END IF;
    END IF;
    IF l.compute_s IS NOT NULL OR l.stops THEN
        SELECT * INTO used FROM public.usage_now(payer);
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

CREATE OR REPLACE FUNCTION public.sandbox_meter() RETURNS trigger LANGUAGE plpgsql AS $$
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
        SELECT OLD.id, d.day, public.sandbox_payer(OLD.owner, OLD.metadata), OLD.template, CASE WHEN paused THEN 0 ELSE d.ms END,
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
