-- Users and keys that are managed over the API; users of an OpenID provider; when keys were used.

-- A user whose record was deleted keeps its row, which others refer to, and gives its name back.
ALTER TABLE public.users
    ADD COLUMN email      text CHECK (length(email) BETWEEN 3 AND 254),
    ADD COLUMN issuer     text CHECK (length(issuer) BETWEEN 1 AND 1024),
    ADD COLUMN subject    text CHECK (length(subject) BETWEEN 1 AND 255),
    ADD COLUMN deleted_at timestamptz,
    ADD CONSTRAINT users_subject UNIQUE (issuer, subject);
CREATE INDEX users_newest ON public.users (created_at DESC, id DESC);

-- The key of kind "oidc" stands for all tokens of its user: no text has its hash.
ALTER TABLE public.api_keys
    ADD COLUMN kind         text NOT NULL DEFAULT 'key' CHECK (kind IN ('key', 'oidc')),
    ADD COLUMN last_used_at timestamptz;
DROP INDEX public.api_keys_user;
CREATE INDEX api_keys_newest ON public.api_keys (user_id, created_at DESC, id DESC);

-- A ticket that was made by a token ends with it.
ALTER TABLE public.tickets
    ADD COLUMN ends_at timestamptz;
