"""The contract of histories, on those on disk and those in memory."""

from __future__ import annotations

import pytest

from graphflow.histories.sqlite import SqliteHistory
from graphflow.histories.volatile import VolatileHistory
from graphflow.testing.contracts.histories import HERE, LEASE_SECONDS, HistoryContract, ManualClock


class DiskPlace:
    def __init__(self, folder):
        self.folder = folder
        self.clock = ManualClock()
        self.opened = []

    def history(self, holder=HERE):
        history = SqliteHistory(self.folder, clock=self.clock, lease_seconds=LEASE_SECONDS, holder=holder)
        self.opened.append(history)
        return history

    def kill(self, journal):
        journal.abandon()


class MemoryPlace:
    def __init__(self):
        self.clock = ManualClock()
        self.first = VolatileHistory(clock=self.clock, lease_seconds=LEASE_SECONDS, holder=HERE)

    def history(self, holder=HERE):
        return self.first.beside(holder)

    def kill(self, journal):
        journal.abandon()


class TestHistoriesOnDisk(HistoryContract):
    @pytest.fixture
    def place(self, tmp_path):
        place = DiskPlace(tmp_path / "home")
        yield place
        for history in place.opened:
            history.close()


class TestHistoriesInMemory(HistoryContract):
    @pytest.fixture
    def place(self):
        return MemoryPlace()
