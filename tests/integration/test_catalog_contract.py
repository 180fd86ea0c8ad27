"""The contract of catalogs, on the one on disk and the one in memory."""

from __future__ import annotations

import pytest

from graphflow.histories.catalogs import SqliteCatalog
from graphflow.histories.volatile_catalog import VolatileCatalog
from graphflow.testing.contracts.catalogs import CatalogContract


class TestCatalogsOnDisk(CatalogContract):
    @pytest.fixture
    def connect(self, tmp_path):
        opened = []

        def connect():
            opened.append(SqliteCatalog(tmp_path, creates=True))
            return opened[-1]

        yield connect
        for catalog in opened:
            catalog.close()


class TestCatalogsInMemory(CatalogContract):
    @pytest.fixture
    def connect(self):
        catalog = VolatileCatalog()
        return lambda: catalog
