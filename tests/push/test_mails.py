"""What mails say of unread messages, when they come, and to whom.

spec: client-server-api#post_matrixclientv3pushersset
"""

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from homeserver.push import mailing
from tests.postbox import Postbox, postbox, text_of
from tests.push.conftest import PushGateway
from tests.serving import PASSWORD, Person, Running
from tests.streams.reading import ignore, invite, moved, read, redact

__all__ = ["postbox"]

ADDRESS = "alice@mail.example"
DELAY = 60.0
"""Times are a tenth of what they are in use: each second of the clock costs a test some work."""

sqlite_only = pytest.mark.parametrize("database_settings", ["sqlite"], indirect=True)


@pytest.fixture(autouse=True)
def quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DELAY_MS", "FIRST_RETRY_S", "LONGEST_RETRY_S"):
        monkeypatch.setattr(mailing, name, getattr(mailing, name) // 10)
    monkeypatch.setattr(mailing, "PAUSES_S", tuple(pause // 10 for pause in mailing.PAUSES_S))


@pytest.fixture
def settings(postbox: Postbox) -> dict[str, Any]:
    return {
        "mail": {"host": "127.0.0.1", "port": postbox.port, "security": "none"},
        "federation": {"allow_networks": ["127.0.0.0/8"]},
    }


async def own(postbox: Postbox, person: Person) -> None:
    """Give a user the address, by the link that is mailed there."""
    asked = {"client_secret": "secret", "email": ADDRESS, "send_attempt": 1}
    sid = (await person.ok("POST", "/account/3pid/email/requestToken", body=asked))["sid"]
    link = re.search(r"https://[^/]+(/_homeserver\S+)", text_of(await postbox.until(1)))
    assert link is not None
    await person.raw("GET", link[1])
    identifier = {"type": "m.id.user", "user": person.user_id}
    auth = {"type": "m.login.password", "password": PASSWORD, "identifier": identifier}
    body = {"sid": sid, "client_secret": "secret", "auth": auth}
    await person.ok("POST", "/account/3pid/add", body=body)
    postbox.mails.clear()


def pusher(address: str = ADDRESS, **changes: Any) -> dict[str, Any]:
    return {
        "app_id": "m.email",
        "pushkey": address,
        "kind": "email",
        "app_display_name": "Mail",
        "device_display_name": address,
        "lang": "en",
        "data": {"brand": "x"},
        **changes,
    }


async def pair(server: Running, postbox: Postbox) -> tuple[Person, Person, str]:
    """Alice who wants mails, bob, and a room of both."""
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await bob.create_room(preset="public_chat", name="Tea & <b>cake</b>")
    await alice.join(room)
    await own(postbox, alice)
    await bob.say(room, "from before")
    await alice.ok("POST", "/pushers/set", body=pusher())
    return alice, bob, room


async def noticed(server: Running) -> None:
    """Wait until everything that has happened was looked at for pushers."""
    await PushGateway(server).noticed()


async def later(server: Running, seconds: float) -> None:
    """Let time go on; what is due then has been sent."""
    await noticed(server)
    await server.clock.advance(seconds)
    mailing = server.app.services.push.mailing
    await PushGateway(server).until(lambda: not mailing.due)


async def test_a_digest_tells_what_is_unread_in_two_forms(
    server: Running, postbox: Postbox
) -> None:
    alice, bob, room = await pair(server, postbox)
    await bob.ok("PUT", f"/profile/{bob.user_id}/displayname", body={"displayname": "Bob\nTo: x"})
    for number in range(7):
        await bob.say(room, f"<i>{number}</i>\nnext line\u202e")
    await later(server, DELAY - 1)
    assert postbox.mails == []
    await later(server, 1)
    mail = await postbox.until(1)
    assert mail["To"] == ADDRESS
    assert mail["Subject"] == "7 unread messages in Tea & <b>cake</b>"
    text, html = text_of(mail), text_of(mail, "html")
    assert text.splitlines()[8].endswith("  Bob To: x: <i>6</i> next line")
    assert "&lt;i&gt;6&lt;/i&gt;" in html
    assert "<i>6" not in html
    assert "2 earlier" in text
    assert "<i>1</i>" not in text
    assert "from before" not in text
    assert room in text
    await later(server, 20_000)
    assert len(postbox.mails) == 1
    content = {"msgtype": "m.text", "body": "you!", "m.mentions": {"user_ids": [alice.user_id]}}
    await bob.send(room, "m.room.message", content)
    await later(server, DELAY)
    mail = await postbox.until(2)
    assert mail["Subject"] == "Bob To: x has mentioned you in Tea & <b>cake</b>"
    assert "<i>6" not in text_of(mail), "it was told once"


@sqlite_only
async def test_what_was_read_or_taken_back_meanwhile_is_not_mailed(
    server: Running, postbox: Postbox
) -> None:
    alice, bob, room = await pair(server, postbox)
    carol = await server.person("carol")
    await carol.join(room)
    seen = await bob.say(room, "seen")
    await later(server, DELAY / 2)
    await read(alice, room, seen)
    gone = await bob.say(room, "gone")
    await redact(bob, room, gone)
    await carol.say(room, "ignored")
    await ignore(alice, carol)
    await later(server, 2 * DELAY)
    assert postbox.mails == []
    await bob.say(room, "kept")
    other = await carol.create_room(preset="public_chat")
    await alice.join(other)
    await bob.join(other)
    await bob.say(other, "left")
    await moved(alice, other, "leave")
    await later(server, DELAY)
    text = text_of(await postbox.until(1))
    assert "kept" in text
    for word in ("seen", "gone", "ignored", "left"):
        assert f": {word}" not in text


@sqlite_only
async def test_who_does_not_read_gets_fewer_and_fewer_mails(
    server: Running, postbox: Postbox
) -> None:
    alice, bob, room = await pair(server, postbox)
    hours: list[int] = []
    for hour in range(1, 37):
        last = await bob.say(room, "and again")
        await later(server, 360)
        hours += [hour] * (len(postbox.mails) - len(hours))
    assert hours == [1, 2, 3, 9, 33]
    await read(alice, room, last)
    await later(server, 2)
    await PushGateway(server).quiet()
    last = await bob.say(room, "news")
    await later(server, DELAY)
    assert "news" in text_of(await postbox.until(6)), "who reads is not made to wait"
    assert "again" not in text_of(postbox.mails[5])


@sqlite_only
async def test_of_encrypted_rooms_is_only_said_that_there_is_a_message(
    server: Running, postbox: Postbox
) -> None:
    _, bob, room = await pair(server, postbox)
    await bob.put_state(room, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    await bob.send(room, "m.room.encrypted", {"ciphertext": "c1ph3r", "algorithm": "x"})
    await bob.say(room, "in the clear")
    await later(server, DELAY)
    mail = await postbox.until(1)
    for text in (text_of(mail), text_of(mail, "html")):
        assert "2 encrypted messages" in text
        assert "clear" not in text
        assert "c1ph3r" not in text
        assert "bob" not in text


@sqlite_only
async def test_an_invite_is_mailed(server: Running, postbox: Postbox) -> None:
    alice, bob, _ = await pair(server, postbox)
    private = await bob.create_room(name="Secret garden")
    await invite(bob, private, alice)
    await later(server, DELAY)
    mail = await postbox.until(1)
    assert mail["Subject"] == f"{bob.user_id} invites you to Secret garden"
    assert "invites you" in text_of(mail)


@sqlite_only
async def test_mails_go_to_an_address_of_the_account_only(
    server: Running, postbox: Postbox
) -> None:
    alice, bob, room = await pair(server, postbox)
    path = "/pushers/set"
    for body, errcode in (
        (pusher("bob@mail.example"), "M_THREEPID_NOT_FOUND"),
        (pusher("no address"), "M_INVALID_PARAM"),
        (pusher(app_id="other"), "M_INVALID_PARAM"),
    ):
        await alice.refused(errcode, "POST", path, body=body)
    await bob.refused("M_THREEPID_NOT_FOUND", "POST", path, body=pusher())
    await alice.ok("POST", path, body=pusher("Alice@Mail.example"))
    (shown,) = (await alice.ok("GET", "/pushers"))["pushers"]
    assert (shown["kind"], shown["app_id"], shown["pushkey"]) == ("email", "m.email", ADDRESS)
    assert set(shown) >= {"lang", "data", "app_display_name", "device_display_name"}
    await bob.say(room, "hello")
    await noticed(server)
    await alice.ok("POST", "/account/3pid/delete", body={"medium": "email", "address": ADDRESS})
    assert (await alice.ok("GET", "/pushers"))["pushers"] == []
    await later(server, DELAY)
    assert postbox.mails == []


@sqlite_only
async def test_mails_end_by_their_link_without_a_login(server: Running, postbox: Postbox) -> None:
    alice, bob, room = await pair(server, postbox)
    await bob.say(room, "hello")
    await later(server, DELAY)
    mail = await postbox.until(1)
    link = mail["List-Unsubscribe"].strip("<>")
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    found = re.search(r"https://\S+/_homeserver/mail/stop\S+", text_of(mail))
    assert found is not None
    assert found[0] == link
    parts = urlsplit(link)
    (token,) = parse_qs(parts.query)["token"]
    assert len(token) >= 32
    for wrong in ("", "x" * len(token), token[:-1], "null"):
        reply = await server.request("POST", parts.path, query={"token": wrong})
        assert reply.status == 200, "nobody learns which tokens there are"
    where = {"path": parts.path, "query": {"token": token}}
    page = await server.request("GET", **where)
    assert b"<button>" in page.body
    assert len((await alice.ok("GET", "/pushers"))["pushers"]) == 1, "looking at it ends nothing"
    one_click = b"List-Unsubscribe=One-Click"
    for _ in range(2):
        reply = await server.request("POST", data=one_click, **where)
        assert reply.status == 200
    assert (await alice.ok("GET", "/pushers"))["pushers"] == []
    await bob.say(room, "more")
    await later(server, 10_000)
    assert len(postbox.mails) == 1


@sqlite_only
async def test_a_mail_server_that_was_away_loses_nothing_and_floods_nobody(
    server: Running, postbox: Postbox
) -> None:
    alice, bob, room = await pair(server, postbox)
    postbox.refuse = "451 not now"
    for number in range(3):
        await bob.say(room, f"number {number}")
        await later(server, DELAY)
    await server.restart()
    await later(server, DELAY)
    postbox.refuse = ""
    await later(server, 2_500)
    mail = await postbox.until(1)
    assert all(f"number {number}" in text_of(mail) for number in range(3))
    await server.restart()
    await later(server, 20_000)
    assert len(postbox.mails) == 1
    await alice.ok("POST", "/pushers/set", body=pusher())
    await bob.say(room, "news")
    await later(server, DELAY)
    assert "number" not in text_of(await postbox.until(2)), "a pusher goes on where it was"


async def test_what_happens_while_a_mail_is_sent_is_in_the_next(
    server: Running, postbox: Postbox
) -> None:
    alice, bob, room = await pair(server, postbox)
    await bob.say(room, "first")

    async def before() -> None:
        postbox.before = None
        await bob.say(room, "meanwhile")
        await noticed(server)

    postbox.before = before
    await later(server, DELAY)
    assert "meanwhile" not in text_of(await postbox.until(1))
    await later(server, 2 * DELAY)
    assert "meanwhile" in text_of(await postbox.until(2))
    assert "first" not in text_of(postbox.mails[1])
    assert (await alice.ok("GET", "/pushers"))["pushers"]


@sqlite_only
async def test_switched_off_and_muted_there_are_no_mails(server: Running, postbox: Postbox) -> None:
    alice, bob, room = await pair(server, postbox)
    await bob.say(room, "planned")
    await noticed(server)
    await alice.ok("POST", "/pushers/set", body=pusher(enabled=False))
    await bob.say(room, "unheard")
    await later(server, 2 * DELAY)
    await alice.ok("POST", "/pushers/set", body=pusher(enabled=True))
    await later(server, 2 * DELAY)
    assert postbox.mails == []
    await bob.say(room, "heard")
    await later(server, DELAY)
    text = text_of(await postbox.until(1))
    assert "heard" in text
    assert "unheard" not in text
    assert "planned" not in text
