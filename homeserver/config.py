"""The configuration: one TOML file, and the environment on top of it.

Owns every option: its type, default and the reason why one would set it. The reference page
`docs/reference/config.md` is generated from these declarations. A configuration that loads is whole
and checked; what depends on the world (ports, databases) shows when the server starts.
"""

import difflib
import ipaddress
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from homeserver.matrix.ids import is_new_localpart, is_server_name, is_user_id
from homeserver.matrix.versions import ROOM_VERSIONS
from homeserver.options import (
    PREFIX,
    ConfigError,
    Origin,
    Rate,
    Reader,
    declared,
    option,
    unknown,
)

Api = Literal["client", "federation", "admin", "metrics"]
MEGABYTE = 1_048_576
GIGABYTE = 1_024 * MEGABYTE
_OPAQUE = re.compile(r"[0-9A-Za-z._~-]{1,255}")
NEARLY = 0.9
"""How like a known variable an unknown one must be to count as a slip of the pen."""


@dataclass(frozen=True)
class Server:
    name: str = option(
        reason="The part after the colon in every user's and room's name. It is for ever."
    )
    public_base_url: str = option(
        "",
        reason="The address at which clients reach this server; it is announced in .well-known. "
        "Empty: https:// and the name.",
    )
    data_dir: Path = option(
        Path("data"), reason="Where the embedded database and the keys are kept."
    )
    signing_key_file: Path | None = option(
        None, reason="The key that signs events. Empty: signing.key in the data directory."
    )
    trusted_proxies: tuple[str, ...] = option(
        (),
        reason="Addresses or networks of reverse proxies whose X-Forwarded-For is believed, and "
        '"unix" for those that connect by a socket.',
    )


@dataclass(frozen=True)
class Listener:
    address: str = option("127.0.0.1", reason="The address to listen on; :: and 0.0.0.0 mean all.")
    port: int = option(8008, reason="The port to listen on.", least=0, most=65_535)
    socket: Path | None = option(
        None, reason="The path of a unix socket to listen on instead of an address and port."
    )
    tls_certificate: Path | None = option(
        None, reason="The certificate chain (PEM) to speak TLS with. Empty: plain HTTP."
    )
    tls_key: Path | None = option(None, reason="The private key (PEM) of the certificate.")
    apis: tuple[Api, ...] = option(
        ("client", "federation", "admin"),
        reason="What is served here: client, federation, admin (including registration by shared "
        "secret), metrics. Health pages are everywhere.",
    )


@dataclass(frozen=True)
class Database:
    url: str = option(
        "sqlite:homeserver.db",
        reason="sqlite:PATH (from the data directory) or postgresql://user:password@host/name.",
        secret=True,
    )
    key_file: Path | None = option(
        None,
        reason="A file with 64 hexadecimal digits: the embedded database is encrypted with it.",
    )
    synchronous: Literal["full", "normal"] = option(
        "full",
        reason="full: what was answered survives a power cut. normal: only a crash, but faster.",
    )

    @property
    def sqlite_path(self) -> Path | None:
        """The file of the embedded database, None when it is PostgreSQL."""
        return Path(self.url.removeprefix("sqlite:")) if self.url.startswith("sqlite:") else None

    @property
    def postgresql_dsn(self) -> str | None:
        """The address of a PostgreSQL database, None when it is the embedded one."""
        return None if self.url.startswith("sqlite:") else self.url


@dataclass(frozen=True)
class Registration:
    mode: Literal["open", "token", "closed"] = option(
        "closed",
        reason="Who may make an account: everybody, whoever has a registration token, or nobody.",
    )
    verify_email: bool = option(
        False,
        reason="Whether who registers must show that a mail address is theirs, by a link that is "
        "mailed to it; the account has the address then. Needs [mail].",
    )
    shared_secret: str = option(
        "",
        reason="Whoever knows it may make accounts, administrators too: for tools and the command "
        "line. Empty: not offered.",
        secret=True,
    )
    guests: bool = option(
        False,
        reason="Whether anybody may use the server as a guest, who can read what is open to guests "
        "and talk in rooms that let guests in.",
    )


