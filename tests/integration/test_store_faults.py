"""What remote stores survive: servers that fail, throttle, hang and lie, and rights that are missing."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from graphflow.errors import ResultDamaged, ResultStoreError
from graphflow.results.stores import s3 as s3_module
from graphflow.results.stores.opening import open_store
from graphflow.results.stores.remote import FsspecStore
from graphflow.results.stores.retries import Retries
from graphflow.testing.faults.s3proxy import Fault, S3Proxy
from graphflow.testing.faults.s3server import Bucket, S3Server

KEY = bytes(range(32))
QUICK = Retries(attempts=3, base_seconds=0.001)
BROKEN = {
    "refused before": Fault(method="PUT", when="before", status=500, code="InternalError"),
    "unavailable": Fault(method="PUT", when="before", status=503, code="SlowDown"),
    "cut before": Fault(method="PUT", when="before"),
    "cut halfway": Fault(method="PUT", when="halfway"),
    "stored, then 500": Fault(method="PUT", when="after", status=500, code="InternalError"),
    "stored, then cut": Fault(method="PUT", when="after"),
}


def store_at(bucket: Bucket, proxy: S3Proxy, *, retries: Retries = QUICK, **options: Any) -> FsspecStore:
    options = {**bucket.storage_options, "endpoint_url": proxy.endpoint, **options}
    return FsspecStore(f"{bucket.url}/runs", options, key=KEY, retries=retries)


@pytest.fixture
def store(s3: Bucket, s3_proxy: S3Proxy) -> FsspecStore:
    return store_at(s3, s3_proxy)


def again(fault: Fault, **changes: Any) -> Fault:
    names = ("method", "path", "times", "when", "status", "code", "hangs")
    return Fault(**{**{name: getattr(fault, name) for name in names}, **changes})


# -- writing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BROKEN)
def test_a_put_that_fails_is_tried_again(store: FsspecStore, s3_proxy: S3Proxy, kind: str) -> None:
    data = os.urandom(100_000)
    fault = again(BROKEN[kind], times=2)
    s3_proxy.plan(fault)
    assert store.publish("one", [data]) == len(data)
    assert store.read("one", 0, len(data)) == data
    assert fault.hits == 2 and len(s3_proxy.seen("PUT")) == 3


def test_a_put_that_always_fails_leaves_nothing(store: FsspecStore, s3_proxy: S3Proxy) -> None:
    store.publish("one", [b"before"])
    s3_proxy.forget()
    s3_proxy.plan(again(BROKEN["cut halfway"], times=None))
    with pytest.raises(
        ResultStoreError, match=r"one \(5 bytes\) cannot be written to s3://.*try again later"
    ):
        store.publish("one", [b"after"])
    # A connection that had been used before, and broke, is opened once more by the HTTP client itself.
    assert QUICK.attempts <= len(s3_proxy.seen("PUT")) <= 2 * QUICK.attempts
    assert store.read("one", 0, 6) == b"before"


def test_a_large_object_appears_when_all_its_parts_are_there(
    store: FsspecStore, s3_proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "PART_NBYTES", 5 << 20)
    data = os.urandom(11 << 20)
    s3_proxy.plan(Fault(method="PUT", path="partNumber=2", status=500, code="InternalError"))
    store.publish("large", [data[:1000], data[1000:]])
    assert store.read("large", 0, len(data)) == data
    s3_proxy.plan(Fault(method="PUT", path="partNumber=3", times=None, status=503, code="SlowDown"))
    with pytest.raises(ResultStoreError, match="SlowDown"):
        store.publish("other", [data])
    assert list(store.names()) == ["large"]
    # What was uploaded of it was given up.
    assert len(s3_proxy.seen("DELETE", "uploadId")) == QUICK.attempts + 1


# -- throttling, broken and slow connections ---------------------------------------------------------------

ACTIONS: dict[str, Callable[[FsspecStore], Any]] = {
    "publish": lambda store: store.publish("two", [b"x"]),
    "read": lambda store: store.read("one", 0, 3),
    "read nothing": lambda store: store.read("one", 0, 0),
    "list": lambda store: list(store.entries()),
    "delete": lambda store: store.delete(["two"]),
    "check": lambda store: store.check(),
    "create": lambda store: store.create("claim", b"token"),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_throttling_costs_a_few_requests_and_ends_in_a_clear_error(
    store: FsspecStore, s3_proxy: S3Proxy, action: str
) -> None:
    store.publish("one", [b"abc"])
    assert store.can_create
    s3_proxy.forget()
    s3_proxy.plan(Fault(times=None, status=503, code="SlowDown", message="Reduce your request rate."))
    with pytest.raises(ResultStoreError, match=r"SlowDown|503") as info:
        ACTIONS[action](store)
    assert "does not respond properly" in str(info.value) and store.url in str(info.value)
    assert not isinstance(info.value, ResultDamaged)
    # A claim is looked at once more, since an answer may have been lost.
    assert len(s3_proxy.seen()) <= QUICK.attempts * (2 if action == "create" else 1)


@pytest.mark.parametrize("action", ACTIONS)
def test_trouble_that_passes_is_waited_for(store: FsspecStore, s3_proxy: S3Proxy, action: str) -> None:
    store.publish("one", [b"abc"])
    for fault in (
        Fault(status=503, code="SlowDown"),
        Fault(),
        Fault(when="after", status=500, code="InternalError"),
    ):
        s3_proxy.plan(fault)
        ACTIONS[action](store)


def test_the_number_of_attempts_can_be_set(
    s3: Bucket, s3_proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHFLOW_STORE_ATTEMPTS", "1")
    store = open_store(s3.url, storage_options={"endpoint_url": s3_proxy.endpoint})
    s3_proxy.plan(Fault(status=500, code="InternalError"))
    with pytest.raises(ResultStoreError):
        store.publish("one", [b"x"])
    assert len(s3_proxy.seen()) == 1


def test_only_what_failed_of_many_reads_is_read_again(store: FsspecStore, s3_proxy: S3Proxy) -> None:
    data = os.urandom(50_000)
    for number in range(4):
        store.publish(f"n{number}", [data])
    s3_proxy.forget()
    s3_proxy.plan(
        Fault(method="GET", path="n1", when="halfway"),
        Fault(method="GET", path="n2", when="before"),
        Fault(method="GET", path="n2", status=500, code="InternalError"),
    )
    assert store.read_many([(f"n{number}", 0, len(data)) for number in range(4)]) == [data] * 4
    assert [len(s3_proxy.seen("GET", f"n{number}")) for number in range(4)] == [1, 2, 3, 1]


def test_a_server_that_hangs_is_given_up(s3: Bucket, s3_proxy: S3Proxy) -> None:
    store = store_at(s3, s3_proxy, config_kwargs={"read_timeout": 0.2})
    store.publish("one", [b"abc"])
    s3_proxy.plan(Fault(method="GET", hangs=True))
    assert store.read("one", 0, 3) == b"abc"
    store = store_at(s3, s3_proxy, retries=Retries(attempts=2, base_seconds=0.001, timeout_seconds=0.2))
    s3_proxy.plan(Fault(hangs=True, times=None))
    for action in ("read", "publish", "list"):
        with pytest.raises(ResultStoreError, match="does not respond properly"):
            ACTIONS[action](store)


def test_new_credentials_in_the_environment_are_used_at_once(
    s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FsspecStore(s3.url, key=KEY)
    store.publish("one", [b"abc"])
    before = store._files
    assert isinstance(before, s3_module.S3) and isinstance(store._files, s3_module.S3)
    assert store._files.fs is before.fs
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "renewed")
    assert store._files.fs is not before.fs
    assert store.read("one", 0, 3) == b"abc"


def test_nobody_at_the_address_is_a_clear_error(s3: Bucket) -> None:
    options = {**s3.storage_options, "endpoint_url": "http://127.0.0.1:9"}
    store = FsspecStore(s3.url, options, key=KEY, retries=Retries(attempts=2, base_seconds=0.001))
    with pytest.raises(ResultStoreError, match="does not respond properly"):
        store.check()


# -- claims ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BROKEN)
def test_whoever_claimed_knows_it_whatever_the_server_answered(
    store: FsspecStore, s3_proxy: S3Proxy, kind: str
) -> None:
    assert store.can_create
    s3_proxy.plan(again(BROKEN[kind], times=2))
    assert store.create("claims/one", b"mine") is True
    assert store.create("claims/one", b"other") is False
    s3_proxy.plan(again(BROKEN[kind], times=2))
    assert store.create("claims/one", b"other") is False


def test_a_claim_whose_answers_are_all_lost_is_read_back(store: FsspecStore, s3_proxy: S3Proxy) -> None:
    assert store.can_create
    s3_proxy.plan(Fault(method="PUT", when="after", status=500, code="InternalError", times=None))
    assert store.create("claims/one", b"mine") is True
    with pytest.raises(ResultStoreError, match="InternalError"):
        store.create("claims/one", b"other")
    assert store.read("claims/one", 0, 4) == b"mine"


def test_a_conflict_is_tried_again(store: FsspecStore, s3_proxy: S3Proxy) -> None:
    assert store.can_create
    s3_proxy.plan(Fault(method="PUT", status=409, code="ConditionalRequestConflict", times=2))
    assert store.create("claims/one", b"mine") is True


def test_a_claim_that_vanishes_while_it_is_looked_at_is_free(store: FsspecStore, s3_proxy: S3Proxy) -> None:
    assert store.can_create
    s3_proxy.plan(Fault(method="PUT", status=412, code="PreconditionFailed"))
    assert store.create("claims/one", b"mine") is True


def test_a_server_without_conditions_is_refused(s3: Bucket, s3_proxy: S3Proxy) -> None:
    s3_proxy.keeps_conditions = False
    store = store_at(s3, s3_proxy)
    assert store.can_create is False
    with pytest.raises(ResultStoreError, match="nothing can be claimed in s3://.*no exclusive create"):
        store.create("claims/one", b"mine")
    assert list(store.names()) == []
    s3_proxy.plan(Fault(method="PUT", status=501, code="NotImplemented", times=None))
    assert store_at(s3, s3_proxy, use_ssl=False).can_create is False


# -- rights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        (403, "AccessDenied", "do not permit this operation"),
        (403, "InvalidAccessKeyId", "does not accept the credentials"),
        (403, "SignatureDoesNotMatch", "does not accept the credentials"),
        (400, "ExpiredToken", "have expired"),
        (403, "RequestExpired", "have expired"),
    ],
)
def test_missing_rights_are_told_at_once(
    store: FsspecStore, s3_proxy: S3Proxy, status: int, code: str, text: str
) -> None:
    store.publish("one", [b"abc"])
    assert store.can_create
    s3_proxy.plan(Fault(status=status, code=code, times=None))
    for action in ("check", "publish", "read", "list", "delete", "create"):
        s3_proxy.forget()
        with pytest.raises(ResultStoreError, match=text) as info:
            ACTIONS[action](store)
        assert code in str(info.value) and not isinstance(info.value, ResultDamaged)
        assert len(s3_proxy.seen()) == 1


def test_rights_to_read_are_not_enough(store: FsspecStore, s3_proxy: S3Proxy) -> None:
    store.publish("one", [b"abc"])
    s3_proxy.plan(Fault(method="PUT", status=403, code="AccessDenied", times=None))
    assert store.read("one", 0, 3) == b"abc"
    with pytest.raises(ResultStoreError, match="do not permit this operation"):
        store.check()


def test_what_may_not_be_removed_is_told(store: FsspecStore, s3_proxy: S3Proxy) -> None:
    store.publish("one", [b"abc"])
    s3_proxy.plan(Fault(method="POST", path="delete", status=403, code="AccessDenied"))
    with pytest.raises(ResultStoreError, match="1 result cannot be removed.*do not permit this operation"):
        store.delete(["one"])


@pytest.fixture
def strict_server(s3_server: S3Server) -> Iterator[S3Server]:
    """The server, which knows nobody until the test is over."""
    yield s3_server
    s3_server.ask("POST", "/moto-api/reset-auth", b"inf")


def test_a_server_that_does_not_know_the_credentials(s3: Bucket, strict_server: S3Server) -> None:
    store = FsspecStore(s3.url, s3.storage_options, key=KEY, retries=QUICK)
    store.check()
    strict_server.ask("POST", "/moto-api/reset-auth", b"0")
    with pytest.raises(ResultStoreError, match=r"does not accept the credentials \(InvalidAccessKeyId\)"):
        store.check()


def test_a_wrong_bucket_is_a_clear_error(s3: Bucket) -> None:
    store = FsspecStore("s3://graphflow-no-such-bucket", key=KEY, retries=QUICK)
    for action in ("check", "publish", "read", "list"):
        with pytest.raises(ResultStoreError, match="there is no such bucket") as info:
            ACTIONS[action](store)
        assert "s3://graphflow-no-such-bucket" in str(info.value)
        assert not isinstance(info.value, ResultDamaged)


def test_missing_credentials_are_a_clear_error(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    store = FsspecStore(s3.url, {"endpoint_url": s3.endpoint}, key=KEY, retries=QUICK)
    with pytest.raises(ResultStoreError, match="no usable credentials were found"):
        store.check()
    store = FsspecStore(s3.url, {"profile": "nowhere"}, key=KEY, retries=QUICK)
    with pytest.raises(ResultStoreError, match=r"no usable credentials were found.*nowhere"):
        store.check()


# -- listings ----------------------------------------------------------------------------------------------


def test_a_listing_that_lags_hides_what_can_be_read(store: FsspecStore, s3_proxy: S3Proxy) -> None:
    store.publish("a/old", [b"1"])
    s3_proxy.lag_listings()
    store.publish("a/new", [b"2"])
    assert list(store.names("a/")) == ["a/old"]
    assert store.read("a/new", 0, 1) == b"2"
    s3_proxy.catch_up()
    assert sorted(store.names("a/")) == ["a/new", "a/old"]


def test_a_listing_of_several_pages_goes_on_where_it_failed(
    store: FsspecStore, s3_proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        store.publish(f"a/{number}", [b"x"])
    monkeypatch.setattr(s3_module, "LISTED_AT_ONCE", 2)
    s3_proxy.forget()
    s3_proxy.plan(Fault(path="continuation-token", status=500, code="InternalError"))
    assert sorted(store.names()) == [f"a/{number}" for number in range(5)]
    assert len(s3_proxy.seen("GET")) == 4


def test_foreign_objects_are_no_results(store: FsspecStore, s3: Bucket, s3_server: S3Server) -> None:
    store.publish("good", [b"x"])
    for key in ("runs/../escaped", "runs/.hidden", "runs/folder/", "runs//twice", "runs2/x", "elsewhere"):
        s3_server.ask("PUT", f"/{s3.name}/{key.replace('..', '%2E%2E')}", b"foreign")
    assert list(store.names()) == ["good"]


# -- secrets -----------------------------------------------------------------------------------------------

CANARY = "canary-3b1c"


def test_credentials_are_never_shown(
    s3: Bucket, s3_proxy: S3Proxy, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHFLOW_STORE_ATTEMPTS", "1")
    caplog.set_level(logging.DEBUG, logger="graphflow")
    options = {
        "key": f"{CANARY}-key",
        "secret": f"{CANARY}-secret",
        "token": f"{CANARY}-token",
        "endpoint_url": s3_proxy.endpoint,
    }
    told: list[str] = []

    def tell(act: Callable[[], Any]) -> None:
        try:
            told.append(repr(act()))
        except ResultStoreError as error:
            told.append("".join(traceback.format_exception(error)))

    store = FsspecStore(s3.url, options, key=KEY, retries=Retries(attempts=1))
    for fault in (
        Fault(status=403, code="AccessDenied", message=f"{CANARY}-key may not", times=None),
        Fault(status=500, code="InternalError", message=f"{CANARY}-secret", times=None),
        Fault(times=None),
    ):
        s3_proxy.plan(fault)
        for action in ACTIONS.values():
            tell(lambda action=action: action(store))
    assert any("AccessDenied" in text for text in told) and any("InternalError" in text for text in told)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{CANARY}-of-the-environment")
    message = f"{CANARY}-of-the-environment is wrong"
    s3_proxy.plan(Fault(status=403, code="AccessDenied", message=message, times=None))
    tell(FsspecStore(s3.url, {"endpoint_url": s3_proxy.endpoint}, key=KEY).check)
    options["endpoint_url"] = f"http://{CANARY}-user:{CANARY}-word@127.0.0.1:9"
    store = FsspecStore(s3.url, options, key=KEY, retries=Retries(attempts=1))
    tell(lambda: store.check())
    tell(lambda: (store, store.url, store.__reduce__()))
    for url in (
        f"s3://{CANARY}-key:{CANARY}-secret@{s3.name}/x",
        f"s3://{s3.name}/x?token={CANARY}",
        f"sftp://{CANARY}:{CANARY}@127.0.0.1/x#{CANARY}",
    ):
        tell(lambda url=url: open_store(url, storage_options={"password": CANARY}))
    tell(lambda: open_store(f"ftp://me:{CANARY}@127.0.0.1:9/x", storage_options={"password": CANARY}))
    tell(lambda: open_store(f"ftp://me:{CANARY}@127.0.0.1:9/x").read("x", 0, 1))
    tell(lambda: open_store(s3.url, storage_options={"session": [object(), CANARY]}))
    assert len(told) > 25
    for text in (*told, caplog.text):
        assert "canary" not in text
