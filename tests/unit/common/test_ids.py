from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from graphflow.common.ids import idempotency_key, node_key, run_id


def test_a_run_id_is_a_ulid() -> None:
    found = run_id()
    assert len(found) == 26
    assert set(found) <= set("0123456789ABCDEFGHJKMNPQRSTVWXYZ")


@given(st.integers(0, 2**47), st.integers(1, 2**40))
def test_run_ids_sort_by_the_time_they_were_made(milliseconds: int, later: int) -> None:
    earlier_id = run_id(now=milliseconds / 1000)
    later_id = run_id(now=(milliseconds + later + 1) / 1000)
    assert earlier_id[:10] <= later_id[:10]
    assert run_id(now=0)[:10] == "0" * 10


def test_run_ids_of_one_moment_differ() -> None:
    assert len({run_id(now=1.0) for _ in range(100)}) == 100


names = st.text(max_size=8)


@given(names, names, names, st.integers(0, 99), names, names, names, st.integers(0, 99))
def test_different_calls_have_different_keys(
    flow: str, scope: str, task: str, number: int, flow2: str, scope2: str, task2: str, number2: int
) -> None:
    separator = "\x1f"
    if any(separator in text for text in (flow, scope, task, flow2, scope2, task2)):
        return
    same = (flow, scope, task, number) == (flow2, scope2, task2, number2)
    assert (node_key(flow, scope, task, number) == node_key(flow2, scope2, task2, number2)) == same


def test_an_idempotency_key_tells_items_apart_and_a_task_from_its_first_item() -> None:
    keys = {idempotency_key("run", "key", index) for index in (None, 0, 1)}
    assert len(keys) == 3
    assert idempotency_key("run", "key", 0) == idempotency_key("run", "key", 0)
    assert idempotency_key("other", "key", 0) not in keys
