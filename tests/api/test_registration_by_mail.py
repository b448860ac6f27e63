"""Registration with a mail address, where the server wants one (`registration.verify_email`).

spec: client-server-api#email-based-identity--homeserver
"""

import re
from typing import Any

import pytest

from homeserver.config import Config
from homeserver.options import ConfigError
from tests.api.test_third_party_ids import ADDRESS, ask, creds, link_in
from tests.postbox import Postbox, postbox
from tests.serving import CLIENT, PASSWORD, Reply, Running

__all__ = ["postbox"]

EMAIL = "m.login.email.identity"


@pytest.fixture
def settings(postbox: Postbox) -> dict[str, Any]:
    mail = {"host": "127.0.0.1", "port": postbox.port, "security": "none"}
    return {"mail": mail, "registration": {"mode": "open", "verify_email": True}}


def step(sid: str, session: str | None = None) -> dict[str, Any]:
    auth: dict[str, Any] = {"type": EMAIL, "threepid_creds": creds(sid)}
    return auth if session is None else {**auth, "session": session}


async def register(server: Running, username: str, auth: Any = None) -> Reply:
    body = {"username": username, "password": PASSWORD, "auth": auth}
    body = {key: value for key, value in body.items() if value is not None}
    return await server.request("POST", f"{CLIENT}/register", body=body)


async def test_the_account_has_the_address_that_was_shown(
    server: Running, postbox: Postbox
) -> None:
    first = await register(server, "alice")
    assert (first.status, first.body["flows"]) == (401, [{"stages": [EMAIL]}])
    session = first.body["session"]
    sid = (await ask(server, "register")).body["sid"]
    early = await register(server, "alice", step(sid, session))
    assert (early.status, early.errcode) == (401, "M_UNAUTHORIZED")
    assert (await server.request("GET", await link_in(postbox, 1))).status == 200
    await server.restart()
    made = await register(server, "alice", step(sid, session))
    assert made.status == 200, made.body
    token = made.body["access_token"]
    listed = await server.request("GET", f"{CLIENT}/account/3pid", token=token)
    (address,) = listed.body["threepids"]
    assert (address["medium"], address["address"]) == ("email", "alice@mail.example")
    # The link is used up, and the address is taken.
    assert (await register(server, "eve", step(sid))).errcode == "M_UNAUTHORIZED"
    assert (await ask(server, "register", attempt=2)).errcode == "M_THREEPID_IN_USE"


async def test_no_other_step_stands_in_for_it(server: Running) -> None:
    for auth in ({"type": "m.login.dummy"}, {"type": EMAIL}, step("0" * 32)):
        refused = await register(server, "alice", auth)
        assert refused.status in (400, 401), auth
    available = await server.request(
        "GET", f"{CLIENT}/register/available", query={"username": "alice"}
    )
    assert available.body == {"available": True}


async def test_a_link_for_another_purpose_is_not_good_for_it(
    server: Running, postbox: Postbox
) -> None:
    sid = (await ask(server, "account/3pid")).body["sid"]
    await server.request("GET", await link_in(postbox, 1))
    refused = await register(server, "alice", step(sid))
    assert (refused.status, refused.errcode) == (401, "M_UNAUTHORIZED")


async def test_an_address_makes_one_account(server: Running, postbox: Postbox) -> None:
    """Two links for one address were followed before either was used."""
    sids = []
    for count, secret in enumerate(("one", "two"), 1):
        body = {"client_secret": secret, "email": ADDRESS, "send_attempt": 1}
        path = f"{CLIENT}/register/email/requestToken"
        sids.append((await server.request("POST", path, body=body)).body["sid"])
        await server.request("GET", await link_in(postbox, count))
    auths = [
        {"type": EMAIL, "threepid_creds": {"sid": sid, "client_secret": secret}}
        for sid, secret in zip(sids, ("one", "two"), strict=True)
    ]
    assert (await register(server, "alice", auths[0])).status == 200
    refused = await register(server, "bob", auths[1])
    assert (refused.status, refused.errcode) == (400, "M_THREEPID_IN_USE")
    available = f"{CLIENT}/register/available"
    assert (await server.request("GET", available, query={"username": "bob"})).status == 200


