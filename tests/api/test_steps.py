"""Terms of service, and the pages on which steps are done in a browser."""

import re
from typing import Any

import pytest

from homeserver.users import uia
from tests.api.test_devices import password
from tests.serving import CLIENT, PASSWORD, Reply, Running

TERMS = "m.login.terms"
TOKEN = "m.login.registration_token"
DOCUMENT = {
    "policy": "privacy",
    "version": "1.2",
    "name": "Privacy & <more>",
    "url": "https://example.org/p",
}


async def register(server: Running, **body: Any) -> Reply:
    body = {"username": "alice", "password": "x", **body}
    return await server.request("POST", f"{CLIENT}/register", body=body)


def page(stage: str) -> str:
    return f"{CLIENT}/auth/{stage}/fallback/web"


async def shown(server: Running, stage: str, session: str = "x") -> Reply:
    return await server.request("GET", page(stage), query={"session": session})


async def filled(server: Running, stage: str, **fields: str) -> Reply:
    async with server.http.post(server.url + page(stage), data=fields) as answer:
        return Reply(answer.status, (await answer.read()).decode(), answer.headers)


class TestTerms:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        french = {**DOCUMENT, "language": "fr", "name": "Vie privée"}
        return {"terms": [DOCUMENT, french], "registration": {"mode": "token"}}

    async def begun(self, server: Running) -> str:
        await server.app.services.registration_tokens.create("invited")
        reply = await register(server)
        assert reply.body["flows"] == [{"stages": [TOKEN, TERMS]}]
        assert reply.body["params"][TERMS]["policies"] == {
            "privacy": {
                "version": "1.2",
                "en": {"name": "Privacy & <more>", "url": "https://example.org/p"},
                "fr": {"name": "Vie privée", "url": "https://example.org/p"},
            }
        }
        return str(reply.body["session"])

    async def test_they_are_accepted_and_that_is_noted(self, server: Running) -> None:
        session = await self.begun(server)
        auth = {"type": TOKEN, "token": "invited", "session": session}
        half = await register(server, auth=auth)
        assert (half.status, half.body["completed"]) == (401, [TOKEN])
        assert (await register(server, auth={"type": TERMS, "session": session})).status == 200

    async def test_what_was_not_shown_is_not_accepted(self, server: Running) -> None:
        reply = await register(server, auth={"type": TERMS})
        assert reply.status == 401
        assert "completed" not in reply.body

    async def test_pages_do_all_the_steps(self, server: Running) -> None:
        session = await self.begun(server)
        wrong = await filled(server, TOKEN, session=session, token="none")
        assert (wrong.status, "not valid" in wrong.body) == (401, True)
        done = await filled(server, TOKEN, session=session, token="invited")
        assert (done.status, "window.onAuthDone" in done.body) == (200, True)
        half = await register(server, auth={"session": session})
        assert half.body["completed"] == [TOKEN]
        listed = (await shown(server, TERMS, session)).body.decode()
        assert 'href="https://example.org/p">Privacy &amp; &lt;more&gt;</a>' in listed
        assert (await filled(server, TERMS, session=session)).status == 200
        assert (await register(server, auth={"session": session})).status == 200


async def test_a_page_has_only_the_script_that_is_wanted(server: Running) -> None:
    session = (await register(server)).body["session"]
    form = await shown(server, "m.login.dummy", session)
    assert form.status == 200
    assert b"<script" not in form.body
    assert "script-src" not in form.headers["Content-Security-Policy"]
    done = await filled(server, "m.login.dummy", session=session)
    policy = done.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='", policy)
    assert "frame-ancestors 'none'" in policy
    assert (await register(server, auth={"session": session})).status == 200


async def test_the_password_is_given_on_its_page(server: Running) -> None:
    alice = await server.person("alice")
    session = (await alice.raw("DELETE", "/devices/OTHER")).body["session"]
    wrong = await filled(server, "m.login.password", session=session, password="wrong")
    assert wrong.status == 401
    done = await filled(server, "m.login.password", session=session, password=PASSWORD)
    assert done.status == 200
    await alice.refused(
        "M_FORBIDDEN", "DELETE", "/devices/TWO", body={"auth": {"session": session}}
    )
    await alice.ok("DELETE", "/devices/OTHER", body={"auth": {"session": session}})


@pytest.mark.parametrize(
    ("stage", "fields", "status"),
    [
        ("m.login.dummy", {}, 400),
        ("m.login.dummy", {"session": "unknown"}, 400),
        ("m.login.recaptcha", {"session": "x"}, 404),
        ("m.login.password", {"session": "x\0"}, 400),
    ],
)
async def test_pages_that_lead_nowhere(
    server: Running, stage: str, fields: dict[str, str], status: int
) -> None:
    assert (await filled(server, stage, **fields)).status == status


async def test_nothing_of_a_session_is_put_into_the_page_as_it_is(server: Running) -> None:
    reply = await shown(server, "m.login.dummy", '"><script>')
    assert b"<script" not in reply.body
    assert (await shown(server, "m.login.sso")).errcode == "M_UNRECOGNIZED"
    assert (await server.request("GET", page("m.login.dummy"))).errcode == "M_MISSING_PARAM"


async def test_every_step_that_may_be_asked_for_has_a_page(server: Running) -> None:
    for stage in (uia.DUMMY, uia.EMAIL, uia.PASSWORD, uia.REGISTRATION_TOKEN, uia.TERMS):
        assert (await shown(server, stage)).status == 200, stage


async def test_there_is_a_page_to_log_in(server: Running) -> None:
    reply = await server.request("GET", "/_matrix/static/client/login/")
    assert reply.status == 200
    assert "connect-src 'self'" in reply.headers["Content-Security-Policy"]
    assert b"matrixLogin.onLogin" in reply.body


class TestLimits:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"limits": {"enabled": True}}

    async def test_wrong_passwords_are_counted_whoever_asks(self, server: Running) -> None:
        alice = await server.person("alice")
        for _ in range(10):
            reply = await alice.raw("DELETE", "/devices/X", body={"auth": password("alice", "no")})
            assert reply.status == 401
        body = {"auth": password("alice")}
        await alice.refused("M_LIMIT_EXCEEDED", "DELETE", "/devices/X", body=body)
