"""All SQL of the histories on disk: the tables, and every statement.

Kept to what PostgreSQL understands too (there, BLOB is called BYTEA); what only SQLite has stands in `PRAGMAS`.
A statement that is never run by another module does not belong here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphflow.histories.tables import VERSION_2

__all__ = ["CATALOG", "RUN", "Schema"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The tables of one kind of file, as `create` makes them."""

    kind: str
    version: int
    create: Sequence[str]
    """What makes the oldest version that is still read."""
    steps: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """By version, what makes the next one of it."""


META = (
    "CREATE TABLE meta (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)",
    "INSERT INTO meta (name, value) VALUES ('kind', ?)",
    "INSERT INTO meta (name, value) VALUES ('schema', ?)",
)
RENUMBER = "UPDATE meta SET value = ? WHERE name = 'schema'"
READ_META = "SELECT name, value FROM meta"

BEGIN_WRITING = "BEGIN IMMEDIATE"
BEGIN_READING = "BEGIN"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"

# What only SQLite has.
RUN_WRITER_PRAGMAS = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL")
CATALOG_PRAGMAS = ("PRAGMA journal_mode = TRUNCATE", "PRAGMA synchronous = FULL")
NO_SYNC = "PRAGMA synchronous = OFF"
READER_PRAGMAS = ("PRAGMA query_only = 1",)
CHECKPOINT = "PRAGMA wal_checkpoint(TRUNCATE)"
WAIT = "PRAGMA busy_timeout = {}"
DATA_VERSION = "PRAGMA data_version"
INTEGRITY = "PRAGMA integrity_check(20)"

# -- run.db: one run, one row in `run` ---------------------------------------------------------------------

RUN = Schema(
    kind="graphflow run",
    version=1,
    create=(
        """CREATE TABLE run (
            id TEXT NOT NULL PRIMARY KEY,
            name TEXT NOT NULL,
            flow_name TEXT NOT NULL,
            created DOUBLE PRECISION NOT NULL,
            key_id BLOB NOT NULL,
            epoch BIGINT NOT NULL,
            seq BIGINT NOT NULL,
            number BIGINT NOT NULL,
            head BLOB NOT NULL
        )""",
        # `first` is the number of its first record; `mac` covers the row before it, its own columns and the
        # header and digest of each of its records.
        """CREATE TABLE commits (
            seq INTEGER NOT NULL PRIMARY KEY,
            epoch BIGINT NOT NULL,
            at DOUBLE PRECISION NOT NULL,
            first BIGINT NOT NULL,
            count BIGINT NOT NULL,
            state TEXT,
            mac BLOB NOT NULL
        )""",
        # The body comes last, so that what only looks at headers does not read it.
        """CREATE TABLE record (
            number INTEGER NOT NULL PRIMARY KEY,
            seq BIGINT NOT NULL,
            kind BIGINT NOT NULL,
            node BIGINT NOT NULL,
            lo BIGINT NOT NULL,
            count BIGINT NOT NULL,
            at DOUBLE PRECISION NOT NULL,
            digest BLOB NOT NULL,
            body BLOB NOT NULL
        )""",
    ),
)