@dataclass(frozen=True)
class Terms:
    """One document that a new user must accept, in one language."""

    policy: str = option(reason="Which document it is, such as privacy_policy.")
    version: str = option(reason="Its version; it is noted which one a user accepted.")
    name: str = option(reason="What the document is called in this language.")
    url: str = option(reason="Where it can be read, beginning with https:// or http://.")
    language: str = option("en", reason="The language of this text, such as en or pt-BR.")


@dataclass(frozen=True)
class Passwords:
    cost: Literal["normal", "cheap"] = option(
        "normal", reason="What hashing a password costs; cheap is for tests only."
    )
    passes: int = option(3, reason="Argon2id's passes at normal cost.", least=1, most=100)
    memory_kib: int = option(
        65_536, reason="Argon2id's memory in KiB at normal cost.", least=8_192, most=4_194_304
    )

    bcrypt_pepper: str = option(
        "",
        reason="The pepper of bcrypt hashes that were taken over from another server; they are "
        "replaced when their users log in.",
        secret=True,
    )

    @property
    def argon2(self) -> tuple[int, int]:
        """Passes, and memory in KiB."""
        return (1, 8) if self.cost == "cheap" else (self.passes, self.memory_kib)


@dataclass(frozen=True)
class Sessions:
    refreshed_minutes: int = option(
        60,
        reason="How long an access token is good that the client can refresh; 0: for ever.",
        least=0,
        most=525_600,
    )
    token_days: int = option(
        0,
        reason="How long the others are good, before the password is asked for; 0: for ever.",
        least=0,
        most=3_650,
    )
    refresh_days: int = option(
        0,
        reason="How long a session may rest, when it can be refreshed, before the password is "
        "asked for; 0: for ever.",
        least=0,
        most=3_650,
    )
    login_tokens: bool = option(
        False,
        reason="Whether a client may log in another one, after asking for the password again.",
    )


@dataclass(frozen=True)
class Rooms:
    default_version: str = option(
        "12", reason="The version of new rooms whose creator does not ask for one."
    )
    forget_on_leave: bool = option(
        False,
        reason="Whether a room that was left, by oneself or by a kick or ban, is out of sight at "
        "once, as if its user had forgotten it. Nothing is deleted: switched off, it shows again.",
    )


@dataclass(frozen=True)
class ServerNotices:
    localpart: str = option(
        "server-notices",
        reason="The name of the user in whose name the server tells users something "
        "(`homeserver notice`); nobody can register it. The account is made when it is needed.",
    )
    display_name: str = option("Server notices", reason="What that user is called.")
    avatar_url: str = option(
        "", reason="The mxc:// address of the picture of that user and of the rooms."
    )
    room_name: str = option(
        "Server notices", reason="The name of the room in which a user is told something."
    )
    auto_join: bool = option(
        False, reason="Whether users are put into that room; otherwise they are invited."
    )

    def user_id(self, server_name: str) -> str:
        """The user of this name."""
        return f"@{self.localpart}:{server_name}"