def test_it_needs_a_server_that_sends_mail(tmp_path: Any) -> None:
    document = {
        "server": {"name": "a.example"},
        "registration": {"verify_email": True},
        "listeners": [{"port": 0}],
    }
    with pytest.raises(ConfigError, match=r"needs mail\.host"):
        Config.read(document, "the test", tmp_path, {})


class Browser:
    """Somebody who sees the pages of the stage, and fills in their forms."""

    def __init__(self, server: Running, session: str) -> None:
        self._server = server
        self._session = session

    async def page(self) -> str:
        path = f"{CLIENT}/auth/{EMAIL}/fallback/web"
        reply = await self._server.request("GET", path, query={"session": self._session})
        assert reply.status == 200
        return str(reply.body.decode())

    async def submit(self, text: str, status: int = 200, **fields: str) -> str:
        """Fill in the form of a page; the page that follows."""
        action = re.search(r"<form method=post action=\"([^\"]+)\"", text)
        assert action is not None, text
        hidden = dict(re.findall(r"<input type=hidden name=(\w+) value=\"([^\"]*)\">", text))
        url = self._server.url + action[1]
        async with self._server.http.post(url, data={**hidden, **fields}) as answer:
            assert answer.status == status, await answer.text()
            return await answer.text()


async def test_an_address_is_shown_on_pages_in_a_browser(server: Running, postbox: Postbox) -> None:
    session = (await register(server, "alice")).body["session"]
    browser = Browser(server, session)
    first = await browser.page()
    assert "no mail address" in await browser.submit(first, 400, email="nonsense")
    waiting = await browser.submit(first, email=ADDRESS)
    early = await browser.submit(waiting, 401)
    assert "not followed yet" in early
    assert (await register(server, "alice", {"session": session})).status == 401
    await server.request("GET", await link_in(postbox, 1))
    assert "window.onAuthDone" in await browser.submit(early)
    made = await register(server, "alice", {"session": session})
    assert made.status == 200, made.body
    taken = (await register(server, "eve")).body["session"]
    assert "has this address" in await Browser(server, taken).submit(first_of(first, taken), 400)


def first_of(text: str, session: str) -> str:
    """The page as another session sees it, with the address filled in."""
    text = re.sub(r"name=session value=\"[^\"]*\"", f'name=session value="{session}"', text)
    return text + f'<input type=hidden name=email value="{ADDRESS}">'


async def test_nobody_is_mailed_for_a_session_that_is_none_or_asks_for_no_address(
    server: Running, postbox: Postbox
) -> None:
    page = await Browser(server, "x").page()
    alice = await server.person("alice")
    begun = await alice.raw("POST", "/account/deactivate", body={})
    browser = Browser(server, "x")
    await browser.submit(first_of(page, "unknown"), 400)
    await browser.submit(first_of(page, begun.body["session"]), 404)
    assert postbox.mails == []


async def test_a_forgotten_password_is_set_by_pages(server: Running, postbox: Postbox) -> None:
    session = (await register(server, "alice")).body["session"]
    waiting = await Browser(server, session).submit(
        await Browser(server, session).page(), email=ADDRESS
    )
    await server.request("GET", await link_in(postbox, 1))
    await Browser(server, session).submit(waiting)
    assert (await register(server, "alice", {"session": session})).status == 200
    body: dict[str, Any] = {"new_password": "new horse"}
    asked = await server.request("POST", f"{CLIENT}/account/password", body=body)
    assert [EMAIL] in [flow["stages"] for flow in asked.body["flows"]]
    browser = Browser(server, asked.body["session"])
    waiting = await browser.submit(await browser.page(), email=ADDRESS)
    link = await link_in(postbox, 2)
    async with server.http.post(
        server.url + link.partition("?")[0],
        data=link.partition("?")[2].encode(),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    ) as answer:
        assert answer.status == 200
    await browser.submit(waiting)
    body["auth"] = {"session": asked.body["session"]}
    done = await server.request("POST", f"{CLIENT}/account/password", body=body)
    assert done.status == 200, done.body
