"""What the environment says of result stores."""

from __future__ import annotations

import pytest

from graphflow.common import settings
from graphflow.errors import SettingsError


def test_result_storage_is_a_url_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAPHFLOW_RESULT_STORAGE", raising=False)
    assert settings.result_storage() is None
    monkeypatch.setenv("GRAPHFLOW_RESULT_STORAGE", "s3://bucket/x")
    assert settings.result_storage() == "s3://bucket/x"


def test_storage_options_are_a_json_object(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "GRAPHFLOW_RESULT_STORAGE_OPTIONS"
    monkeypatch.delenv(name, raising=False)
    assert settings.result_storage_options() == {}
    monkeypatch.setenv(name, '{"endpoint_url": "http://localhost:9000", "client_kwargs": {"x": 1}}')
    assert settings.result_storage_options()["client_kwargs"] == {"x": 1}
    for text in ("canary", '["canary"]', '"canary"', '{"canary": '):
        monkeypatch.setenv(name, text)
        with pytest.raises(SettingsError, match="is not a JSON object") as info:
            settings.result_storage_options()
        # It may hold credentials.
        assert "canary" not in str(info.value)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many"])
def test_attempts_are_counted(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.delenv("GRAPHFLOW_STORE_ATTEMPTS", raising=False)
    assert settings.store_attempts() == 6
    monkeypatch.setenv("GRAPHFLOW_STORE_ATTEMPTS", "3")
    assert settings.store_attempts() == 3
    monkeypatch.setenv("GRAPHFLOW_STORE_ATTEMPTS", text)
    with pytest.raises(SettingsError, match="positive integer"):
        settings.store_attempts()


def test_times_are_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, read, default in (
        ("GRAPHFLOW_STORE_RETRY_SECONDS", settings.store_retry_seconds, 60.0),
        ("GRAPHFLOW_STORE_TIMEOUT_SECONDS", settings.store_timeout_seconds, 30.0),
    ):
        monkeypatch.delenv(name, raising=False)
        assert read() == default
        monkeypatch.setenv(name, "2.5")
        assert read() == 2.5
        for text in ("0", "-1", "inf", "nan", "soon"):
            monkeypatch.setenv(name, text)
            with pytest.raises(SettingsError, match=f"{name} is '{text}'; use a positive number of seconds"):
                read()
        monkeypatch.delenv(name)