@dataclass(frozen=True)
class Limits:
    enabled: bool = option(
        True,
        reason="Whether there are rate limits at all. Administrators and application services "
        "never have any.",
    )
    send: Rate = option(
        Rate.of("10/s, 300 at once"), reason="Messages, state events and redactions of a user."
    )
    join: Rate = option(Rate.of("1/s, 100 at once"), reason="Joins and knocks of a user.")
    invite: Rate = option(Rate.of("1/s, 100 at once"), reason="Invites that a user sends.")
    create_room: Rate = option(
        Rate.of("10/min, 30 at once"), reason="Rooms that a user creates or upgrades."
    )
    signal: Rate = option(
        Rate.of("10/s, 200 at once"), reason="Typing, receipts and presence of a device."
    )
    write: Rate = option(
        Rate.of("10/s, 300 at once"), reason="Everything else that a user changes."
    )
    read: Rate = option(
        Rate.of("50/s, 1000 at once"), reason="What a device reads, syncs included."
    )
    read_heavy: Rate = option(
        Rate.of("20/s, 500 at once"),
        reason="What a device reads that costs more: history, members, searches.",
    )
    initial_sync: Rate = option(
        Rate.of("10/min, 30 at once"), reason="First syncs of a user's devices."
    )
    open: Rate = option(
        Rate.of("50/s, 1000 at once"), reason="Requests without an account from an address."
    )
    registration: Rate = option(
        Rate.of("10/min, 30 at once"), reason="Steps of registrations from an address."
    )
    login_address: Rate = option(
        Rate.of("30/min, 60 at once"), reason="Logins from an address, right or wrong."
    )
    login_account: Rate = option(
        Rate.of("10/min, 10 at once"), reason="Wrong passwords for an account, from everywhere."
    )
    mail: Rate = option(
        Rate.of("10/h, 10 at once"),
        reason="Mails that confirm an address, for an address of the network and for the mail's.",
    )
    push: Rate = option(
        Rate.of("1/s, 60 at once"),
        reason="Notifications that others bring to one endpoint by this server's push gateway.",
    )
    unknown_token: Rate = option(
        Rate.of("10/s, 300 at once"), reason="Requests with unknown access tokens from an address."
    )
    other_servers: bool = option(
        True,
        reason="Whether other servers have limits; off for closed networks and test suites.",
    )
    server_send: Rate = option(
        Rate.of("50/s, 500 at once"), reason="Transactions of another server, of 50 events each."
    )
    server_join: Rate = option(
        Rate.of("10/s, 200 at once"),
        reason="Steps of joins, leaves, knocks and invites of another server's users.",
    )
    server_read: Rate = option(
        Rate.of("50/s, 1000 at once"), reason="What another server asks: keys, profiles, files."
    )
    server_read_heavy: Rate = option(
        Rate.of("10/s, 300 at once"),
        reason="What another server asks that costs more: state and history of rooms, directories.",
    )
    max_request_bytes: int = option(
        MEGABYTE,
        reason="Longer request bodies are refused, uploads of media apart.",
        least=131_072,
        most=64 * MEGABYTE,
    )

    @property
    def rates(self) -> dict[str, Rate]:
        """The rate of each class of requests."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Rate)}


@dataclass(frozen=True)
class Sync:
    ring_bytes: int = option(
        64 * MEGABYTE,
        reason="Memory for the newest events as ready bytes; live clients are served from it.",
        least=0,
    )
    max_timeout_ms: int = option(
        120_000,
        reason="The longest that a sync request waits; proxies must not give up before it.",
        least=1_000,
        most=600_000,
    )


DENIED_NETWORKS = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
    "::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/9",
    "ff00::/8",
)
"""Networks that are not the public internet: of the machine, private, for documents or tunnels."""


@dataclass(frozen=True)
class Federation:
    enabled: bool = option(
        True, reason="Whether this server speaks with other servers at all; off: it is an island."
    )
    verify_certificates: bool = option(
        True, reason="Whether other servers must show valid certificates. Off is for tests only."
    )
    ca_file: Path | None = option(
        None,
        reason="Certificates (PEM) of authorities that count beside the system's, for private "
        "networks.",
    )
    deny_networks: tuple[str, ...] = option(
        DENIED_NETWORKS,
        reason="Networks that strangers can't make this server connect to. Without them, whoever "
        "names an address gets at the machine and its neighbours.",
    )
    allow_networks: tuple[str, ...] = option(
        (), reason="Exceptions from the denied networks, for servers in a private network."
    )
    notaries: tuple[str, ...] = option(
        (),
        reason="Servers that are trusted to hand on other servers' keys, asked when those don't "
        "answer.",
    )
    dns: tuple[str, ...] = option(
        (),
        reason="The name servers to ask, by address (1.2.3.4, 1.2.3.4:5353, [::1]:5353). Empty: "
        "those of the system.",
    )
    presence: bool = option(
        False,
        reason="Whether other servers hear who is online here, in the rooms that they share with "
        "this one. In large rooms this is a lot of traffic.",
    )
    connect_seconds: int = option(
        10, reason="How long a connection to another server may take.", least=1, most=120
    )
    request_seconds: int = option(
        60, reason="How long another server may take to answer.", least=5, most=600
    )


@dataclass(frozen=True)
class Presence:
    enabled: bool = option(
        True, reason="Whether users see who is online; without it everybody is offline."
    )


@dataclass(frozen=True)
class Logging:
    level: Literal["debug", "info", "warning", "error"] = option(
        "info", reason="debug shows every request; info what an operator should read."
    )
    format: Literal["human", "json"] = option(
        "human", reason="Lines for people, or one JSON object a line for collectors."
    )


@dataclass(frozen=True)
class Metrics:
    address: str = option("127.0.0.1", reason="The address of Prometheus' own listener.")
    port: int = option(0, reason="Its port; 0 switches the listener off.", least=0, most=65_535)


@dataclass(frozen=True)
class Support:
    page: str = option(
        "", reason="The address of a page that helps users of this server; shown by their clients."
    )
    admin_user: str = option("", reason="A Matrix user who answers questions about the server.")
    admin_email: str = option("", reason="An address for questions about the server.")
    security_user: str = option("", reason="A Matrix user to tell of a security problem.")
    security_email: str = option("", reason="An address to tell of a security problem.")


@dataclass(frozen=True)
class Mail:
    host: str = option(
        "",
        reason="The SMTP server by which mail is sent: confirmations of addresses, new passwords, "
        "digests. Empty: no mail.",
    )
    port: int = option(587, reason="The port of the SMTP server.", least=1, most=65_535)
    security: Literal["starttls", "tls", "none"] = option(
        "starttls",
        reason="How the connection is encrypted: after its start, from its start, or not at all.",
    )
    username: str = option("", reason="The name to log in with. Empty: no log-in.")
    password: str = option("", reason="The password to log in with.", secret=True)
    from_address: str = option(
        "", reason="The address that mails come from. Empty: noreply at the server's name."
    )


@dataclass(frozen=True)
class Push:
    unified_push: bool = option(
        True,
        reason="Whether this server is a gateway for UnifiedPush (ntfy and others): it tells the "
        "endpoints of its users' apps itself, with no other server between.",
    )
    gateways: tuple[str, ...] = option(
        ("matrix.gateway.unifiedpush.org",),
        reason="Hosts of gateways for UnifiedPush whose work this server does itself for its own "
        "users: public ones, which then learn nothing, and those by which a proxy leads here.",
    )
    web_push: bool = option(
        True,
        reason="Whether apps can be told by Web Push (MSC4174): by push services of browsers and "
        "distributors, encrypted for the app, without a gateway.",
    )
    vapid_key_file: Path | None = option(
        None,
        reason="The key by which push services know this server. Whoever loses it loses every "
        "subscription. Empty: vapid.key in the data directory.",
    )


@dataclass(frozen=True)
class Calls:
    turn_uris: tuple[str, ...] = option(
        (),
        reason="The addresses of TURN servers, such as turn:turn.example.org?transport=udp, by "
        "which calls get through firewalls.",
    )
    turn_secret: str = option(
        "",
        reason="The secret shared with the TURN servers, from which each user gets a password of "
        "their own.",
        secret=True,
    )
    turn_username: str = option(
        "", reason="The name for TURN servers that share no secret; all users get it."
    )
    turn_password: str = option("", reason="The password to turn_username.", secret=True)
    turn_seconds: int = option(
        86_400, reason="For how long a password for the TURN servers is good.", least=60
    )
    livekit_urls: tuple[str, ...] = option(
        (), reason="The addresses of the LiveKit services that carry group calls."
    )


@dataclass(frozen=True)
class Appservices:
    files: tuple[Path, ...] = option(
        (),
        reason="Registration files (YAML) of application services, such as bridges. Others can be "
        "added to the running server: `homeserver appservice add`.",
    )


@dataclass(frozen=True)
class Compat:
    old_clients: bool = option(
        True,
        reason="Serve what only old clients use: each /v3/ path as /r0/ too, /events and "
        "/initialSync, and access tokens in the query.",
    )


@dataclass(frozen=True)
class Media:
    dir: Path = option(
        Path("media"), reason="The folder of uploaded and cached files, from the data directory."
    )
    max_upload_bytes: int = option(
        100 * MEGABYTE, reason="The longest file that a user may upload.", least=0
    )
    user_bytes: int = option(
        10 * GIGABYTE, reason="How much a user may keep here; 0: without a limit.", least=0
    )
    user_files: int = option(100_000, reason="How many files a user may keep here.", least=1)
    max_pending: int = option(
        50, reason="How many addresses for later uploads a user may hold.", least=1, most=10_000
    )
    keep_free_bytes: int = option(
        256 * MEGABYTE,
        reason="Uploads are refused when the disk has less space than this, before it is full.",
        least=0,
    )
    max_remote_bytes: int = option(
        100 * MEGABYTE, reason="The longest file that is fetched from another server.", least=0
    )
    remote_cache_bytes: int = option(
        10 * GIGABYTE,
        reason="How much is kept of other servers' files; what is asked for again comes again.",
        least=0,
    )
    remote_cache_days: int = option(
        30,
        reason="How long another server's file is kept that nobody asks for; 0: until the room is "
        "needed.",
        least=0,
    )
    redacted_hours: int = option(
        24,
        reason="How long a file stays after the message or profile that showed it was taken back "
        "by its uploader or a moderator, and no other is known to show it.",
        least=0,
    )
    redacted_encrypted: bool = option(
        True,
        reason="Whether files of encrypted events go too, when all such events are redacted that "
        "their uploader sent just after them. Who has forwarded one within an encrypted room loses "
        "it then: the server can't see that.",
    )
    max_image_pixels: int = option(
        50_000_000, reason="Larger pictures get no thumbnails.", least=1, most=1_000_000_000
    )
    unauthenticated: bool = option(
        False,
        reason="Whether files can be had without an access token by the old addresses. Off: only "
        "those that were there before, when a server was taken over.",
    )
    url_previews: bool = option(
        True,
        reason="Whether the server looks at a page that a user has linked to, to say what it is. "
        "Its owner then sees this server's address, never the user's. Networks that are denied in "
        "[federation] can't be reached by it.",
    )


@dataclass(frozen=True)
class S3Bucket:
    bucket: str = option(
        "",
        reason="The bucket that files can be kept in, of S3 or of a service that speaks as it "
        "does. Needs homeserver[s3] to be installed.",
    )
    new_files: bool = option(
        True,
        reason="Whether new files are kept there, no more in the folder of [media]. Files stay "
        "where they are until `homeserver media move`.",
    )
    url: str = option("", reason="The address of the service. Empty: Amazon's for the region.")
    region: str = option("us-east-1", reason="The region of the bucket.")
    access_key: str = option("", reason="The name of the key by which the bucket is opened.")
    secret_key: str = option("", reason="The key by which the bucket is opened.", secret=True)
    prefix: str = option("", reason="What the names of all files in the bucket begin with.")
    redirect_url: str = option(
        "",
        reason="The address of the service for clients, which are then sent there for downloads, "
        "by links that are good for five minutes. Empty: files go through this server.",
    )


SECTIONS: dict[str, type] = {
    "server": Server,
    "database": Database,
    "registration": Registration,
    "passwords": Passwords,
    "sessions": Sessions,
    "rooms": Rooms,
    "server_notices": ServerNotices,
    "limits": Limits,
    "sync": Sync,
    "federation": Federation,
    "media": Media,
    "s3": S3Bucket,
    "presence": Presence,
    "logging": Logging,
    "metrics": Metrics,
    "support": Support,
    "appservices": Appservices,
    "calls": Calls,
    "mail": Mail,
    "push": Push,
    "compat": Compat,
}


@dataclass(frozen=True)
class Config:
    """All options, checked; paths are absolute."""

    server: Server
    listeners: tuple[Listener, ...]
    database: Database
    registration: Registration
    terms: tuple[Terms, ...]
    passwords: Passwords
    sessions: Sessions
    rooms: Rooms
    server_notices: ServerNotices
    limits: Limits
    sync: Sync
    federation: Federation
    media: Media
    s3: S3Bucket
    presence: Presence
    logging: Logging
    metrics: Metrics
    support: Support
    appservices: Appservices
    calls: Calls
    mail: Mail
    push: Push
    compat: Compat
    origins: Mapping[str, Origin]

    @classmethod
    def load(cls, path: Path, environ: Mapping[str, str]) -> "Config":
        """Read a file, with the environment's HOMESERVER_SECTION_KEY on top.

        `HOMESERVER_LISTENERS` is a TOML list such as `[{port=8008}]`. Raises ConfigError with one
        sentence that names file and key.
        """
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"can't read {path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from None
        return cls.read(document, str(path), path.absolute().parent, environ)

    @classmethod
    def read(
        cls, document: dict[str, Any], source: str, folder: Path, environ: Mapping[str, str]
    ) -> "Config":
        """Like `load`, for a document that was parsed; relative paths start from `folder`."""
        known = [*SECTIONS, "listeners", "terms"]
        for name in document:
            if name not in known:
                raise ConfigError(f"{source}: {unknown(name, known)}")
        _check_variables(environ)
        reader = Reader(source, folder, environ)
        sections: dict[str, Any] = {
            name: reader.section(name, shape, document.get(name, {}))
            for name, shape in SECTIONS.items()
        }
        listed = document.get("listeners", [{}])
        reader.origins["listeners"] = "file" if "listeners" in document else "default"
        if "HOMESERVER_LISTENERS" in environ:
            listed = _listed(environ["HOMESERVER_LISTENERS"])
            reader.origins["listeners"] = "environment"
        listeners = reader.sections("listeners", Listener, listed)
        terms = reader.sections("terms", Terms, document.get("terms", []))
        reader.origins["terms"] = "file" if "terms" in document else "default"
        config = cls(
            listeners=tuple(listeners), terms=tuple(terms), origins=reader.origins, **sections
        )
        return _completed(config, source, folder)


def _completed(config: Config, source: str, folder: Path) -> Config:
    """Fill in what follows from other options, and check what no type says."""
    server, database = config.server, config.database
    if not is_server_name(server.name):
        raise ConfigError(f"{source}: server.name: {server.name!r} can't be the name of a server")
    base_url = server.public_base_url or f"https://{server.name}"
    if urlsplit(base_url).scheme not in {"http", "https"} or not urlsplit(base_url).netloc:
        raise ConfigError(f"{source}: server.public_base_url must begin with https:// and a host")
    for proxy in server.trusted_proxies:
        _check_proxy(source, proxy)
    _check_federation(source, config.federation)
    _check_support(source, config.support)
    _check_s3(source, config.s3)
    _check_notices(source, config.server_notices, server.name)
    for host in config.push.gateways:
        if not is_server_name(host):
            raise ConfigError(f"{source}: push.gateways: {host!r} must be a host, without https://")
    if config.rooms.default_version not in ROOM_VERSIONS:
        raise ConfigError(
            f"{source}: rooms.default_version must be one of {', '.join(ROOM_VERSIONS)}, "
            f"not {config.rooms.default_version!r}"
        )
    for index, terms in enumerate(config.terms):
        _check_terms(f"{source}: terms[{index}]", terms, config.terms)
    if not config.listeners:
        raise ConfigError(f"{source}: the server needs at least one of [[listeners]]")
    for listener in config.listeners:
        if (listener.tls_certificate is None) != (listener.tls_key is None):
            raise ConfigError(f"{source}: listeners need tls_certificate and tls_key, or neither")
    data_dir = folder / server.data_dir
    kind, _, place = database.url.partition(":")
    if kind == "sqlite" and place:
        database = replace(database, url=f"sqlite:{data_dir / Path(place).expanduser()}")
    elif kind not in {"postgresql", "postgres"}:
        raise ConfigError(f"{source}: database.url must begin with sqlite: or postgresql://")
    elif database.key_file is not None:
        raise ConfigError(f"{source}: database.key_file is for sqlite: databases only")
    server = replace(
        server,
        public_base_url=base_url.rstrip("/"),
        data_dir=data_dir,
        signing_key_file=server.signing_key_file or data_dir / "signing.key",
    )
    mail = config.mail
    if config.registration.verify_email and not mail.host:
        raise ConfigError(f"{source}: registration.verify_email needs mail.host")
    if not mail.from_address:
        mail = replace(mail, from_address=f"noreply@{server.name.partition(':')[0]}")
    elif not all(mail.from_address.partition("@")):
        raise ConfigError(f"{source}: mail.from_address must be an e-mail address")
    media = replace(config.media, dir=data_dir / config.media.dir)
    push = replace(config.push, vapid_key_file=config.push.vapid_key_file or data_dir / "vapid.key")
    return replace(config, server=server, database=database, mail=mail, media=media, push=push)


def _check_terms(place: str, terms: Terms, others: tuple[Terms, ...]) -> None:
    for name in ("policy", "version", "language"):
        if _OPAQUE.fullmatch(getattr(terms, name)) is None:
            raise ConfigError(f"{place}.{name} must be 1 to 255 letters, digits and ._~-")
    if urlsplit(terms.url).scheme not in {"http", "https"} or not urlsplit(terms.url).netloc:
        raise ConfigError(f"{place}.url must begin with https:// and a host")
    same = [other for other in others if other.policy == terms.policy]
    if len({other.version for other in same}) > 1:
        raise ConfigError(f"{place}: all languages of {terms.policy} must have one version")
    if [other.language for other in same].count(terms.language) > 1:
        raise ConfigError(f"{place}: {terms.policy} is there twice in {terms.language}")


def _check_s3(source: str, s3: S3Bucket) -> None:
    if not s3.bucket:
        return
    for name in ("url", "redirect_url"):
        parts = urlsplit(getattr(s3, name))
        if getattr(s3, name) and (parts.scheme not in {"http", "https"} or not parts.netloc):
            raise ConfigError(f"{source}: s3.{name} must begin with https:// and a host")
    if find_spec("obstore") is None:
        raise ConfigError(f"{source}: s3.bucket needs more: pip install 'homeserver[s3]'")


def _check_notices(source: str, notices: ServerNotices, server_name: str) -> None:
    name = notices.localpart
    if not is_new_localpart(name) or not is_user_id(notices.user_id(server_name)):
        raise ConfigError(f"{source}: server_notices.localpart: {name!r} can't be a user's name")
    if notices.avatar_url and not notices.avatar_url.startswith("mxc://"):
        raise ConfigError(f"{source}: server_notices.avatar_url must begin with mxc://")


def _check_support(source: str, support: Support) -> None:
    if support.page and not support.page.startswith(("https://", "http://")):
        raise ConfigError(f"{source}: support.page must begin with https://")
    for name in ("admin_user", "security_user"):
        user_id = getattr(support, name)
        if user_id and not is_user_id(user_id):
            raise ConfigError(f"{source}: support.{name} must be a user like @name:server")
    for name in ("admin_email", "security_email"):
        address = getattr(support, name)
        if address and not all(address.partition("@")):
            raise ConfigError(f"{source}: support.{name} must be an e-mail address")


def _check_federation(source: str, options: Federation) -> None:
    for name in ("deny_networks", "allow_networks"):
        for network in getattr(options, name):
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ConfigError(f"{source}: federation.{name}: {error}") from None
    for notary in options.notaries:
        if not is_server_name(notary):
            raise ConfigError(f"{source}: federation.notaries: {notary!r} is no server name")
    for place in options.dns:
        if not _is_place(place):
            raise ConfigError(f"{source}: federation.dns: {place!r} is no address")


def _is_place(place: str) -> bool:
    """Whether this is `address`, `address:port` or `[address]:port`."""
    bare = f"[{place}]" if place.count(":") > 1 and "]" not in place else place
    try:
        parts = urlsplit(f"//{bare}")
        ipaddress.ip_address(parts.hostname or "")
        return parts.port != 0
    except ValueError:
        return False


def _check_proxy(source: str, proxy: str) -> None:
    if proxy != "unix":
        try:
            ipaddress.ip_network(proxy)
        except ValueError as error:
            raise ConfigError(f"{source}: server.trusted_proxies: {error}") from None


def _check_variables(environ: Mapping[str, str]) -> None:
    """A variable that is nearly one of ours is a mistake, as an unknown key is.

    Others with our prefix are left alone: Kubernetes sets HOMESERVER_SERVICE_HOST and the like for
    a service of that name.
    """
    known = {"HOMESERVER_CONFIG", "HOMESERVER_LISTENERS"}
    for name, shape in SECTIONS.items():
        for one in declared(name, shape):
            known.add(one.variable)
            if one.option.secret:
                known.add(one.variable + "_FILE")
    for variable in environ:
        if variable.startswith(PREFIX) and variable not in known:
            near = difflib.get_close_matches(variable, known, 1, NEARLY)
            if near:
                raise ConfigError(
                    f"environment: there is no option {variable}. Did you mean {near[0]}?"
                )


def _listed(text: str) -> Any:
    try:
        listed = tomllib.loads(f"listeners = {text}")["listeners"]
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"environment: HOMESERVER_LISTENERS: {error}") from None
    if not isinstance(listed, list):
        raise ConfigError("environment: HOMESERVER_LISTENERS must be a list like [{port = 8008}]")
    return listed


def default_file(
    name: str, mode: str, public_base_url: str, shared_secret_file: str, data_dir: str
) -> str:
    """The text of a new configuration file, at most 40 lines."""
    return f"""\
# The configuration of a Matrix homeserver. Every option: docs/reference/config.md

[server]
# The name is for ever: it is part of every user's and room's address.
name = {_toml(name)}
# Where clients reach the server, as announced to them.
public_base_url = {_toml(public_base_url)}
# The database and the signing key. Back it up, and keep it to yourself.
data_dir = {_toml(data_dir)}
# Behind a reverse proxy: whose X-Forwarded-For to believe.
trusted_proxies = ["127.0.0.1", "::1"]

[[listeners]]
address = "127.0.0.1"
port = 8008
apis = ["client", "federation", "admin"]

[registration]
# open: everybody may make an account; token: whoever has a token; closed: only administrators.
mode = {_toml(mode)}
# The command line makes accounts with this secret.
shared_secret_file = {_toml(shared_secret_file)}

[database]
# Or postgresql://user:password@host/name
url = "sqlite:homeserver.db"

[logging]
level = "info"

[metrics]
# For Prometheus; 0 switches it off.
port = 0
"""


def _toml(text: str) -> str:
    """A TOML string; JSON's escapes are a part of TOML's."""
    return json.dumps(text, ensure_ascii=False)
