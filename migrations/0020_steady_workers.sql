-- Since when a worker's heartbeats have come without a pause: only then may it say that another one is
-- dead, which it does by removing that one's row. NULL: a worker of an older release, without the
-- lock that this goes by.
ALTER TABLE public.workers ADD COLUMN steady_since timestamptz;
