"""Mail addresses of accounts: validated by a link, added, used for a new password and to log in.

spec: client-server-api#adding-account-administrative-contact-information
"""

import re
from typing import Any

import pytest

from tests.postbox import Postbox, postbox, text_of
from tests.serving import CLIENT, PASSWORD, Person, Reply, Running

__all__ = ["postbox"]

ADDRESS = "Alice@mail.example"


@pytest.fixture
def settings(postbox: Postbox) -> dict[str, Any]:
    return {"mail": {"host": "127.0.0.1", "port": postbox.port, "security": "none"}}


def creds(sid: str) -> dict[str, Any]:
    return {"sid": sid, "client_secret": "secret"}


async def ask(server: Running, path: str, address: str = ADDRESS, attempt: int = 1) -> Reply:
    body = {"client_secret": "secret", "email": address, "send_attempt": attempt}
    return await server.request("POST", f"{CLIENT}/{path}/email/requestToken", body=body)


async def link_in(postbox: Postbox, count: int) -> str:
    found = re.search(r"https://\S+?(/_homeserver\S+)", text_of(await postbox.until(count)))
    assert found is not None
    return found[1]


def password(person: Person) -> dict[str, Any]:
    identifier = {"type": "m.id.user", "user": person.user_id}
    return {"type": "m.login.password", "password": PASSWORD, "identifier": identifier}


async def with_address(server: Running, postbox: Postbox) -> Person:
    alice = await server.person("alice")
    sid = (await ask(server, "account/3pid")).body["sid"]
    await server.request("GET", await link_in(postbox, 1))
    await alice.ok("POST", "/account/3pid/add", body={**creds(sid), "auth": password(alice)})
    return alice


async def test_an_address_is_added_once_its_link_was_followed(
    server: Running, postbox: Postbox
) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    begun = await ask(server, "account/3pid")
    assert (await ask(server, "account/3pid")).body == begun.body, "the same attempt"
    assert len(postbox.mails) == 1
    body = {**creds(begun.body["sid"]), "auth": password(alice)}
    await alice.refused("M_THREEPID_AUTH_FAILED", "POST", "/account/3pid/add", body=body)
    link = await link_in(postbox, 1)
    wrong = await server.request("GET", link[:-3] + "xxx")
    assert wrong.status == 400
    assert (await server.request("GET", link)).status == 200
    await alice.ok("POST", "/account/3pid/add", body=body)
    (added,) = (await alice.ok("GET", "/account/3pid"))["threepids"]
    assert (added["medium"], added["address"]) == ("email", "alice@mail.example")
    taken = await ask(server, "account/3pid", attempt=2)
    assert taken.errcode == "M_THREEPID_IN_USE"
    again = {**body, "auth": password(bob)}
    await bob.refused("M_THREEPID_AUTH_FAILED", "POST", "/account/3pid/add", body=again)
    gone = {"medium": "email", "address": ADDRESS}
    assert await bob.ok("POST", "/account/3pid/delete", body=gone)
    assert len((await alice.ok("GET", "/account/3pid"))["threepids"]) == 1, "not Bob's to remove"
    await alice.ok("POST", "/account/3pid/delete", body=gone)
    assert await alice.ok("GET", "/account/3pid") == {"threepids": []}


async def test_a_forgotten_password_is_replaced_after_a_click(
    server: Running, postbox: Postbox
) -> None:
    alice = await with_address(server, postbox)
    sid = (await ask(server, "account/password")).body["sid"]
    link = await link_in(postbox, 2)
    await server.request("GET", link)  # what looks at mail opens links: that is not enough
    body = {
        "new_password": "new horse",
        "auth": {"type": "m.login.email.identity", "threepid_creds": creds(sid)},
    }
    refused = await server.request("POST", f"{CLIENT}/account/password", body=body)
    assert (refused.status, refused.errcode) == (401, "M_UNAUTHORIZED")
    form = link.partition("?")[2].encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with server.http.post(
        server.url + link.partition("?")[0], data=form, headers=headers
    ) as answer:
        assert answer.status == 200
    body["auth"]["session"] = refused.body["session"]  # type: ignore[index]
    done = await server.request("POST", f"{CLIENT}/account/password", body=body)
    assert done.status == 200, done.body
    await alice.refused("M_UNKNOWN_TOKEN", "GET", "/account/whoami")
    login = {"type": "m.login.password", "password": "new horse"}
    identifier = {"type": "m.id.thirdparty", "medium": "email", "address": ADDRESS}
    logged_in = await server.request(
        "POST", f"{CLIENT}/login", body={**login, "identifier": identifier}
    )
    assert logged_in.body["user_id"] == alice.user_id


async def test_a_link_for_one_thing_is_good_for_no_other(server: Running, postbox: Postbox) -> None:
    await with_address(server, postbox)
    bob = await server.person("bob")
    sid = (await ask(server, "account/3pid", "bob@mail.example")).body["sid"]
    await server.request("GET", await link_in(postbox, 2))
    body = {
        "new_password": "new horse",
        "auth": {"type": "m.login.email.identity", "threepid_creds": creds(sid)},
    }
    refused = await server.request("POST", f"{CLIENT}/account/password", body=body)
    assert refused.status == 401
    unknown = await ask(server, "account/password", "nobody@mail.example")
    assert unknown.errcode == "M_THREEPID_NOT_FOUND"
    bad = await ask(server, "account/3pid", "no address")
    assert bad.errcode == "M_INVALID_PARAM"
    assert (await bob.ok("GET", "/account/3pid")) == {"threepids": []}


async def test_a_mail_that_cannot_be_sent_is_said_and_addresses_go_with_the_account(
    server: Running, postbox: Postbox
) -> None:
    alice = await with_address(server, postbox)
    postbox.refuse = "451 not now"
    failed = await ask(server, "account/3pid", "other@mail.example")
    assert (failed.status, failed.errcode) == (502, "M_UNKNOWN")
    await alice.ok("POST", "/account/deactivate", body={"auth": password(alice)})
    postbox.refuse = ""
    assert (await ask(server, "account/3pid", attempt=5)).status == 200


async def test_identity_servers_that_cannot_be_reached_are_an_error(
    server: Running, postbox: Postbox
) -> None:
    alice = await with_address(server, postbox)
    body = {**creds("sid"), "id_server": "127.0.0.1:1", "id_access_token": "token"}
    refused = await alice.refused("M_UNKNOWN", "POST", "/account/3pid/bind", body=body)
    assert refused.status == 502
    gone = {"medium": "email", "address": ADDRESS, "id_server": "127.0.0.1:1"}
    answer = await alice.ok("POST", "/account/3pid/unbind", body=gone)
    assert answer == {"id_server_unbind_result": "no-support"}
