"""The contract of a result store, as a test suite: a store's tests subclass it and give one.

class TestMine(ResultStoreContract):
    @pytest.fixture
    def store(self):
        ...
"""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from graphflow.errors import GraphflowError, ResultDamaged, ResultStoreError, ValueUnavailable
from graphflow.ports import ResultStore

__all__ = ["BAD_NAMES", "ResultStoreContract"]

BAD_NAMES = (
    "",
    ".",
    "..",
    "../x",
    "/x",
    "x/",
    "x//y",
    "x/../y",
    "x/../../y",
    "x/./y",
    ".x",
    "x/.y",
    "x\\y",
    "x\0y",
    "x\ny",
    "x\x7f",
    "\ud800",
    "x" * 201,
    "x/" * 400 + "y",
)
"""What names nothing."""


def _raised(kind: type[GraphflowError], act: Callable[[], Any]) -> GraphflowError:
    try:
        act()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


class ResultStoreContract:
    """What every store does. The fixture `store` gives an empty one for each test."""

    # -- objects -------------------------------------------------------------------------------------------

    def test_an_object_reads_as_it_was_written(self, store: ResultStore) -> None:
        assert isinstance(store, ResultStore)
        assert store.publish("one", [b"abc", b"", b"defgh"]) == 8
        assert store.read("one", 0, 8) == b"abcdefgh"
        assert store.read("one", 2, 3) == b"cde"
        assert store.read("one", -3, 2) == b"fg"
        assert store.read("one", -8, 8) == b"abcdefgh"
        assert store.read("one", 8, 0) == b"" and store.read("one", -8, 0) == b""
        assert store.publish("empty", []) == 0
        assert store.read("empty", 0, 0) == b""
        data = bytes(range(256)) * 1000
        assert store.publish("large", [data]) == len(data)
        assert store.read("large", 1, len(data) - 1) == data[1:]

    def test_an_object_is_replaced_as_a_whole(self, store: ResultStore) -> None:
        store.publish("a/one", [b"a longer text"])
        store.publish("a/one", [b"short"])
        assert store.read("a/one", 0, 5) == b"short"
        _raised(ResultDamaged, lambda: store.read("a/one", 0, 6))
        assert [each.nbytes for each in store.entries()] == [5]

    def test_what_is_missing_or_shorter_is_damaged(self, store: ResultStore) -> None:
        for name in ("one", "a/b/one"):
            error = _raised(ResultDamaged, lambda name=name: store.read(name, 0, 1))  # type: ignore[misc]
            assert name in str(error) and isinstance(error, ValueUnavailable)
            _raised(ResultDamaged, lambda name=name: store.read(name, 0, 0))  # type: ignore[misc]
        store.publish("one", [b"abc"])
        for offset, nbytes in ((0, 4), (3, 1), (4, 1), (4, 0), (-4, 1), (-4, 4), (-1, 2)):
            _raised(ResultDamaged, lambda at=offset, n=nbytes: store.read("one", at, n))  # type: ignore[misc]
        # What is above an object is no object.
        store.publish("a/b", [b"abc"])
        _raised(ResultDamaged, lambda: store.read("a", 0, 1))

    def test_many_are_read_at_once_and_errors_stand_in_their_places(self, store: ResultStore) -> None:
        for number in range(20):
            store.publish(f"n/{number}", [bytes([number]) * 10])
        ranges = [(f"n/{number % 25}", number % 5, 5) for number in range(100)]
        found = store.read_many(ranges)
        for (name, _, _), each in zip(ranges, found, strict=True):
            number = int(name[2:])
            if number < 20:
                assert each == bytes([number]) * 5
            else:
                assert isinstance(each, ResultDamaged) and name in str(each)
        assert store.read_many([]) == []
        one, two = store.read_many([("n/1", 8, 3), ("n/1", -2, 2)])
        assert isinstance(one, ResultDamaged) and two == bytes([1, 1])

    def test_objects_are_listed_by_the_beginning_of_their_names(self, store: ResultStore) -> None:
        assert list(store.entries()) == [] and list(store.names("a/")) == []
        before = time.time()
        for name in ("one", "a/x", "a/y/z", "ab/x", "a b/ü", "b/x"):
            store.publish(name, [name.encode()])
        found = {each.name: each for each in store.entries()}
        assert set(found) == {"one", "a/x", "a/y/z", "ab/x", "a b/ü", "b/x"}
        for name, each in found.items():
            assert each.nbytes == len(name.encode())
            # The store's clock; some count whole seconds.
            assert before - 60 < each.modified < time.time() + 60
        for prefix in ("a", "a/", "a/y", "a/y/", "a/y/z", "ab", "o", "zz/"):
            assert set(store.names(prefix)) == {name for name in found if name.startswith(prefix)}

    def test_what_was_removed_is_gone_and_may_be_removed_again(self, store: ResultStore) -> None:
        for name in ("one", "a/two", "a/three"):
            store.publish(name, [b"x"])
        store.delete(["one", "a/two", "nowhere", "no/where"])
        store.delete(iter(["one"]))
        store.delete([])
        assert list(store.names()) == ["a/three"]
        _raised(ResultDamaged, lambda: store.read("one", 0, 1))

    def test_no_name_leads_out_of_its_place(self, store: ResultStore) -> None:
        store.publish("x/y", [b"safe"])
        for name in BAD_NAMES:
            actions: Sequence[Callable[[], Any]] = (
                lambda name=name: store.publish(name, [b"x"]),  # type: ignore[misc]
                lambda name=name: store.create(name, b"x"),  # type: ignore[misc]
                lambda name=name: store.read(name, 0, 1),  # type: ignore[misc]
                lambda name=name: store.read_many([("x/y", 0, 1), (name, 0, 1)]),  # type: ignore[misc]
                lambda name=name: store.delete(["x/y", name]),  # type: ignore[misc]
            )
            for act in actions:
                error = _raised(ResultStoreError, act)
                assert "cannot name a result" in str(error) and not isinstance(error, ResultDamaged)
        for prefix in ("../", "/", "x//", "./"):
            _raised(ResultStoreError, lambda prefix=prefix: list(store.entries(prefix)))  # type: ignore[misc]
        store.publish("x/y", [b"safe"])
        assert list(store.names()) == ["x/y"]

    def test_a_check_leaves_nothing_behind(self, store: ResultStore) -> None:
        store.check()
        store.check()
        assert list(store.names()) == []

    # -- claims --------------------------------------------------------------------------------------------

    def test_a_claim_is_made_once(self, store: ResultStore) -> None:
        if not store.can_create:
            error = _raised(ResultStoreError, lambda: store.create("claims/one", b"mine"))
            assert "nothing can be claimed" in str(error)
            assert list(store.names()) == []
            return
        assert store.create("claims/one", b"mine") is True
        assert store.create("claims/one", b"yours") is False
        assert store.create("claims/one", b"longer than the first") is False
        assert store.read("claims/one", 0, 4) == b"mine"
        assert [each.name for each in store.entries("claims/")] == ["claims/one"]
        store.delete(["claims/one"])
        assert store.create("claims/one", b"yours") is True

    def test_a_claim_has_a_token(self, store: ResultStore) -> None:
        assert "is empty" in str(_raised(ResultStoreError, lambda: store.create("claims/one", b"")))
        assert list(store.names()) == []

    def test_of_many_threads_one_makes_a_claim(self, store: ResultStore) -> None:
        if not store.can_create:
            return
        threads, rounds = 8, 5
        barrier = threading.Barrier(threads)

        def claim(thread: int) -> list[bool]:
            won = []
            for number in range(rounds):
                barrier.wait(timeout=60)
                won.append(store.create(f"claims/{number}", f"thread {thread}".encode()))
            return won

        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(claim, range(threads)))
        for number in range(rounds):
            (winner,) = [thread for thread in range(threads) if found[thread][number]]
            token = f"thread {winner}".encode()
            assert store.read(f"claims/{number}", 0, len(token)) == token

    # -- sharing -------------------------------------------------------------------------------------------

    def test_threads_use_one_store(self, store: ResultStore) -> None:
        def work(thread: int) -> None:
            for number in range(5):
                data = f"{thread} {number}".encode() * 50
                store.publish(f"t{thread}/{number}", [data])
                assert store.read(f"t{thread}/{number}", 0, len(data)) == data
                assert store.read_many([(f"t{thread}/{number}", 10, 20)] * 3) == [data[10:30]] * 3

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        assert len(list(store.names())) == 40

    def test_it_travels_as_options_and_never_shows_its_keys(self, store: ResultStore) -> None:
        store.publish("one", [b"abc"])
        copy = pickle.loads(pickle.dumps(store, protocol=5))
        assert copy == store and hash(copy) == hash(store)
        assert (copy.url, tuple(copy.keys), copy.is_shared) == (store.url, tuple(store.keys), store.is_shared)
        assert copy.read("one", 0, 3) == b"abc"
        # References to many columns share one store.
        assert pickle.loads(pickle.dumps(store, protocol=5)) is pickle.loads(pickle.dumps(copy, protocol=5))
        for text in (repr(store), str(store), store.url):
            assert all(repr(key)[2:12] not in text and key.hex() not in text for key in store.keys)
