-- When a key was hashed anew, after a change of the master key: what was not is lost with the former one.
ALTER TABLE public.api_keys ADD COLUMN rehashed_at timestamptz;
