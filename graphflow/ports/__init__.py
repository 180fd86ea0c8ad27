"""The ports: what the engine asks of a backend, a history, a catalog, a result store and a clock, as protocols.

Each has a contract test suite in `graphflow.testing` that every adapter passes.
"""

from __future__ import annotations

from graphflow.ports.backend import (
    Backend,
    BackendEvent,
    BackendFailed,
    BatchDone,
    BatchLost,
    Capacity,
    CapacityChanged,
    Forecasted,
)
from graphflow.ports.catalog import Catalog, Claim, Holder, Row, claim_of
from graphflow.ports.clock import Clock
from graphflow.ports.events import RunEvent
from graphflow.ports.history import History, Journal
from graphflow.ports.limiter import KnownLimits, Limiter, WantedSlots
from graphflow.ports.results import Buffer, GrowingObject, GrowingStore, ResultStore, StoredObject
from graphflow.ports.serializer import Serializer

__all__ = [
    "Backend",
    "BackendEvent",
    "BackendFailed",
    "BatchDone",
    "BatchLost",
    "Buffer",
    "Capacity",
    "CapacityChanged",
    "Catalog",
    "Claim",
    "Clock",
    "Forecasted",
    "GrowingObject",
    "GrowingStore",
    "History",
    "Holder",
    "Journal",
    "KnownLimits",
    "Limiter",
    "ResultStore",
    "Row",
    "RunEvent",
    "Serializer",
    "StoredObject",
    "WantedSlots",
    "claim_of",
]
