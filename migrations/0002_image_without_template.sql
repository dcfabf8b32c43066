-- A sandbox that was made from an image has no template.

ALTER TABLE public.sandboxes ALTER COLUMN template DROP NOT NULL;
