-- How many requests of each class a key may make in a minute. NULL: as the server's options say;
-- 0: no limit.
ALTER TABLE public.api_keys
    ADD COLUMN rate_creates bigint CHECK (rate_creates BETWEEN 0 AND 10000000),
    ADD COLUMN rate_exec    bigint CHECK (rate_exec BETWEEN 0 AND 10000000),
    ADD COLUMN rate_reads   bigint CHECK (rate_reads BETWEEN 0 AND 10000000);
