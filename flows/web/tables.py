"""Define the tables of the read model, and the statements that add sums of windows to them."""

from __future__ import annotations

from typing import Final

__all__ = ["CELL", "CONVERSATION", "LAG", "MESSAGES", "MINUTE", "SCHEMA"]

SCHEMA: Final = """
CREATE TABLE conversations (
  n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, feed TEXT, leg TEXT, labels TEXT NOT NULL DEFAULT '{}',
  max_latency_ms REAL, packet_loss_threshold REAL,
  first REAL, last REAL, windows INTEGER NOT NULL DEFAULT 0, breaching INTEGER NOT NULL DEFAULT 0,
  frames INTEGER NOT NULL DEFAULT 0, p95 REAL, loss REAL, mos REAL, mos_model TEXT
);
CREATE INDEX by_last ON conversations (last);
CREATE TABLE labels (n INTEGER, name TEXT, value TEXT, PRIMARY KEY (n, name)) WITHOUT ROWID;
CREATE INDEX by_label ON labels (name, value);
CREATE TABLE minutes (
  minute INTEGER, n INTEGER, windows INTEGER, breaching INTEGER, frames INTEGER, p95 REAL, loss_sum REAL,
  loss_count INTEGER, mos REAL, PRIMARY KEY (minute, n)
) WITHOUT ROWID;
CREATE TABLE cells (
  name TEXT, value TEXT, minute INTEGER, windows INTEGER, breaching INTEGER, conversations INTEGER, frames INTEGER,
  p95 REAL, loss_sum REAL, loss_count INTEGER, mos REAL, PRIMARY KEY (name, minute, value)
) WITHOUT ROWID;
-- Sums by hour of what is no longer kept by minute, for eight days: to compare an hour with that of a week ago.
CREATE TABLE hours (
  hour INTEGER, name TEXT, value TEXT, windows INTEGER, breaching INTEGER, PRIMARY KEY (hour, name, value)
) WITHOUT ROWID;
CREATE TRIGGER roll_up AFTER DELETE ON cells BEGIN
  INSERT INTO hours VALUES (OLD.minute / 3600 * 3600, OLD.name, OLD.value, OLD.windows, OLD.breaching)
    ON CONFLICT DO UPDATE SET windows = windows + excluded.windows, breaching = breaching + excluded.breaching;
END;
CREATE TRIGGER forget AFTER INSERT ON hours BEGIN DELETE FROM hours WHERE hour < NEW.hour - 8 * 86400; END;
CREATE TABLE incidents (
  id TEXT PRIMARY KEY, conversation TEXT, rule TEXT, raised REAL, resolved REAL, reason TEXT, value REAL, peak REAL,
  threshold REAL, leg TEXT, labels TEXT, grouped TEXT, conversations INTEGER, breaching INTEGER, inhibited TEXT,
  lasting INTEGER NOT NULL DEFAULT 1, parent TEXT, code TEXT
) WITHOUT ROWID;
CREATE INDEX by_parent ON incidents (parent) WHERE parent IS NOT NULL;
CREATE INDEX by_raised ON incidents (raised);
CREATE INDEX by_conversation ON incidents (conversation);
CREATE TABLE alerts (id TEXT PRIMARY KEY, incident TEXT, state TEXT, at REAL) WITHOUT ROWID;
CREATE INDEX by_incident ON alerts (incident);
CREATE TABLE attempts (
  seq INTEGER PRIMARY KEY, alert TEXT, at REAL, action TEXT, outcome TEXT, endpoint TEXT, attempt INTEGER,
  took_s REAL
);
CREATE INDEX by_alert ON attempts (alert);
CREATE INDEX by_at ON attempts (at);
CREATE INDEX by_endpoint ON attempts (endpoint, at);
CREATE TABLE feeds (seq INTEGER PRIMARY KEY, name TEXT, at REAL, state TEXT, reason TEXT);
CREATE TABLE messages (
  minute INTEGER, name TEXT, frames INTEGER, invalid INTEGER, PRIMARY KEY (minute, name)
) WITHOUT ROWID;
CREATE TABLE lags (
  minute INTEGER, name TEXT, windows INTEGER, sum REAL, count INTEGER, max REAL, PRIMARY KEY (minute, name)
) WITHOUT ROWID;
CREATE TABLE groups (
  name TEXT, value TEXT, until REAL, conversations INTEGER, breaching INTEGER, PRIMARY KEY (name, value)
) WITHOUT ROWID;
"""
MESSAGES: Final = """
INSERT INTO messages VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET frames = frames + excluded.frames,
  invalid = invalid + excluded.invalid
"""
LAG: Final = """
INSERT INTO lags VALUES (?, ?, 1, ?, ?, ?) ON CONFLICT DO UPDATE SET windows = windows + 1, sum = sum + excluded.sum,
  count = count + excluded.count, max = MAX(max, excluded.max)
"""
MINUTE: Final = """
INSERT INTO minutes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET windows = windows + excluded.windows,
  breaching = breaching + excluded.breaching, frames = frames + excluded.frames,
  p95 = MAX(IFNULL(p95, excluded.p95), IFNULL(excluded.p95, p95)), loss_sum = loss_sum + excluded.loss_sum,
  loss_count = loss_count + excluded.loss_count, mos = MIN(IFNULL(mos, excluded.mos), IFNULL(excluded.mos, mos))
"""
CELL: Final = """
INSERT INTO cells VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
  windows = windows + excluded.windows, breaching = breaching + excluded.breaching,
  conversations = conversations + excluded.conversations, frames = frames + excluded.frames,
  p95 = MAX(IFNULL(p95, excluded.p95), IFNULL(excluded.p95, p95)), loss_sum = loss_sum + excluded.loss_sum,
  loss_count = loss_count + excluded.loss_count, mos = MIN(IFNULL(mos, excluded.mos), IFNULL(excluded.mos, mos))
"""
CONVERSATION: Final = """
UPDATE conversations SET first = MIN(IFNULL(first, ?1), ?1), last = MAX(IFNULL(last, ?2), ?2), windows = windows + ?3,
  breaching = breaching + ?4, frames = frames + ?5, p95 = MAX(IFNULL(p95, ?6), IFNULL(?6, p95)),
  loss = MAX(IFNULL(loss, ?7), IFNULL(?7, loss)), mos = MIN(IFNULL(mos, ?8), IFNULL(?8, mos)),
  mos_model = IFNULL(?9, mos_model) WHERE n = ?10
"""
