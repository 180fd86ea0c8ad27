"""All SQL of orchestration, in one text for SQLite and PostgreSQL.

`?` becomes `%s` in PostgreSQL, and `/* FOR UPDATE */` a lock: SQLite has one writer anyway. Order of locks: pool, schedule,
deployment, limit by name, rule; of several rows by key. The tables are in `tables`.
"""

from __future__ import annotations

# -- events --------------------------------------------------------------------------------------------------

ADD_EVENT = """INSERT INTO event (id, at, type, source, subject, related, depth, data, is_pending)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1) ON CONFLICT (id) DO NOTHING"""
EVENTS_AFTER = """SELECT seq, id, at, type, source, subject, related, depth, data FROM event
    WHERE seq > ? AND at >= ? AND type LIKE ? AND (? = '' OR subject = ?) ORDER BY seq LIMIT ?"""
LAST_EVENTS = """SELECT seq, id, at, type, source, subject, related, depth, data FROM event
    WHERE at >= ? AND type LIKE ? AND (? = '' OR subject = ?) ORDER BY seq DESC LIMIT ?"""
OLD_EVENTS = "DELETE FROM event WHERE seq IN (SELECT seq FROM event WHERE at < ? ORDER BY at LIMIT ?)"
OLD_FIRES = """DELETE FROM fire WHERE (schedule_id, nominal) IN
    (SELECT schedule_id, nominal FROM fire WHERE at < ? ORDER BY at LIMIT ?)"""
EVENT = "SELECT seq, id, at, type, source, subject, related, depth, data FROM event WHERE id = ?"
PENDING_EVENTS = """SELECT seq, id, at, type, source, subject, related, depth, data FROM event
    WHERE is_pending = 1 ORDER BY seq LIMIT ? /* FOR UPDATE SKIP LOCKED */"""
IS_ANY_PENDING = "SELECT 1 FROM event WHERE is_pending = 1 LIMIT 1"
EVENT_IS_DONE = "UPDATE event SET is_pending = 0 WHERE seq = ?"

# -- rules, what they do, and hooks ----------------------------------------------------------------------------

RULES = "SELECT id, name, body, is_enabled, revision, since, made_by FROM rule ORDER BY id"
LOCKED_RULES = "SELECT id, name, body, is_enabled, revision, since, made_by FROM rule WHERE is_enabled = 1 ORDER BY id /* FOR UPDATE */"
PUT_RULE = """INSERT INTO rule (id, name, body, is_enabled, revision, since, made_by) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET body = excluded.body, is_enabled = excluded.is_enabled, revision = excluded.revision,
        since = excluded.since, made_by = excluded.made_by"""
DELETE_RULE = "DELETE FROM rule WHERE id = ?"
DELETE_BUCKETS = "DELETE FROM bucket WHERE rule_id = ?"
BUCKET = "SELECT opened, count, due, event_id, body FROM bucket WHERE rule_id = ? AND key = ?"
PUT_BUCKET = """INSERT INTO bucket (rule_id, key, opened, count, due, event_id, body) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (rule_id, key) DO UPDATE SET opened = excluded.opened, count = excluded.count, due = excluded.due,
        event_id = excluded.event_id, body = excluded.body"""
DELETE_BUCKET = "DELETE FROM bucket WHERE rule_id = ? AND key = ?"
DUE_BUCKETS = "SELECT rule_id, key, opened, due, event_id, body FROM bucket WHERE due IS NOT NULL AND due <= ? ORDER BY due, rule_id, key LIMIT ?"
NEXT_BUCKET = "SELECT MIN(due) FROM bucket WHERE due IS NOT NULL"
ADD_FIRING = "INSERT INTO firing (rule_id, event_id, key, at) VALUES (?, ?, ?, ?) ON CONFLICT (rule_id, event_id) DO NOTHING"
FIRINGS_OF = "SELECT event_id, key, at FROM firing WHERE rule_id = ? ORDER BY at DESC LIMIT ?"
LAST_FIRINGS = "SELECT rule_id, MAX(at), COUNT(*) FROM firing GROUP BY rule_id"
ADD_ACTION = """INSERT INTO action (id, rule_id, kind, body, state, tries, due, error, event_id, at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"""
ACTIONS_OF = "SELECT id, kind, body, state, tries, due, error, event_id, at FROM action WHERE rule_id = ? ORDER BY at DESC, id LIMIT ?"
DUE_ACTIONS = """SELECT id, rule_id, kind, body, tries, event_id FROM action WHERE state = 'waiting' AND due <= ?
    ORDER BY due, id LIMIT ? /* FOR UPDATE SKIP LOCKED */"""
