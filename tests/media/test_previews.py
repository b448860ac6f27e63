"""Previews of web pages; spec: client-server-api#get_matrixclientv1mediapreview_url.

The web of these tests is a server on 127.0.0.2, the one address of the loopback network that may be
connected to; a neighbour that must never be asked listens on 127.0.0.1.
"""

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from homeserver.media import linked_data, oembed, previews
from homeserver.media.page import decoded
from homeserver.media.previews import FAILED_MS, GOOD_MS, PAGE_BYTES, address
from storage.engine import DatabaseSettings
from tests.federation.name_server import NameServer
from tests.media.sending import V1, V3, download
from tests.media.test_moderation import files
from tests.serving import Person, Reply, Running

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Site:
    """A web server; `seen` are the paths that were asked for."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.pages: dict[str, tuple[int, dict[str, str], bytes] | Handler] = {}
        self.port = 0

    async def start(self, host: str) -> web.ServerRunner:
        runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, host, 0).start()
        self.port = runner.addresses[0][1]
        return runner

    def html(self, path: str, text: str | bytes, kind: str = "text/html; charset=utf-8") -> None:
        body = text if isinstance(text, bytes) else text.encode()
        self.pages[path] = (200, {"Content-Type": kind}, body)

    def redirect(self, path: str, target: str) -> None:
        self.pages[path] = (302, {"Location": target}, b"")

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append(request.path)
        page = self.pages.get(request.path)
        if page is None:
            return web.Response(status=404)
        if callable(page):
            return await page(request)
        status, headers, body = page
        return web.Response(status=status, headers=headers, body=body)


@pytest.fixture
def database_settings(tmp_path: Path) -> DatabaseSettings:
    """SQLite alone; the few statements that are of previews only have tests of their own."""
    return DatabaseSettings(path=tmp_path / "test.db", durable=False)


@pytest.fixture
async def names() -> AsyncIterator[NameServer]:
    server = NameServer()
    await server.start()
    server.put("site.example", "A", "127.0.0.2")
    yield server
    await server.stop()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    runner = await made.start("127.0.0.2")
    yield made
    await runner.cleanup()


@pytest.fixture
async def neighbour() -> AsyncIterator[Site]:
    """What stands beside the server and trusts it."""
    made = Site()
    made.html("/", "<title>secret</title>")
    runner = await made.start("127.0.0.1")
    yield made
    await runner.cleanup()


@pytest.fixture
def settings(names: NameServer) -> dict[str, Any]:
    return {"federation": {"allow_networks": ["127.0.0.2/32"], "dns": [names.address]}}


@pytest.fixture
async def alice(server: Running) -> Person:
    return await server.person("alice")


async def asked(person: Person, url: str) -> Reply:
    return await person.raw("GET", f"{V1}/preview_url", query={"url": url})


async def shown(person: Person, site: Site, path: str) -> dict[str, Any]:
    """The preview of a page of the site."""
    reply = await asked(person, f"http://site.example:{site.port}{path}")
    assert reply.status == 200, reply.body
    return dict(reply.body)


async def test_what_a_page_says_of_itself(alice: Person, site: Site) -> None:
    site.html(
        "/",
        """<!doctype html><head><meta property="og:title" content="Bread &amp; butter">
        <meta property=og:description content=" two
          lines "><meta property="og:site_name" content="Food">
        <meta property="og:image" content="/p.png"><meta property="og:image:width" content="48">
        <meta property="og:secret" content="no"><title>other</title></head>""",
    )
    site.pages["/p.png"] = (200, {"Content-Type": "text/html"}, PNG)
    said = await shown(alice, site, "/")
    uri = said.pop("og:image")
    assert said == {
        "og:title": "Bread & butter",
        "og:description": "two lines",
        "og:site_name": "Food",
        "og:url": f"http://site.example:{site.port}/",
        "og:image:width": 48,
        "og:image:type": "image/png",
        "matrix:image:size": len(PNG),
    }
    got = await download(alice, uri.removeprefix("mxc://"))
    assert (got.status, got.body, got.headers["Content-Type"]) == (200, PNG, "image/png")


async def test_the_title_stands_in_and_the_old_path_answers(alice: Person, site: Site) -> None:
    site.html("/", '<title>Plain</title><meta name="description" content="words">')
    url = f"http://site.example:{site.port}/#part"
    said = await alice.ok("GET", f"{V3}/preview_url", query={"url": url, "ts": 1})
    assert (said["og:title"], said["og:description"]) == ("Plain", "words")
    assert "og:image" not in said


async def test_oembed_says_what_the_page_does_not(alice: Person, site: Site) -> None:
    site.html("/", '<link rel=alternate type="application/json+oembed" href="/o?x=1">')
    site.html(
        "/o",
        '{"type":"video","title":"A film","provider_name":"Films","thumbnail_url":"'
        f'http://site.example:{site.port}/p"}}',
        "application/json",
    )
    site.html("/p", PNG, "image/png")
    said = await shown(alice, site, "/")
    assert (said["og:title"], said["og:site_name"]) == ("A film", "Films")
    assert said["og:image"].startswith("mxc://test.example/")


async def test_a_site_of_the_list_is_asked_by_oembed_alone(
    alice: Person, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = f"http://site.example:{site.port}"
    listed = ((re.compile(re.escape(f"{base}/post/")), f"{base}/oembed?url="),)
    monkeypatch.setattr(oembed, "PROVIDERS", listed)
    html = (
        '<blockquote class="post"><p lang="en">The oven<br>is hot.</p>&mdash; Baker</blockquote>'
        "<script src=x></script>"
    )
    said = {"type": "rich", "author_name": "Baker", "provider_name": "Posts", "html": html}
    site.html("/oembed", json.dumps(said), "application/json")
    found = await shown(alice, site, "/post/1?a=b&c")
    assert found == {
        "og:url": f"{base}/post/1?a=b&c",
        "og:title": "Baker",
        "og:site_name": "Posts",
        "og:description": "The oven is hot.",
    }
    assert site.seen == ["/oembed"]
    # Where that says nothing, the page is looked at.
    site.html("/oembed", "{}", "application/json")
    site.html("/post/2", "<title>The second</title>")
    assert (await shown(alice, site, "/post/2"))["og:title"] == "The second"


@pytest.mark.parametrize(
    ("page", "asked_at"),
    [
        ("https://www.youtube.com/watch?v=x", "www.youtube.com"),
        ("https://youtu.be/x?t=1", "www.youtube.com"),
        ("https://vimeo.com/1", "vimeo.com"),
        ("https://x.com/someone/status/1", "publish.twitter.com"),
        ("https://twitter.com/someone/status/1?s=2", "publish.twitter.com"),
        ("https://bsky.app/profile/a.example/post/x", "embed.bsky.app"),
        ("https://old.reddit.com/r/bread/comments/x/y/", "www.reddit.com"),
        ("https://www.tiktok.com/@a/video/1", "www.tiktok.com"),
        ("https://open.spotify.com/intl-de/track/x", "open.spotify.com"),
        ("https://soundcloud.com/a/b", "soundcloud.com"),
        ("https://www.flickr.com/photos/a/1", "www.flickr.com"),
        ("https://www.dailymotion.com/video/x", "www.dailymotion.com"),
        ("https://www.youtube.com/", None),
        ("http://x.com/someone/status/1", None),
        ("https://x.com.example/someone/status/1", None),
        ("https://example/https://youtu.be/x", None),
        ("https://notvimeo.com/1", None),
        ("https://user@youtu.be/x", None),
    ],
)
def test_which_sites_are_on_the_list(page: str, asked_at: str | None) -> None:
    target = oembed.request_for(page)
    assert (URL(target).host if target is not None else None) == asked_at
    if target is not None:
        assert URL(target).scheme == "https"
        assert URL(target).query["url"] == page


PAGES = {
    "amazon": ("Brotkasten aus Holz : Küche & Haushalt", "Brotkasten aus Holz : Küche & Haushalt"),
    "github": ("GitHub - someone/bread: A program that bakes", "A program that bakes."),
    "instagram": (
        'Baker on Instagram: "Bread 🍞🍞"',
        '7 likes, 1 comments - baker on May 29, 2021: "Bread 🍞🍞".',
    ),
    "mastodon": ("Baker (@baker@social.example)", "The oven is hot. Come & get bread."),
    "medium": ("🍞🔥 Bread 3: it rises!! 🔥🍞", "Now with a crust, “magic yeast”, and more!"),
    "news": (
        "How to See What Bread Knows (And How to Stop It) (Published 2017)",
        "Welcome to the second loaf.",
    ),
    "recipes": ("Pain à l’ancienne", "Un pain qui lève &eacute; lentement."),
    "reddit": (
        "From the bread community on Reddit: My first loaf with 17” crust",
        "Explore this post and more from the bread community",
    ),
    "spotify": ("Song of Bread", "The Bakers · Bread · Song · 2026"),
    "stackoverflow": (
        "Why does my bread not rise?",
        "I have waited for an hour. It is as flat as before.",
    ),
    "wikipedia": (
        "Bread oven - Wikipedia",
        "A bread oven is an oven[1] in which bread is baked; it is hot.",
    ),
    "x": ("Baker (@baker) on X", "El horno está caliente, con @flour #bread"),
    "youtube": ("How bread is baked", "In this film we bake."),
}
"""By a much linked to site, in whose form a page was written: its title and description."""
SCRIPT = '<script nonce="x">var config = {"a": "</", "b": "<meta>"};' + "x" * 150_000 + "</script>"


async def test_pages_in_the_form_of_much_linked_to_sites(alice: Person, site: Site) -> None:
    site.html("/picture.png", PNG, "image/png")
    site.redirect("/moved-picture", "/picture.png")
    for name in PAGES:
        text = (Path(__file__).parent / "pages" / f"{name}.html").read_text()
        padding = 4 * SCRIPT if name == "youtube" else SCRIPT
        text = text.replace("PORT", str(site.port)).replace("PADDING", padding)
        # Few say in the header what they are written in.
        site.html(f"/{name}", text, "text/html")
    found = await asyncio.gather(*(shown(alice, site, f"/{name}") for name in PAGES))
    for (name, (title, description)), said in zip(PAGES.items(), found, strict=True):
        assert (said["og:title"], said.get("og:description")) == (title, description)
        # A shop names no picture.
        assert said.get("og:image:type") == (None if name == "amazon" else "image/png"), name
        assert said["og:url"] == f"http://site.example:{site.port}/{name}"


async def test_who_looks_says_that_it_is_a_bot(alice: Person, site: Site) -> None:
    """Some sites say nothing of their pages to browsers, which run scripts."""
    asked_by: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        asked_by.append(request.headers["User-Agent"])
        return web.Response(text="<title>T</title>", content_type="text/html")

    site.pages["/"] = answer
    await shown(alice, site, "/")
    assert "bot" in asked_by[0]


async def test_a_page_that_is_shown_only_with_its_cookie(alice: Person, site: Site) -> None:
    told: list[str | None] = []

    async def consent(request: web.BaseRequest) -> web.StreamResponse:
        told.append(request.headers.get("Cookie"))
        if "seen=1" in (told[-1] or ""):
            return web.Response(text="<title>The page</title>", content_type="text/html")
        answer = web.Response(status=302, headers={"Location": "/"})
        answer.set_cookie("seen", "1", max_age=60, httponly=True)
        answer.headers.add("Set-Cookie", "at=a; Expires=Thu, 01 Jan 2099 00:00:00 GMT")
        return answer

    site.pages["/"] = consent
    assert (await shown(alice, site, "/"))["og:title"] == "The page"
    assert told[0] is None
    assert sorted((told[1] or "").split("; ")) == ["at=a", "seen=1"]
    # It has ended with the look.
    site.redirect("/again", "/")
    assert (await shown(alice, site, "/again"))["og:title"] == "The page"
    assert told[2] is None


async def test_no_cookie_goes_elsewhere(alice: Person, site: Site, names: NameServer) -> None:
    names.put("other.example", "A", "127.0.0.2")
    told: list[str | None] = []

    async def away(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.Response(status=302)
        answer.headers["Location"] = f"http://other.example:{site.port}/other"
        answer.set_cookie("secret", "1", domain="example")
        return answer

    async def other(request: web.BaseRequest) -> web.StreamResponse:
        told.append(request.headers.get("Cookie"))
        return web.Response(text="<title>T</title>", content_type="text/html")

    site.pages.update({"/": away, "/other": other})
    await shown(alice, site, "/")
    assert told == [None]


async def test_a_wall_of_consent_ends_in_a_failure(alice: Person, site: Site) -> None:
    """With a new cookie each time it would go on for ever."""
    number = 0

    async def wall(_: web.BaseRequest) -> web.StreamResponse:
        nonlocal number
        number += 1
        answer = web.Response(status=303, headers={"Location": f"/?{number}"})
        answer.set_cookie(f"c{number}", "x" * 900)
        return answer

    site.pages["/"] = wall
    assert (await asked(alice, f"http://site.example:{site.port}/")).status == 502
    assert number == previews.REDIRECTS + 1


async def test_a_compressed_page_is_read_and_a_bomb_ends(alice: Person, site: Site) -> None:
    headers = {"Content-Type": "text/html", "Content-Encoding": "gzip"}
    page = gzip.compress("<title>Grüße</title>".encode())
    bomb = gzip.compress(b"<title>boom</title>" + bytes(200 * 1_048_576), 1)
    site.pages["/"] = (200, headers, page)
    site.pages["/bomb"] = (200, headers, bomb)
    assert (await shown(alice, site, "/"))["og:title"] == "Grüße"
    # Of what it unpacks to only the beginning is read.
    assert (await shown(alice, site, "/bomb"))["og:title"] == "boom"
    # Nobody has asked for this one.
    site.pages["/br"] = (200, {**headers, "Content-Encoding": "br"}, page)
    assert (await asked(alice, f"http://site.example:{site.port}/br")).status == 502


async def test_a_place_with_spaces_is_found(alice: Person, site: Site) -> None:
    site.redirect("/", "/a b/ü?c d")
    site.html("/a b/ü", "<title>there</title>")
    assert (await shown(alice, site, "/"))["og:title"] == "there"


async def test_what_was_found_outlives_a_restart_and_is_bounded(
    server: Running, alice: Person, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews, "REMEMBERED", 3)
    paths = [f"/{number}" for number in range(6)]
    for path in paths:
        site.html(path, f"<title>{path}</title>")
        await shown(alice, site, path)
        await server.clock.advance(1)
    # Each start forgets what is too much.
    await server.restart()
    await server.app.services.media.previews.tidy()
    site.seen.clear()
    for path in paths:
        assert (await shown(alice, site, path))["og:title"] == path
    assert site.seen == paths[:3]


@pytest.mark.parametrize("answer", ["{", "[]", '{"title": 5}', '"x"', "[" * 10_000])
async def test_a_malformed_oembed_answer_changes_nothing(
    alice: Person, site: Site, answer: str
) -> None:
    site.html("/", '<title>T</title><link type="application/json+oembed" href="/o">')
    site.html("/o", answer, "application/json")
    assert (await shown(alice, site, "/"))["og:title"] == "T"


async def test_a_picture_is_its_own_preview_and_anything_else_has_none(
    alice: Person, site: Site
) -> None:
    site.html("/cat.png", PNG, "image/png")
    assert (await shown(alice, site, "/cat.png"))["og:title"] == "cat.png"
    site.html("/no.png", "<svg onload='x()'>", "image/svg+xml")
    assert await shown(alice, site, "/no.png") == {}
    site.html("/a.zip", b"PK", "application/zip")
    assert await shown(alice, site, "/a.zip") == {}


async def test_a_page_is_looked_at_once_in_an_hour(
    server: Running, alice: Person, site: Site
) -> None:
    site.html("/", "<title>old</title>")
    both = await asyncio.gather(shown(alice, site, "/"), shown(alice, site, "/"))
    site.html("/", "<title>new</title>")
    assert both[0] == both[1] == await shown(alice, site, "/")
    assert site.seen == ["/"]
    await server.clock.advance(GOOD_MS / 1000)
    assert (await shown(alice, site, "/"))["og:title"] == "new"


async def test_a_failure_is_remembered_for_a_while(
    server: Running, alice: Person, site: Site
) -> None:
    url = f"http://site.example:{site.port}/"
    for _ in range(2):
        assert (await asked(alice, url)).status == 502
    assert site.seen == ["/"]
    site.html("/", "<title>there</title>")
    await server.clock.advance(FAILED_MS / 1000)
    assert (await asked(alice, url)).body["og:title"] == "there"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "0.0.0.0",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "inside.example",
        "alias.example",
        "mapped.example",
        "inside.example.",
        "127.0.0.1.",
        "localhost.",
        "0",
        "0x7f000001",
        "017700000001",
        "127.000.000.001",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[2002:7f00:1::1]",
        "[fe80::1%25lo]",
        "[::1%25lo]",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "ınside.example",
    ],
)
async def test_no_spelling_of_a_neighbour_leads_to_it(
    alice: Person, names: NameServer, site: Site, neighbour: Site, host: str
) -> None:
    names.put("inside.example", "A", "127.0.0.1")
    names.put("alias.example", "CNAME", "inside.example.")
    names.put("mapped.example", "AAAA", "::ffff:127.0.0.1")
    names.put("xn--nside-p4a.example", "A", "127.0.0.1")
    there = f"http://{host}:{neighbour.port}/"
    site.redirect("/away", there)
    site.html("/picture", f'<title>T</title><meta property="og:image" content="{there}">')
    # What is no address at all is refused before.
    assert (await asked(alice, there)).status in (400, 502)
    away = await asked(alice, f"http://site.example:{site.port}/away")
    assert away.status == 502
    assert "og:image" not in await shown(alice, site, "/picture")
    assert neighbour.seen == []


async def test_who_is_refused_is_not_told_why(alice: Person, site: Site, neighbour: Site) -> None:
    """Otherwise a user could draw a map of the network behind the server."""
    denied = await asked(alice, f"http://127.0.0.1:{neighbour.port}/")
    unknown = await asked(alice, "http://nowhere.example/")
    missing = await asked(alice, f"http://site.example:{site.port}/none")
    assert denied.body == unknown.body == missing.body
    assert denied.status == unknown.status == missing.status == 502


async def test_a_name_that_changes_its_address_is_judged_anew(
    server: Running, alice: Person, names: NameServer, neighbour: Site
) -> None:
    reached = Site()
    runner = await reached.start("127.0.0.2")
    try:
        names.put("flip.example", "A", "127.0.0.2", ttl=0)
        reached.redirect("/", f"http://flip.example:{neighbour.port}/")

        async def flip(_: web.BaseRequest) -> web.StreamResponse:
            names.put("flip.example", "A", "127.0.0.1", ttl=0)
            await server.clock.advance(3_600)
            headers = {"Location": f"http://flip.example:{neighbour.port}/"}
            return web.Response(status=302, headers=headers)

        reached.pages["/"] = flip
        assert (await asked(alice, f"http://flip.example:{reached.port}/")).status == 502
        assert reached.seen == ["/"]
        assert neighbour.seen == []
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://site.example/",
        "gopher://site.example/",
        "http://",
        "//site.example/",
        "http://user:password@site.example/",
        "http://site.example:25/",
        "http://site.example:99999/",
        "http://[::1/",
        "javascript:alert(1)",
        "http://site.example/" + "x" * 2_048,
        "",
    ],
)
def test_what_is_no_address_of_the_web_is_refused(url: str) -> None:
    assert address(url) is None


async def test_the_refusal_has_the_errcode(alice: Person) -> None:
    await alice.refused(
        "M_INVALID_PARAM", "GET", f"{V1}/preview_url", query={"url": "file:///etc/passwd"}
    )
    await alice.refused("M_MISSING_PARAM", "GET", f"{V1}/preview_url")
    reply = await alice.server.request("GET", f"{V1}/preview_url?url=http://site.example/")
    assert (reply.status, reply.errcode) == (401, "M_MISSING_TOKEN")


async def test_redirects_end(alice: Person, site: Site) -> None:
    site.redirect("/loop", "/loop")
    site.redirect("/file", "file:///etc/passwd")
    for path in ("/loop", "/file"):
        assert (await asked(alice, f"http://site.example:{site.port}{path}")).status == 502
    assert len(site.seen) < 10


async def test_of_an_endless_page_only_the_beginning_is_read(alice: Person, site: Site) -> None:
    sent = 0
    over = asyncio.Event()

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal sent
        answer = web.StreamResponse(headers={"Content-Type": "text/html"})
        await answer.prepare(request)
        await answer.write(b"<title>endless</title>")
        try:
            while sent < 1 << 30:
                await answer.write(b"<p>" * 20_000)
                sent += 60_000
        except ConnectionError:
            pass
        finally:
            over.set()
        return answer

    site.pages["/"] = endless
    assert (await shown(alice, site, "/"))["og:title"] == "endless"
    await over.wait()
    assert sent < 64 * PAGE_BYTES


async def test_a_picture_that_is_too_large_is_left_out(alice: Person, site: Site) -> None:
    site.html("/", '<title>T</title><meta property="og:image" content="/p">')
    site.html("/p", PNG + bytes(6 * 1_048_576), "image/png")
    said = await shown(alice, site, "/")
    assert (said["og:title"], said.get("og:image")) == ("T", None)


async def test_no_page_or_picture_makes_the_parser_fetch(
    alice: Person, site: Site, neighbour: Site, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret")
    there = f"http://127.0.0.1:{neighbour.port}/"
    for entity in (there, (tmp_path / "secret").as_uri()):
        page = (
            f'<?xml version="1.0"?><!DOCTYPE html [<!ENTITY x SYSTEM "{entity}">'
            f'<!ENTITY % y SYSTEM "{entity}"> %y;]><html xmlns="http://www.w3.org/1999/xhtml">'
            f'<head><title>T &x; T</title><link rel="stylesheet" href="{there}"/>'
            f'<script src="{there}"></script></head><body><img src="{there}"/>'
            f'<iframe src="{there}"/></body></html>'
        )
        path = f"/{len(entity)}"
        site.html(path, page, "application/xhtml+xml")
        assert "secret" not in json.dumps(await shown(alice, site, path))
        svg = f'<!DOCTYPE svg [<!ENTITY x SYSTEM "{entity}">]><svg xmlns="x"><text>&x;</text></svg>'
        site.html(f"{path}.svg", svg, "image/svg+xml")
        assert await shown(alice, site, f"{path}.svg") == {}
    assert neighbour.seen == []


async def test_what_harms_the_parser_harms_nothing_else(alice: Person, site: Site) -> None:
    site.html("/deep", "<title>deep</title>" + "<b>" * 300_000)
    site.html(
        "/zero", b"\0<\0t\0i\0t\0l\0e\0>" * 1_000 + b"<meta property content><meta content=x>"
    )
    for path in ("/deep", "/zero"):
        assert (await asked(alice, f"http://site.example:{site.port}{path}")).status in (200, 502)
    site.html("/", "<title>well</title>")
    assert (await shown(alice, site, "/"))["og:title"] == "well"


@pytest.mark.parametrize(
    ("content", "charset", "text"),
    [
        ("Grüße".encode(), "utf-8", "Grüße"),
        ("Grüße".encode("latin-1"), "iso-8859-1", "Grüße"),
        ("€".encode("cp1252"), "latin1", "€"),
        ("Привет".encode("koi8-r"), '"KOI8-R"', "Привет"),
        ("日本".encode("utf-16"), "utf-8", "日本"),
        ("Grüße".encode("utf-8-sig"), "latin-1", "Grüße"),
        ("Grüße".encode(), "no-such-thing", "Grüße"),
        ("Grüße".encode(), "zip", "Grüße"),
        ("Grüße".encode(), "unicode_escape", "Grüße"),
        ("Grüße".encode(), "a\0b", "Grüße"),
        (b"a\xffb", "", "a\ufffdb"),
        ("№①".encode("cp932"), "shift_jis", "№①"),
        ("№".encode("cp932"), "x-sjis", "№"),
        ("€镕".encode("gb18030"), "gb2312", "€镕"),
        ("뷁".encode("cp949"), "euc-kr", "뷁"),
        ("ş”".encode("cp1254"), "iso-8859-9", "ş”"),
        ("“é”".encode("cp1252"), "us-ascii", "“é”"),
    ],
)
def test_encodings_that_are_right_wrong_or_none(content: bytes, charset: str, text: str) -> None:
    assert decoded(content, charset) == text


def test_the_pages_own_word_counts_without_a_header() -> None:
    page = '<meta http-equiv="Content-Type" content="text/html; charset=Shift_JIS"><title>日本'
    assert decoded(page.encode("shift_jis"), "").endswith("日本")
    late = "<head>" + " " * 20_000 + '<meta charset="windows-1251"><title>Привет'
    assert decoded(late.encode("cp1251"), "").endswith("Привет")
    # Whoever could read this far does not read UTF-16.
    assert decoded('<meta charset="utf-16"><title>Grüße'.encode(), "").endswith("Grüße")


@pytest.mark.parametrize(
    "scripts",
    [
        [],
        ["", "{", "5", "null", '"x"', "[]", "[[[]]]", '[null, 5, {"@graph": 5}]', "[" * 100_000],
        ['{"@type": "Organization", "name": "x"}', '{"@graph": [{"@type": ["WebSite"]}]}'],
        ['{"@type": 5, "headline": {"a": 1}, "name": [], "image": {"url": 5}}'],
    ],
)
def test_linked_data_that_says_nothing_of_the_page(scripts: list[str]) -> None:
    assert linked_data.read(scripts) == linked_data.Thing()


def test_of_linked_data_the_headline_counts_most() -> None:
    scripts = [
        '{"@type": "Product", "name": "a product", "image": "/p"}',
        '[{"@type": "NewsArticle", "headline": "News", "image": [{"url": "/n"}, "/m"]}]',
    ]
    assert linked_data.read(scripts) == linked_data.Thing("News", "", "/n")
    assert linked_data.read(scripts[:1]) == linked_data.Thing("a product", "", "/p")


class TestDays:
    @pytest.fixture
    def settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        return {**settings, "media": {"remote_cache_days": 1}}

    async def test_what_nobody_asks_for_goes_in_the_end(
        self, server: Running, alice: Person, site: Site
    ) -> None:
        site.html("/a.png", PNG, "image/png")
        name = (await shown(alice, site, "/a.png"))["og:image"].removeprefix("mxc://")
        # What is used has its days anew.
        for _ in range(2):
            await server.clock.advance(15 * 3_600)
            assert (await download(alice, name)).status == 200
        await server.clock.advance(24 * 3_600 + 300)
        while files(server):  # noqa: ASYNC110  # by itself
            await asyncio.sleep(0.01)
        assert (await download(alice, name)).status == 404


class TestBudget:
    @pytest.fixture
    def settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        return {**settings, "media": {"remote_cache_bytes": 2 * len(PNG)}}

    async def test_pictures_of_previews_stay_within_it(
        self, server: Running, alice: Person, site: Site
    ) -> None:
        uris = []
        for number in range(3):
            site.html(f"/{number}.png", PNG[:-1] + str(number).encode(), "image/png")
            uris.append((await shown(alice, site, f"/{number}.png"))["og:image"])
            await server.clock.advance(1)
        statuses = [(await download(alice, uri.removeprefix("mxc://"))).status for uri in uris]
        assert statuses == [404, 200, 200]

    async def test_what_is_used_stays_before_what_is_newer(
        self, server: Running, alice: Person, site: Site
    ) -> None:
        names = []
        for number in range(3):
            site.html(f"/{number}.png", PNG[:-1] + str(number).encode(), "image/png")
        for number in range(2):
            said = await shown(alice, site, f"/{number}.png")
            names.append(said["og:image"].removeprefix("mxc://"))
        await server.clock.advance(3_600)
        assert (await download(alice, names[0])).status == 200
        await shown(alice, site, "/2.png")
        assert [(await download(alice, name)).status for name in names] == [200, 404]


class TestOff:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"media": {"url_previews": False}}

    async def test_who_wants_no_previews_has_none(self, alice: Person, site: Site) -> None:
        reply = await asked(alice, f"http://127.0.0.2:{site.port}/")
        assert (reply.status, reply.errcode) == (404, "M_UNRECOGNIZED")
        assert site.seen == []
