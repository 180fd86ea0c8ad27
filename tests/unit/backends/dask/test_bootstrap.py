"""Workers that do not fit this process are refused before anything runs."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Any

import pytest

from graphflow.backends.dask.bootstrap import bootstrap, check_facts, probe
from graphflow.errors import BackendError


def facts(**changes: Any) -> dict[str, Any]:
    same = {name: version(name) for name in ("graphflow", "cloudpickle", "distributed")}
    return {"python": list(sys.version_info[:3]), **same, **changes}


def test_a_worker_like_this_process_is_accepted() -> None:
    check_facts("tcp://w", facts())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"python": [3, 1, 0]}, "runs Python 3.1, this process"),
        ({"graphflow": "0.0.0"}, "has graphflow 0.0.0"),
        ({"cloudpickle": "0.1"}, "has cloudpickle 0.1"),
        ({"error": "ModuleNotFoundError: No module named 'graphflow'"}, "cannot run graphflow"),
    ],
)
def test_a_worker_that_differs_where_it_matters_is_refused_by_name(
    changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(BackendError, match=says) as caught:
        check_facts("tcp://w:1", facts(**changes))
    assert "tcp://w:1" in str(caught.value)


def test_what_dask_runs_for_us_travels_by_value() -> None:
    import cloudpickle

    for made in (bootstrap(), probe()):
        assert b"graphflow.backends" not in cloudpickle.dumps(made)