NEXT_ACTION = "SELECT MIN(due) FROM action WHERE state = 'waiting'"
TRY_ACTION = "UPDATE action SET tries = tries + 1, due = ? WHERE id = ?"
END_ACTION = (
    "UPDATE action SET state = ?, due = ?, error = ? WHERE id = ? AND state = 'waiting' AND tries = ?"
)
HOOKS = "SELECT name, kind, body, made_by FROM hook ORDER BY name"
HOOK = "SELECT name, kind, body, made_by FROM hook WHERE name = ?"
PUT_HOOK = """INSERT INTO hook (name, kind, body, made_by) VALUES (?, ?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, body = excluded.body, made_by = excluded.made_by"""
DELETE_HOOK = "DELETE FROM hook WHERE name = ?"
ADD_DELIVERY = (
    "INSERT INTO delivery (hook, id, at, run_id) VALUES (?, ?, ?, ?) ON CONFLICT (hook, id) DO NOTHING"
)
DELIVERY = "SELECT run_id FROM delivery WHERE hook = ? AND id = ?"
OLD_FIRINGS = """DELETE FROM firing WHERE (rule_id, event_id) IN
    (SELECT rule_id, event_id FROM firing WHERE at < ? ORDER BY at LIMIT ?)"""
OLD_ACTIONS = """DELETE FROM action WHERE id IN
    (SELECT id FROM action WHERE at < ? AND state <> 'waiting' ORDER BY at LIMIT ?)"""
OLD_DELIVERIES = """DELETE FROM delivery WHERE (hook, id) IN
    (SELECT hook, id FROM delivery WHERE at < ? ORDER BY at LIMIT ?)"""
OLD_WINDOWS = """DELETE FROM bucket WHERE (rule_id, key) IN
    (SELECT rule_id, key FROM bucket WHERE due IS NULL AND opened < ? ORDER BY opened LIMIT ?)"""
DEEPEN_RUN = "UPDATE run SET depth = ? WHERE id = ? AND depth < ?"
SAVEPOINT = "SAVEPOINT part"
UNDO_PART = "ROLLBACK TO SAVEPOINT part"
END_PART = "RELEASE SAVEPOINT part"

# -- settings ------------------------------------------------------------------------------------------------

