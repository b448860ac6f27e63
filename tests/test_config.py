"""The configuration: every option from file and environment, and clear complaints."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from homeserver.cli.reference import config_page
from homeserver.config import SECTIONS, Config, Listener, default_file
from homeserver.options import ConfigError, Declared, Rate, declared

ROOT = Path(__file__).parents[1]
MINIMAL = {"server": {"name": "example.org"}}
OPTIONS = [one for name, shape in SECTIONS.items() for one in declared(name, shape)]
LISTENER_OPTIONS = declared("listeners", Listener)

SPECIAL: dict[str, tuple[str, Any]] = {
    "server.name": ("other.example", "other.example"),
    "server.public_base_url": ("https://m.example/", "https://m.example"),
    "server.trusted_proxies": ("10.0.0.0/8, unix", ("10.0.0.0/8", "unix")),
    "database.url": ("postgresql://u:p@db/x", "postgresql://u:p@db/x"),
    "rooms.default_version": ("11", "11"),
    "server_notices.localpart": ("the.club", "the.club"),
    "server_notices.avatar_url": ("mxc://a.example/b", "mxc://a.example/b"),
    "federation.deny_networks": ("10.0.0.0/8, fc00::/7", ("10.0.0.0/8", "fc00::/7")),
    "federation.allow_networks": ("10.1.0.0/16", ("10.1.0.0/16",)),
    "federation.notaries": ("a.example, b.example:1", ("a.example", "b.example:1")),
    "mail.from_address": ("a@b.example", "a@b.example"),
    "appservices.files": ("a.yaml, b.yaml", (Path("/etc/hs/a.yaml"), Path("/etc/hs/b.yaml"))),
    "federation.dns": ("9.9.9.9:53, [::1]:53", ("9.9.9.9:53", "[::1]:53")),
    "calls.turn_uris": ("turn:a.example, turns:b.example", ("turn:a.example", "turns:b.example")),
    "calls.livekit_urls": ("https://a.example", ("https://a.example",)),
    "support.page": ("https://help.example", "https://help.example"),
    "support.admin_user": ("@admin:m.example", "@admin:m.example"),
    "support.admin_email": ("admin@m.example", "admin@m.example"),
    "support.security_user": ("@guard:m.example", "@guard:m.example"),
    "support.security_email": ("guard@m.example", "guard@m.example"),
    "push.gateways": ("up.example.org, push.example:8443", ("up.example.org", "push.example:8443")),
}


# What must be said beside an option.
NEEDED: dict[str, dict[str, Any]] = {"registration.verify_email": {"mail": {"host": "localhost"}}}


def another(one: Declared) -> tuple[str, Any]:
    """A value other than the default: as text of the environment, and as it is read."""
    if one.key in SPECIAL:
        return SPECIAL[one.key]
    kind = one.kind
    if get_origin(kind) is Literal:
        choice = next(choice for choice in get_args(kind) if choice != one.default)
        return choice, choice
    if kind is bool:
        return str(not one.default).lower(), not one.default
    if kind is int:
        number = one.default + 1 if one.option.most != one.default else one.default - 1
        return str(number), number
    if kind is Rate:
        return "7/h, 3 at once", Rate(7, 3_600, 3)
    if kind is str:
        return "some text", "some text"
    return "some/path", Path("/etc/hs/some/path")


def read(document: dict[str, Any], environ: dict[str, str] | None = None) -> Config:
    return Config.read(document, "hs.toml", Path("/etc/hs"), environ or {})


def value_of(config: Config, one: Declared) -> Any:
    return getattr(getattr(config, one.section), one.name)


def in_file(one: Declared, text: str, value: Any) -> Any:
    """The value as TOML has it."""
    if isinstance(value, tuple):
        return [part.strip() for part in text.split(",")]
    return value if isinstance(value, bool | int) else text


@pytest.mark.parametrize("one", OPTIONS, ids=lambda one: one.key)
class TestEachOption:
    def test_it_has_a_default_or_is_the_name(self, one: Declared) -> None:
        assert one.required == (one.key == "server.name")

    def test_it_has_a_reason(self, one: Declared) -> None:
        assert len(one.option.reason) > 20
        assert one.option.reason.endswith(".")

    def test_it_is_read_from_the_file(self, one: Declared) -> None:
        text, value = another(one)
        document: dict[str, Any] = {"server": {"name": "example.org"}, **NEEDED.get(one.key, {})}
        document.setdefault(one.section, {})[one.name] = in_file(one, text, value)
        config = read(document)
        assert value_of(config, one) == value
        assert config.origins[one.key] == "file"

    def test_it_is_read_from_the_environment(self, one: Declared) -> None:
        text, value = another(one)
        config = read(MINIMAL | NEEDED.get(one.key, {}), {one.variable: text})
        assert value_of(config, one) == value
        assert config.origins[one.key] == "environment"

    def test_a_wrong_type_is_named(self, one: Declared) -> None:
        document: dict[str, Any] = {"server": {"name": "example.org"}}
        document.setdefault(one.section, {})[one.name] = {"a": 1}
        with pytest.raises(ConfigError, match=rf"hs.toml: {one.section}\.{one.name} must be"):
            read(document)

    def test_a_misspelt_key_is_corrected(self, one: Declared) -> None:
        document: dict[str, Any] = {"server": {"name": "example.org"}}
        wrong = one.name[:-1] + "q"
        document.setdefault(one.section, {})[wrong] = 1
        with pytest.raises(ConfigError, match=rf"Did you mean {one.section}\.{one.name}\?"):
            read(document)

    def test_it_stands_in_the_reference(self, one: Declared) -> None:
        assert f"`{one.name}`" in config_page()
        assert f"`{one.variable}`" in config_page()


@pytest.mark.parametrize("one", LISTENER_OPTIONS, ids=lambda one: one.name)
def test_each_option_of_listeners_is_read(one: Declared) -> None:
    value: Any = {"address": "::", "port": 9, "apis": ["client"]}.get(one.name, "some/path")
    table = {"tls_certificate": "c", "tls_key": "k", one.name: value}
    config = read({**MINIMAL, "listeners": [table, {}]})
    expected = {"::": "::", 9: 9, "some/path": Path("/etc/hs/some/path")}
    wanted = ("client",) if one.name == "apis" else expected[value]
    assert getattr(config.listeners[0], one.name) == wanted
    assert getattr(config.listeners[1], one.name) == one.default
    assert len(one.option.reason) > 20


TERMS = {"policy": "privacy", "version": "1.2", "name": "Privacy", "url": "https://e.org/p"}


def test_terms_are_listed_by_document_and_language() -> None:
    config = read({**MINIMAL, "terms": [TERMS, {**TERMS, "language": "fr"}]})
    assert [terms.language for terms in config.terms] == ["en", "fr"]
    assert read(MINIMAL).terms == ()


@pytest.mark.parametrize(
    ("terms", "match"),
    [
        ([{"policy": "x"}], r"terms\[0\].version is missing"),
        ([{**TERMS, "policy": "a b"}], r"terms\[0\].policy must be"),
        ([{**TERMS, "url": "ftp://e.org"}], r"terms\[0\].url must begin"),
        ([TERMS, {**TERMS, "language": "fr", "version": "2"}], "one version"),
        ([TERMS, TERMS], "twice in en"),
    ],
)
def test_terms_that_clients_could_not_show(terms: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        read({**MINIMAL, "terms": terms})


def test_listeners_come_from_the_environment_too() -> None:
    config = read(MINIMAL, {"HOMESERVER_LISTENERS": '[{port=1, apis=["client"]}, {port=2}]'})
    assert [listener.port for listener in config.listeners] == [1, 2]
    with pytest.raises(ConfigError, match="HOMESERVER_LISTENERS"):
        read(MINIMAL, {"HOMESERVER_LISTENERS": "8008"})


@pytest.mark.parametrize("one", [o for o in OPTIONS if o.option.secret], ids=lambda one: one.key)
def test_secrets_are_read_from_files(one: Declared, tmp_path: Path) -> None:
    text, value = another(one)
    secret = tmp_path / "secret"
    secret.write_text(text + "\n")
    document: dict[str, Any] = {"server": {"name": "example.org"}}
    document.setdefault(one.section, {})[f"{one.name}_file"] = str(secret)
    assert value_of(read(document), one) == value
    assert value_of(read(MINIMAL, {f"{one.variable}_FILE": str(secret)}), one) == value
    with pytest.raises(ConfigError, match="not both"):
        read(MINIMAL, {f"{one.variable}_FILE": str(secret), one.variable: "x"})
    with pytest.raises(ConfigError, match="can't read"):
        read(MINIMAL, {f"{one.variable}_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize(
    "variable", ["HOMESERVER_SERVICE_HOST", "HOMESERVER_SERVICE_PORT", "HOMESERVER_PORT_8008_TCP"]
)
def test_variables_that_others_set_do_no_harm(variable: str) -> None:
    assert read(MINIMAL, {variable: "10.0.0.1"}).server.name == "example.org"


def test_the_environment_comes_before_the_file() -> None:
    config = read({**MINIMAL, "logging": {"level": "error"}}, {"HOMESERVER_LOGGING_LEVEL": "debug"})
    assert config.logging.level == "debug"


@pytest.mark.parametrize(
    ("document", "environ", "said"),
    [
        ({}, {}, "server.name is missing"),
        ({"sever": {}}, {}, "no option sever. Did you mean server?"),
        ({"server": 1}, {}, r"server must be a section"),
        ({"server": {"name": "a b"}}, {}, "can't be the name of a server"),
        ({"server": {"name": ""}}, {}, "can't be the name of a server"),
        (
            {**MINIMAL, "limits": {"max_request_bytes": "x"}},
            {},
            'must be a whole number, not the text "x"',
        ),
        ({**MINIMAL, "limits": {"max_request_bytes": True}}, {}, "not true"),
        ({**MINIMAL, "limits": {"max_request_bytes": 1}}, {}, "must be at least 131072, not 1"),
        (MINIMAL, {"HOMESERVER_METRICS_PORT": "http"}, 'not the text "http"'),
        (MINIMAL, {"HOMESERVER_METRICS_PORT": "70000"}, "at most 65535"),
        (MINIMAL, {"HOMESERVER_LOGING_LEVEL": "info"}, "mean HOMESERVER_LOGGING_LEVEL"),
        (MINIMAL, {"HOMESERVER_SUPPORT_PAGE": "help"}, "support.page must begin with https://"),
        (MINIMAL, {"HOMESERVER_SUPPORT_ADMIN_USER": "me"}, "like @name:server"),
        (MINIMAL, {"HOMESERVER_SUPPORT_SECURITY_EMAIL": "me@"}, "must be an e-mail address"),
        (MINIMAL, {"HOMESERVER_COMPAT_OLD_CLIENTS": "perhaps"}, "must be true or false"),
        ({**MINIMAL, "registration": {"mode": "opn"}}, {}, 'Did you mean "open"?'),
        ({**MINIMAL, "rooms": {"default_version": "99"}}, {}, "rooms.default_version"),
        (MINIMAL, {"HOMESERVER_SERVER_NOTICES_LOCALPART": "A b"}, "can't be a user's name"),
        (MINIMAL, {"HOMESERVER_SERVER_NOTICES_AVATAR_URL": "a.png"}, "begin with mxc://"),
        ({**MINIMAL, "listeners": {}}, {}, r"\[\[listeners\]\]"),
        ({**MINIMAL, "listeners": []}, {}, "at least one"),
        ({**MINIMAL, "listeners": [{"prot": 1}]}, {}, r"Did you mean listeners\[0\].port"),
        ({**MINIMAL, "listeners": [{"apis": ["cleint"]}]}, {}, 'mean "client"'),
        ({**MINIMAL, "listeners": [{"tls_key": "k"}]}, {}, "tls_certificate and tls_key"),
        ({**MINIMAL, "database": {"url": "mysql://x"}}, {}, "sqlite: or postgresql://"),
        (
            {**MINIMAL, "database": {"url": "postgresql://x", "key_file": "k"}},
            {},
            "key_file is for sqlite",
        ),
        (
            {"server": {"name": "a", "trusted_proxies": ["10.0.0.1/8"]}},
            {},
            "trusted_proxies.*host bits",
        ),
        ({**MINIMAL, "s3": {"bucket": "b", "url": "minio:9000"}}, {}, "s3.url must begin"),
        ({"server": {"name": "a", "trusted_proxies": [1]}}, {}, r"trusted_proxies\[0\] must be"),
        ({"server": {"name": "a", "public_base_url": "example"}}, {}, "public_base_url must begin"),
    ],
)
def test_complaints_are_one_sentence_that_helps(
    document: dict[str, Any], environ: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read(document, environ)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't read .*none.toml: No such file"):
        Config.load(tmp_path / "none.toml", {})
    broken = tmp_path / "broken.toml"
    broken.write_text("[server\nname=1")
    with pytest.raises(ConfigError, match=r"broken.toml: .*line 1"):
        Config.load(broken, {})


def test_what_is_left_out_follows_from_the_rest() -> None:
    config = read({"server": {"name": "example.org", "data_dir": "/var/hs"}})
    assert config.server.public_base_url == "https://example.org"
    assert config.server.signing_key_file == Path("/var/hs/signing.key")
    assert config.database.sqlite_path == Path("/var/hs/homeserver.db")
    assert config.database.postgresql_dsn is None
    assert config.listeners == (Listener(),)


def test_postgresql_is_another_address() -> None:
    config = read({**MINIMAL, "database": {"url": "postgresql://u@h/d"}})
    assert (config.database.sqlite_path, config.database.postgresql_dsn) == (
        None,
        "postgresql://u@h/d",
    )


def test_passwords_cost_what_is_set() -> None:
    assert read(MINIMAL).passwords.argon2 == (3, 65_536)
    cheap = read({**MINIMAL, "passwords": {"cost": "cheap"}}).passwords.argon2
    assert cheap < (3, 65_536)


def test_the_generated_file_is_short_and_loads(tmp_path: Path) -> None:
    text = default_file("example.org", "open", "https://example.org", "secret", 'da"ta')
    assert text.count("\n") <= 40
    document = tomllib.loads(text)
    assert document["server"]["data_dir"] == 'da"ta'
    path = tmp_path / "hs.toml"
    path.write_text(text)
    (tmp_path / "secret").write_text("s3cret")
    config = Config.load(path, {})
    assert (config.registration.mode, config.registration.shared_secret) == ("open", "s3cret")


def test_the_reference_page_is_up_to_date() -> None:
    page = ROOT / "docs" / "reference" / "config.md"
    assert page.read_text(encoding="utf-8") == config_page(), "run `make docs`"


def test_configurations_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        read(MINIMAL).server.name = "x"  # type: ignore[misc]