BEGIN_RUN = (
    "INSERT INTO run (id, name, flow_name, created, key_id, epoch, seq, number, head)"
    " VALUES (?, ?, ?, ?, ?, ?, 0, 0, ?)"
)
READ_RUN = "SELECT id, name, flow_name, created, key_id, epoch, seq, number, head FROM run"
TAKE_RUN = "UPDATE run SET epoch = ? WHERE id = ? AND epoch < ?"
ADVANCE = "UPDATE run SET seq = ?, number = ?, head = ? WHERE id = ? AND epoch = ? AND head = ?"
READ_FENCE = "SELECT epoch, seq, head FROM run WHERE id = ?"
ADD_COMMIT = "INSERT INTO commits (seq, epoch, at, first, count, state, mac) VALUES (?, ?, ?, ?, ?, ?, ?)"
ADD_RECORD = (
    "INSERT INTO record (number, seq, kind, node, lo, count, at, digest, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
READ_MAC = "SELECT mac FROM commits WHERE seq = ?"
READ_COMMITS = (
    "SELECT seq, epoch, at, first, count, state, mac FROM commits WHERE seq > ? AND seq <= ? ORDER BY seq"
)
READ_RECORDS = (
    "SELECT number, seq, kind, node, lo, count, at, digest, body FROM record"
    " WHERE number >= ? AND number < ? ORDER BY number"
)
READ_HEADS = (
    "SELECT number, seq, kind, node, lo, count, at, digest FROM record"
    " WHERE number >= ? AND number < ? ORDER BY number"
)
READ_BODY = "SELECT body FROM record WHERE number = ?"
READ_ONE = (
    "SELECT record.number, record.seq, kind, node, lo, record.count, record.at, digest, body, epoch, first"
    " FROM record JOIN commits ON commits.seq = record.seq WHERE record.number = ?"
)
# Of a table without an index, so only the end of it is looked at.
LAST_OF_KIND = (
    "SELECT number FROM record WHERE number >= ? AND number < ? AND kind = ? ORDER BY number DESC LIMIT 1"
)
READ_LAST_STATE = (
    "SELECT seq, at, state FROM commits WHERE state IS NOT NULL AND seq <= ? ORDER BY seq DESC LIMIT 1"
)
COUNT_ALL = (
    "SELECT (SELECT COUNT(*) FROM run), (SELECT COUNT(*) FROM commits), (SELECT MAX(seq) FROM commits),"
    " (SELECT COUNT(*) FROM record), (SELECT MAX(number) FROM record)"
)

# -- catalog.db: all runs, who drives them, what is asked of them ------------------------------------------

# A table of its own: it is written often, and nothing depends on it.
SUMMARIES = """CREATE TABLE summary (
    run_id TEXT NOT NULL PRIMARY KEY,
    body TEXT NOT NULL,
    mac BLOB
)"""
CATALOG = Schema(
    kind="graphflow catalog",
    version=2,
    steps={1: (*VERSION_2, SUMMARIES)},
    create=(
        """CREATE TABLE run (
            id TEXT NOT NULL PRIMARY KEY,
            name TEXT NOT NULL,
            flow_name TEXT NOT NULL,
            state TEXT NOT NULL,
            created DOUBLE PRECISION NOT NULL,
            started DOUBLE PRECISION,
            ended DOUBLE PRECISION,
            host TEXT NOT NULL,
            pid BIGINT NOT NULL,
            epoch BIGINT NOT NULL,
            mac BLOB
        )""",
        "CREATE INDEX run_by_time ON run (created, id)",
        "CREATE INDEX run_by_name ON run (name)",
        """CREATE TABLE lease (
            run_id TEXT NOT NULL PRIMARY KEY,
            epoch BIGINT NOT NULL,
            host TEXT NOT NULL,
            pid BIGINT NOT NULL,
            boot_id TEXT NOT NULL,
            steady_until DOUBLE PRECISION NOT NULL,
            wall_until DOUBLE PRECISION NOT NULL
        )""",
        """CREATE TABLE request (
            id INTEGER NOT NULL PRIMARY KEY,
            run_id TEXT NOT NULL,
            epoch BIGINT NOT NULL,
            kind TEXT NOT NULL,
            body TEXT NOT NULL,
            at DOUBLE PRECISION NOT NULL,
            answer TEXT,
            answered DOUBLE PRECISION
        )""",
        "CREATE INDEX request_by_run ON request (run_id, answered)",
        # A number that is never given twice, also where requests are deleted with their run.
        "CREATE TABLE counter (name TEXT NOT NULL PRIMARY KEY, value BIGINT NOT NULL)",
        "INSERT INTO counter (name, value) VALUES ('request', 0)",
    ),
)

_PLANNED = (
    "run.deployment_id, run.deployment, run.revision, run.nominal, run.origin, run.parameters, run.tags, run.source, run.depth,"
    " run.message, run.request_key, work.state, work.why, work.pool, work.due, work.crashes, work.epoch, work.worker_id"
)
_RUN_COLUMNS = (
    "run.id, run.name, run.flow_name, run.state, run.created, run.started, run.ended, run.host, run.pid, run.epoch,"
    f" run.mac, lease.epoch, lease.host, lease.pid, lease.boot_id, lease.steady_until, lease.wall_until, {_PLANNED}"
)
_WORK_JOIN = " LEFT JOIN work ON work.run_id = run.id"
_RUNS = f"SELECT {_RUN_COLUMNS} FROM run LEFT JOIN lease ON lease.run_id = run.id{_WORK_JOIN}"
# Of a deployment, and with a tag. Rows without tags have an empty text there.
_OF_PLAN = (
    "(? = '' OR run.deployment = ?) AND (? = '' OR EXISTS (SELECT 1 FROM"
    " json_each(CASE WHEN json_valid(run.tags) THEN run.tags ELSE '[]' END) WHERE value = ?))"
)
# In a catalog of version 1 that cannot be written, and so stays as it is.
IN_VERSION_1 = (
    (_PLANNED, "'', '', 0, NULL, '', '', '', '', 0, '', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL"),
    (_WORK_JOIN, ""),
    (_OF_PLAN, "(? = '' OR ? = '') AND (? = '' OR ? = '')"),
)
ADD_RUN = (
    "INSERT INTO run (id, name, flow_name, state, created, started, ended, host, pid, epoch, deployment_id, deployment, revision,"
    " nominal, origin, parameters, tags, source, depth, message, request_key)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
RUN_BY_ID = f"{_RUNS} WHERE run.id = ?"
RUN_BY_UPPER_ID = f"{_RUNS} WHERE UPPER(run.id) = ? LIMIT 2"
RUNS_BY_PREFIX = (
    f"{_RUNS} WHERE SUBSTR(UPPER(run.id), 1, ?) = ? ORDER BY run.created DESC, run.id DESC LIMIT 4"
)
RUNS_BY_NAME = f"{_RUNS} WHERE run.name = ? ORDER BY run.created DESC, run.id DESC LIMIT 1"
RUNS = f"""{_RUNS}
    WHERE (? = '' OR run.flow_name = ?) AND run.created >= ?
        AND (run.created, run.id) < (?, ?)
        AND run.state NOT IN (SELECT value FROM json_each(?))
        AND {_OF_PLAN}
    ORDER BY run.created DESC, run.id DESC
    LIMIT ?"""
# Catalogs of before have no column for what seals a row.
HAS_MAC = "SELECT COUNT(*) FROM pragma_table_info('run') WHERE name = 'mac'"
ADD_MAC = "ALTER TABLE run ADD COLUMN mac BLOB"
NO_MAC = ("run.mac", "NULL")
DELETE_SUMMARY = "DELETE FROM summary WHERE run_id = ?"
CLEAR_SUMMARY = (
    "DELETE FROM summary WHERE run_id = ? AND EXISTS (SELECT 1 FROM run WHERE id = ? AND epoch = ?)"
)
ADD_SUMMARY = "INSERT INTO summary (run_id, body, mac) SELECT id, ?, ? FROM run WHERE id = ? AND epoch = ?"
READ_SUMMARY = "SELECT body, mac FROM summary WHERE run_id = ?"
SEAL_RUN = "UPDATE run SET mac = ? WHERE id = ?"
CORRECT_RUN = (
    "UPDATE run SET name = ?, flow_name = ?, state = ?, created = ?, started = ?, ended = ?, host = ?, pid = ?"
    " WHERE id = ? AND epoch = ?"
)
DRIVE_RUN = "UPDATE run SET host = ?, pid = ?, epoch = ? WHERE id = ?"
SET_STATE = "UPDATE run SET state = ?, started = COALESCE(started, ?), ended = ? WHERE id = ? AND epoch = ?"
NOTE_STATE = "UPDATE run SET state = ?, ended = ? WHERE id = ? AND epoch = ? AND state = ?"
MEND_STATE = "UPDATE run SET state = ?, ended = ? WHERE id = ? AND epoch = ? AND state <> ?"
RENAME_RUN = "UPDATE run SET name = ?, state = ? WHERE id = ?"
SET_MESSAGE = "UPDATE run SET message = ? WHERE id = ?"
DELETE_RUN = (
    "DELETE FROM work WHERE run_id = ?",
    "DELETE FROM run WHERE id = ?",
    "DELETE FROM lease WHERE run_id = ?",
    "DELETE FROM request WHERE run_id = ?",
    DELETE_SUMMARY,
)

DELETE_LEASE = "DELETE FROM lease WHERE run_id = ?"
ADD_LEASE = "INSERT INTO lease (run_id, epoch, host, pid, boot_id, steady_until, wall_until) VALUES (?, ?, ?, ?, ?, ?, ?)"
RENEW_LEASE = "UPDATE lease SET steady_until = ?, wall_until = ? WHERE run_id = ? AND epoch = ?"
RETURN_LEASE = "DELETE FROM lease WHERE run_id = ? AND epoch = ?"

NEXT_REQUEST = "UPDATE counter SET value = value + 1 WHERE name = 'request'"
READ_REQUEST_NUMBER = "SELECT value FROM counter WHERE name = 'request'"
ADD_REQUEST = "INSERT INTO request (id, run_id, epoch, kind, body, at) VALUES (?, ?, ?, ?, ?, ?)"
WAITING_REQUESTS = (
    "SELECT id, run_id, kind, body, at FROM request"
    " WHERE run_id = ? AND answered IS NULL AND epoch = ? ORDER BY id"
)
ANSWER_REQUEST = "UPDATE request SET answer = ?, answered = ? WHERE id = ? AND run_id = ? AND epoch = ? AND answered IS NULL"
ANSWER_ALL = (
    "UPDATE request SET answer = ?, answered = ? WHERE run_id = ? AND epoch <= ? AND answered IS NULL"
)
READ_ANSWER = "SELECT run_id, answer FROM request WHERE id = ?"
