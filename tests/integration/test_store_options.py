"""Options that open a store."""

from __future__ import annotations

import pytest

from graphflow.errors import ResultStoreError
from graphflow.results.stores.remote import FsspecStore

KEY = bytes(range(32))


def test_options_that_a_file_system_does_not_take_are_a_clear_error() -> None:
    store = FsspecStore("s3://bucket", {"max_concurrency": 0}, key=KEY)
    with pytest.raises(ResultStoreError, match="s3://bucket cannot be opened: ValueError"):
        store.check()
