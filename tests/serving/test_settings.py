"""Settings from the environment: what is refused at the start, and under which names the service answers."""

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from whisper_router.cli import app
from whisper_router.serving.settings import PREFIX, Settings


@pytest.mark.parametrize("name", ["api_key", "host", "router", "log", "port"])
@pytest.mark.parametrize("value", ["", "  ", "\n"])
def test_an_empty_value_is_refused_rather_than_taken_for_none(monkeypatch, name, value):
    monkeypatch.setenv(f"{PREFIX}{name.upper()}", value)
    with pytest.raises(ValidationError, match="is empty"):
        Settings()


@pytest.mark.parametrize("key", ["two words", "line\n", "sch\u00f6n"])
def test_a_key_that_no_client_could_send_is_refused(key):
    with pytest.raises(ValidationError, match="printable ASCII"):
        Settings(api_key=key)


def test_a_key_that_is_refused_is_not_shown(monkeypatch):
    monkeypatch.setenv(f"{PREFIX}API_KEY", "s3cret s3cret")
    done = CliRunner().invoke(app, ["serve"])
    assert done.exit_code != 0
    assert f"{PREFIX}API_KEY" in str(done.exception or "") + done.output
    assert "s3cret" not in str(done.exception or "") + done.output


LOOPBACK = ["127.0.0.1", "127.0.0.1:8000", "localhost", "LOCALHOST:80", "localhost.", "[::1]", "[::1]:8000"]
OTHER = [
    "evil.example",
    "evil.example:8000",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "10.0.0.1",
    "",
]


@pytest.mark.parametrize("bound", ["127.0.0.1", "localhost", "::1"])
def test_on_the_loopback_interface_only_its_names_are_answered(bound):
    settings = Settings(host=bound)
    assert all(settings.allows(host) for host in LOOPBACK)
    assert not any(settings.allows(host) for host in OTHER)


@pytest.mark.parametrize("bound", ["0.0.0.0", "::", "10.0.0.1"])
def test_elsewhere_every_name_is_answered_unless_some_are_listed(bound):
    assert all(Settings(host=bound).allows(host) for host in LOOPBACK + OTHER)
    listed = Settings(host=bound, allowed_hosts="asr.example.org, [fe80::1],10.0.0.7")
    for host in ("asr.example.org", "ASR.example.org:443", "[fe80::1]:8000", "10.0.0.7:8000"):
        assert listed.allows(host)
    assert not any(listed.allows(host) for host in LOOPBACK + OTHER)
    assert all(Settings(allowed_hosts="*").allows(host) for host in LOOPBACK + OTHER)


@pytest.mark.parametrize("names", ["*.example.org", "a,,b", "http://a", "a:8000", "a b", "", " "])
def test_what_is_no_host_is_refused(names):
    with pytest.raises(ValidationError, match="is no host"):
        Settings(allowed_hosts=names)
