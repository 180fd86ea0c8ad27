"""The tables of orchestration, which version 2 of the catalog has beside runs, leases and requests.

Times are seconds since the epoch, documents JSON. Kept to what PostgreSQL understands too; a table whose number is given by the
database has `seq INTEGER NOT NULL PRIMARY KEY`, which is an identity column there. `limit` and `grant` are words of SQL, and quoted.
"""

from __future__ import annotations

__all__ = ["VERSION_2"]

_RUN_COLUMNS = (
    # What a run was started for, by what, and with what.
    "ALTER TABLE run ADD COLUMN deployment_id TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE run ADD COLUMN deployment TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE run ADD COLUMN revision BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE run ADD COLUMN nominal DOUBLE PRECISION",
    "ALTER TABLE run ADD COLUMN origin TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE run ADD COLUMN parameters TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE run ADD COLUMN tags TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE run ADD COLUMN source TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE run ADD COLUMN depth BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE run ADD COLUMN message TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE run ADD COLUMN request_key TEXT",
    "CREATE UNIQUE INDEX run_by_request ON run (request_key) WHERE request_key IS NOT NULL",
    "CREATE INDEX run_by_deployment ON run (deployment_id, created)",
)
_PLANS = (
    """CREATE TABLE deployment (
        id TEXT NOT NULL PRIMARY KEY,
        flow_name TEXT NOT NULL,
        name TEXT NOT NULL,
        source TEXT NOT NULL,
        version TEXT NOT NULL,
        parameters TEXT NOT NULL,
        schema TEXT NOT NULL,
        pool TEXT NOT NULL,
        queue TEXT NOT NULL,
        priority BIGINT NOT NULL,
        tags TEXT NOT NULL,
        concurrency TEXT NOT NULL,
        backend TEXT NOT NULL,
        env TEXT NOT NULL,
        needs TEXT NOT NULL,
        description TEXT NOT NULL,
        made_by TEXT NOT NULL,
        revision BIGINT NOT NULL,
        is_paused BIGINT NOT NULL,
        created DOUBLE PRECISION NOT NULL,
        updated DOUBLE PRECISION NOT NULL,
        UNIQUE (flow_name, name)
    )""",
    """CREATE TABLE schedule (
        id TEXT NOT NULL PRIMARY KEY,
        deployment_id TEXT NOT NULL,
        slug TEXT NOT NULL,
        kind TEXT NOT NULL,
        spec TEXT NOT NULL,
        zone TEXT NOT NULL,
        parameters TEXT NOT NULL,
        catchup TEXT NOT NULL,
        catchup_limit BIGINT NOT NULL,
        window_seconds DOUBLE PRECISION NOT NULL,
        jitter_seconds DOUBLE PRECISION NOT NULL,
        starts DOUBLE PRECISION,
        ends DOUBLE PRECISION,
        is_paused BIGINT NOT NULL,
        next_nominal DOUBLE PRECISION,
        next_due DOUBLE PRECISION,
        UNIQUE (deployment_id, slug)
    )""",
    "CREATE INDEX schedule_due ON schedule (next_due) WHERE next_due IS NOT NULL",
    """CREATE TABLE fire (
        schedule_id TEXT NOT NULL,
        nominal DOUBLE PRECISION NOT NULL,
        outcome TEXT NOT NULL,
        count BIGINT NOT NULL,
        run_id TEXT,
        at DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (schedule_id, nominal)
    )""",
    "CREATE INDEX fire_by_time ON fire (at)",
)
_WORK = (
    """CREATE TABLE work (
        run_id TEXT NOT NULL PRIMARY KEY,
        pool TEXT NOT NULL,
        queue TEXT NOT NULL,
        priority BIGINT NOT NULL,
        due DOUBLE PRECISION NOT NULL,
        state TEXT NOT NULL,
        overlap_key TEXT NOT NULL,
        deployment_id TEXT NOT NULL,
        needs TEXT NOT NULL,
        worker_id TEXT NOT NULL,
        epoch BIGINT NOT NULL,
        steady_until DOUBLE PRECISION NOT NULL,
        wall_until DOUBLE PRECISION NOT NULL,
        boot_id TEXT NOT NULL,
        crashes BIGINT NOT NULL,
        why TEXT NOT NULL
    )""",
    "CREATE INDEX work_waiting ON work (pool, queue, priority, due, run_id) WHERE state = 'waiting'",
    "CREATE INDEX work_by_key ON work (deployment_id, overlap_key)",
    """CREATE TABLE pool (
        name TEXT NOT NULL PRIMARY KEY,
        size BIGINT,
        is_paused BIGINT NOT NULL,
        backend TEXT NOT NULL,
        env TEXT NOT NULL
    )""",
    """CREATE TABLE queue (
        pool TEXT NOT NULL,
        name TEXT NOT NULL,
        priority BIGINT NOT NULL,
        size BIGINT,
        is_paused BIGINT NOT NULL,
        PRIMARY KEY (pool, name)
    )""",
    """CREATE TABLE worker (
        id TEXT NOT NULL PRIMARY KEY,
        name TEXT NOT NULL,
        pool TEXT NOT NULL,
        host TEXT NOT NULL,
        boot_id TEXT NOT NULL,
        pid BIGINT NOT NULL,
        slots BIGINT NOT NULL,
        labels TEXT NOT NULL,
        versions TEXT NOT NULL,
        started DOUBLE PRECISION NOT NULL,
        seen DOUBLE PRECISION NOT NULL,
        state TEXT NOT NULL
    )""",
)
_LIMITS = (
    'CREATE TABLE "limit" (name TEXT NOT NULL PRIMARY KEY, size BIGINT NOT NULL)',
    """CREATE TABLE "grant" (
        limit_name TEXT NOT NULL,
        holder TEXT NOT NULL,
        epoch BIGINT NOT NULL,
        slots BIGINT NOT NULL,
        want BIGINT NOT NULL,
        unit BIGINT NOT NULL,
        steady_until DOUBLE PRECISION NOT NULL,
        wall_until DOUBLE PRECISION NOT NULL,
        boot_id TEXT NOT NULL,
        PRIMARY KEY (limit_name, holder)
    )""",
    """CREATE TABLE rate (
        name TEXT NOT NULL PRIMARY KEY,
        per_second DOUBLE PRECISION NOT NULL,
        burst BIGINT NOT NULL,
        next_at DOUBLE PRECISION NOT NULL
    )""",
)
_EVENTS = (
    """CREATE TABLE event (
        seq INTEGER NOT NULL PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        at DOUBLE PRECISION NOT NULL,
        type TEXT NOT NULL,
        source TEXT NOT NULL,
        subject TEXT NOT NULL,
        related TEXT NOT NULL,
        depth BIGINT NOT NULL,
        data TEXT NOT NULL,
        is_pending BIGINT NOT NULL
    )""",
    "CREATE INDEX event_pending ON event (seq) WHERE is_pending = 1",
    "CREATE INDEX event_by_time ON event (at)",
    """CREATE TABLE rule (
        id TEXT NOT NULL PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        body TEXT NOT NULL,
        is_enabled BIGINT NOT NULL,
        revision BIGINT NOT NULL,
        since DOUBLE PRECISION NOT NULL,
        made_by TEXT NOT NULL
    )""",
    """CREATE TABLE bucket (
        rule_id TEXT NOT NULL,
        key TEXT NOT NULL,
        opened DOUBLE PRECISION NOT NULL,
        count BIGINT NOT NULL,
        due DOUBLE PRECISION,
        event_id TEXT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (rule_id, key)
    )""",
    "CREATE INDEX bucket_due ON bucket (due) WHERE due IS NOT NULL",
    """CREATE TABLE firing (
        rule_id TEXT NOT NULL,
        event_id TEXT NOT NULL,
        key TEXT NOT NULL,
        at DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (rule_id, event_id)
    )""",
    "CREATE INDEX firing_by_time ON firing (at)",
    """CREATE TABLE action (
        id TEXT NOT NULL PRIMARY KEY,
        rule_id TEXT NOT NULL,
        kind TEXT NOT NULL,
        body TEXT NOT NULL,
        state TEXT NOT NULL,
        tries BIGINT NOT NULL,
        due DOUBLE PRECISION NOT NULL,
        error TEXT NOT NULL,
        event_id TEXT NOT NULL,
        at DOUBLE PRECISION NOT NULL
    )""",
    "CREATE INDEX action_due ON action (due) WHERE state = 'waiting'",
    "CREATE INDEX action_by_time ON action (at)",
    "CREATE TABLE hook (name TEXT NOT NULL PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL, made_by TEXT NOT NULL)",
    """CREATE TABLE delivery (
        hook TEXT NOT NULL,
        id TEXT NOT NULL,
        at DOUBLE PRECISION NOT NULL,
        run_id TEXT NOT NULL,
        PRIMARY KEY (hook, id)
    )""",
    "CREATE INDEX delivery_by_time ON delivery (at)",
)
_OTHERS = (
    """CREATE TABLE token (
        id TEXT NOT NULL PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        digest TEXT NOT NULL,
        role TEXT NOT NULL,
        created DOUBLE PRECISION NOT NULL,
        expires DOUBLE PRECISION
    )""",
    "CREATE TABLE setting (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)",
)

VERSION_2 = (*_RUN_COLUMNS, *_PLANS, *_WORK, *_LIMITS, *_EVENTS, *_OTHERS)
"""What makes a catalog of version 1 one of version 2."""