SETTING = "SELECT value FROM setting WHERE name = ?"
SET_SETTING = (
    "INSERT INTO setting (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)

TOKEN_COLUMNS = "name, digest, role, created, expires"
ADD_TOKEN = """INSERT INTO token (id, name, digest, role, created, expires) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (name) DO NOTHING"""
TOKENS = f"SELECT {TOKEN_COLUMNS} FROM token ORDER BY name"
TOKEN_OF_DIGEST = f"SELECT {TOKEN_COLUMNS} FROM token WHERE digest = ?"
DELETE_TOKEN = "DELETE FROM token WHERE name = ?"

# -- figures -------------------------------------------------------------------------------------------------

RUNS_BY_STATE = "SELECT state, COUNT(*) FROM run GROUP BY state"
WORK_BY_QUEUE = "SELECT pool, queue, state, COUNT(*), MIN(due) FROM work GROUP BY pool, queue, state"
EVENTS_BEHIND = "SELECT COUNT(*), MIN(at) FROM event WHERE is_pending = 1"

# -- work ----------------------------------------------------------------------------------------------------

ADD_WORK = """INSERT INTO work (run_id, pool, queue, priority, due, state, overlap_key, deployment_id, needs, worker_id, epoch,
    steady_until, wall_until, boot_id, crashes, why) VALUES (?, ?, ?, ?, ?, 'waiting', ?, ?, ?, '', 0, 0, 0, '', 0, '')"""
RETRY_WORK = """INSERT INTO work (run_id, pool, queue, priority, due, state, overlap_key, deployment_id, needs, worker_id, epoch,
    steady_until, wall_until, boot_id, crashes, why)
    VALUES (?, ?, ?, ?, ?, 'waiting', ?, ?, ?, '', ?, 0, 0, '', 0, '') ON CONFLICT (run_id) DO NOTHING"""
WORK = "SELECT state, epoch, pool, queue, worker_id, crashes, overlap_key, deployment_id FROM work WHERE run_id = ?"
END_WORK = "DELETE FROM work WHERE run_id = ?"
DRIVE_CLAIMED = """UPDATE work SET steady_until = ?, wall_until = ?, boot_id = ?, why = ''
    WHERE run_id = ? AND epoch = ? AND state = 'claimed'"""
DRIVE_WAITING = """UPDATE work SET state = 'claimed', epoch = epoch + 1, worker_id = '', steady_until = ?, wall_until = ?,
    boot_id = ?, why = '' WHERE run_id = ? AND state <> 'claimed'"""
REQUEUE = """UPDATE work SET state = 'waiting', worker_id = '', due = ?, crashes = crashes + ?, why = ?
    WHERE run_id = ? AND epoch = ? AND state = 'claimed'"""
GIVE_BACK_WORK = """UPDATE work SET state = 'waiting', worker_id = '', due = ?, why = ? WHERE run_id = ? AND state = 'claimed'
    AND EXISTS (SELECT 1 FROM run WHERE run.id = work.run_id AND run.epoch = ? AND run.state = 'Resuming')"""
CLAIM = """UPDATE work SET state = 'claimed', worker_id = ?, epoch = epoch + 1, steady_until = ?, wall_until = ?, boot_id = ?,
    why = '' WHERE run_id = ? AND state = 'waiting' AND epoch = ? RETURNING epoch"""
RENEW_CLAIMS = (
    """UPDATE work SET steady_until = ?, wall_until = ? WHERE worker_id = ? AND state = 'claimed'"""
)
SET_WORK_STATE = "UPDATE work SET state = ?, why = ? WHERE run_id = ? AND state = ?"
SET_WHY = "UPDATE work SET why = ? WHERE run_id = ? AND state = 'waiting' AND why <> ?"
CLAIMED = """SELECT work.run_id, work.epoch, work.worker_id, work.steady_until, work.wall_until, work.boot_id, work.crashes
    FROM work WHERE work.state = 'claimed'"""
IS_ANY_DUE = "SELECT 1 FROM work WHERE state = 'waiting' AND pool = ? AND due <= ? LIMIT 1"
POOL_USE = "SELECT queue, COUNT(*) FROM work WHERE pool = ? AND state = 'claimed' GROUP BY queue"
CANDIDATES = """SELECT work.run_id, work.overlap_key, work.deployment_id, work.needs, work.epoch, work.why,
        COALESCE(deployment.is_paused, 0), COALESCE(deployment.concurrency, ''), run.tags
    FROM work JOIN run ON run.id = work.run_id LEFT JOIN deployment ON deployment.id = work.deployment_id
    WHERE work.state = 'waiting' AND work.pool = ? AND work.queue = ? AND work.due <= ?
    ORDER BY work.priority, work.due, work.run_id LIMIT ? OFFSET ?"""
KEY_USE = """SELECT COUNT(*) FROM work WHERE deployment_id = ? AND overlap_key = ? AND state = 'claimed'"""
KEY_ACTIVE = """SELECT run_id, state, epoch FROM work WHERE deployment_id = ? AND overlap_key = ?
    AND (due <= ? OR state = 'claimed') ORDER BY due, run_id"""
LATE = """SELECT work.run_id FROM work JOIN run ON run.id = work.run_id
    WHERE work.state = 'waiting' AND work.due < ? AND run.state = 'Scheduled' ORDER BY work.due LIMIT 100"""
WAITING_IN_POOL = "SELECT COUNT(*) FROM work WHERE pool = ? AND state = 'waiting'"
ACTIVE_OF = "SELECT COUNT(*) FROM work WHERE deployment_id = ?"

# -- pools, queues, workers ----------------------------------------------------------------------------------

ENSURE_POOL = "INSERT INTO pool (name, size, is_paused, backend, env) VALUES (?, NULL, 0, '', '{}') ON CONFLICT (name) DO NOTHING"
LOCK_POOL = "SELECT name, size, is_paused, backend, env FROM pool WHERE name = ? /* FOR UPDATE */"
POOLS = """SELECT pool.name, pool.size, pool.is_paused, pool.backend, pool.env,
        (SELECT COUNT(*) FROM work WHERE work.pool = pool.name AND work.state = 'claimed'),
        (SELECT COUNT(*) FROM work WHERE work.pool = pool.name AND work.state = 'waiting')
    FROM pool ORDER BY pool.name"""
SET_POOL = "UPDATE pool SET size = ?, is_paused = ?, backend = ?, env = ? WHERE name = ?"
DELETE_POOL = "DELETE FROM pool WHERE name = ?"
ENSURE_QUEUE = "INSERT INTO queue (pool, name, priority, size, is_paused) VALUES (?, ?, 0, NULL, 0) ON CONFLICT (pool, name) DO NOTHING"
QUEUES_OF = "SELECT name, size, is_paused FROM queue WHERE pool = ? ORDER BY priority, name"
QUEUES = "SELECT pool, name, priority, size, is_paused FROM queue ORDER BY pool, priority, name"
SET_QUEUE = "UPDATE queue SET priority = ?, size = ?, is_paused = ? WHERE pool = ? AND name = ?"
PUT_WORKER = """INSERT INTO worker (id, name, pool, host, boot_id, pid, slots, labels, versions, started, seen, state)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET seen = excluded.seen, state = excluded.state, slots = excluded.slots"""
DROP_WORKER = "DELETE FROM worker WHERE id = ?"
WORKERS = """SELECT worker.id, worker.name, worker.pool, worker.host, worker.boot_id, worker.pid, worker.slots, worker.labels,
        worker.versions, worker.started, worker.seen, worker.state,
        (SELECT COUNT(*) FROM work WHERE work.worker_id = worker.id AND work.state = 'claimed')
    FROM worker ORDER BY worker.pool, worker.started"""

# -- limits and rates ----------------------------------------------------------------------------------------

LIMITS = 'SELECT name, size FROM "limit" ORDER BY name'
LOCK_LIMIT = 'SELECT size FROM "limit" WHERE name = ? /* FOR UPDATE */'
SET_LIMIT = (
    'INSERT INTO "limit" (name, size) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET size = excluded.size'
)
DELETE_LIMIT = ('DELETE FROM "grant" WHERE limit_name = ?', 'DELETE FROM "limit" WHERE name = ?')
GRANTS = """SELECT limit_name, holder, epoch, slots, want, unit, steady_until, wall_until, boot_id FROM "grant"
    ORDER BY limit_name, holder"""
PUT_GRANT = """INSERT INTO "grant" (limit_name, holder, epoch, slots, want, unit, steady_until, wall_until, boot_id)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (limit_name, holder) DO UPDATE SET epoch = excluded.epoch,
    slots = excluded.slots, want = excluded.want, unit = excluded.unit, steady_until = excluded.steady_until,
    wall_until = excluded.wall_until, boot_id = excluded.boot_id"""
DROP_GRANT = 'DELETE FROM "grant" WHERE limit_name = ? AND holder = ?'
RENEW_GRANTS = 'UPDATE "grant" SET steady_until = ?, wall_until = ? WHERE holder = ? AND epoch = ?'
END_GRANTS = 'DELETE FROM "grant" WHERE holder = ? AND epoch <= ?'
TAGGED_WORK = """SELECT run.id, run.tags, work.state FROM work JOIN run ON run.id = work.run_id
    WHERE run.tags <> '' AND (work.state = 'claimed' OR work.why LIKE ?) ORDER BY work.due, run.id LIMIT 1000"""
RATES = "SELECT name, per_second, burst, next_at FROM rate ORDER BY name"
SET_RATE = """INSERT INTO rate (name, per_second, burst, next_at) VALUES (?, ?, ?, 0)
    ON CONFLICT (name) DO UPDATE SET per_second = excluded.per_second, burst = excluded.burst"""
DELETE_RATE = "DELETE FROM rate WHERE name = ?"
# A time that is further ahead than slots are ever reserved was written by a clock that was set back since.
RESERVE = """UPDATE rate SET next_at = CASE WHEN next_at > ? + 60 + 100.0 * ? / per_second OR next_at < ? - burst / per_second
    THEN ? - burst / per_second ELSE next_at END + ? / per_second WHERE name = ? RETURNING next_at, per_second"""

# -- deployments and schedules -------------------------------------------------------------------------------

DEPLOYMENT_COLUMNS = (
    "id, flow_name, name, source, version, parameters, schema, pool, queue, priority, tags, concurrency, backend, env, needs,"
    " description, made_by, revision, is_paused, created, updated"
)
PUT_DEPLOYMENT = f"""INSERT INTO deployment ({DEPLOYMENT_COLUMNS})
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET source = excluded.source, version = excluded.version, parameters = excluded.parameters,
        schema = excluded.schema, pool = excluded.pool, queue = excluded.queue, priority = excluded.priority, tags = excluded.tags,
        concurrency = excluded.concurrency, backend = excluded.backend, env = excluded.env, needs = excluded.needs,
        description = excluded.description, made_by = excluded.made_by, revision = excluded.revision,
        is_paused = excluded.is_paused, updated = excluded.updated"""
DEPLOYMENTS = (
    f"SELECT {DEPLOYMENT_COLUMNS} FROM deployment WHERE (? = '' OR flow_name = ?) ORDER BY flow_name, name"
)
DEPLOYMENT = f"SELECT {DEPLOYMENT_COLUMNS} FROM deployment WHERE id = ? /* FOR UPDATE */"
PAUSE_DEPLOYMENT = "UPDATE deployment SET is_paused = ?, updated = ? WHERE id = ?"
DELETE_DEPLOYMENT = (
    "DELETE FROM fire WHERE schedule_id IN (SELECT id FROM schedule WHERE deployment_id = ?)",
    "DELETE FROM schedule WHERE deployment_id = ?",
    "DELETE FROM deployment WHERE id = ?",
)
SCHEDULE_COLUMNS = (
    "id, deployment_id, slug, kind, spec, zone, parameters, catchup, catchup_limit, window_seconds, jitter_seconds, starts, ends,"
    " is_paused, next_nominal, next_due"
)
SCHEDULES_OF = (
    f"SELECT {SCHEDULE_COLUMNS} FROM schedule WHERE deployment_id = ? ORDER BY slug /* FOR UPDATE */"
)
SCHEDULES = f"SELECT {SCHEDULE_COLUMNS} FROM schedule ORDER BY deployment_id, slug"
PUT_SCHEDULE = f"""INSERT INTO schedule ({SCHEDULE_COLUMNS})
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, spec = excluded.spec, zone = excluded.zone,
        parameters = excluded.parameters, catchup = excluded.catchup, catchup_limit = excluded.catchup_limit,
        window_seconds = excluded.window_seconds, jitter_seconds = excluded.jitter_seconds, starts = excluded.starts,
        ends = excluded.ends, is_paused = excluded.is_paused, next_nominal = excluded.next_nominal,
        next_due = excluded.next_due"""
DELETE_SCHEDULE = "DELETE FROM schedule WHERE id = ?"
DUE_SCHEDULES = f"""SELECT {SCHEDULE_COLUMNS} FROM schedule WHERE next_due IS NOT NULL AND next_due <= ?
    ORDER BY next_due, id LIMIT ? /* FOR UPDATE SKIP LOCKED */"""
NEXT_DUE = "SELECT MIN(next_due) FROM schedule"
MOVE_SCHEDULE = "UPDATE schedule SET next_nominal = ?, next_due = ? WHERE id = ?"
ADD_FIRE = """INSERT INTO fire (schedule_id, nominal, outcome, count, run_id, at) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (schedule_id, nominal) DO NOTHING"""
FIRES = """SELECT schedule.slug, fire.nominal, fire.outcome, fire.count, fire.run_id, fire.at
    FROM fire JOIN schedule ON schedule.id = fire.schedule_id WHERE schedule.deployment_id = ?
    ORDER BY fire.nominal DESC LIMIT ?"""
RUN_OF_KEY = "SELECT id FROM run WHERE request_key = ?"
RUN_STATE = "SELECT state, epoch FROM run WHERE id = ?"
SET_RUN_STATE = "UPDATE run SET state = ?, ended = ?, message = ? WHERE id = ?"
