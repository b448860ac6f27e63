"""The form of the few pages that are shown in a browser: plain HTML, nothing from elsewhere."""

import base64
import hashlib

from homeserver.http.shape import Html

_STYLE = (
    "body{font:1.1em sans-serif;max-width:30em;margin:3em auto;padding:0 1em}"
    "input,button{font:inherit;padding:.4em .8em;margin:.4em 0}"
)


def page(
    title: str, inside: str, script: str = "", *, status: int = 200, connects: bool = False
) -> Html:
    """A page of this title around `inside` (HTML), with the one `script` allowed by its hash.

    `connects`: the script may send requests to this server.
    """
    policy = Html.POLICY
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
        inside += f"<script>{script}</script>"
    if connects:
        policy += "; connect-src 'self'"
    return Html(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        "<meta name=viewport content='width=device-width'>"
        f"<style>{_STYLE}</style><h1>{title}</h1>{inside}</html>",
        status,
        policy,
    )
