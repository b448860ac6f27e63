"""The limit of open files."""

import resource

import pytest

from homeserver.runtime import files


def test_the_limit_is_raised_to_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {resource.RLIMIT_NOFILE: (1_024, 50_000)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    monkeypatch.setattr(resource, "setrlimit", limits.__setitem__)
    assert files.allow_many_files() == 50_000
    assert limits[resource.RLIMIT_NOFILE] == (50_000, 50_000)


def test_a_low_limit_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    assert files.allow_many_files() == 256
    assert "256" in caplog.text
