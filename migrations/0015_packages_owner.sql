-- The sandboxes in which packages are installed belong to nobody who has a key: what runs in them is
-- given the password of an index, and what they write is sealed. Whom a set is for stands in its row.
INSERT INTO public.users (id, name, role, disabled_at)
VALUES ('packages000000000000', 'sandboxd: packages', 'user', now());
