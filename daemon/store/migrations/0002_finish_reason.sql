-- expand-only
-- Why an answer ended: stop, length, filtered; null: its provider gave no reason, or one that we don't know.
ALTER TABLE qstreamd.results ADD COLUMN finish_reason text;
