"""Sites that tell of their pages by oEmbed, and what is used of such an answer.

Owns the list: few, much linked to, and of those that say more by oEmbed than their pages say to
who does not log in. Other sites are asked where their pages name an address for it. https://oembed.com
"""

import re
from urllib.parse import quote

import msgspec

PROVIDERS = tuple(
    (re.compile(rf"https://(?:{pages})", re.IGNORECASE), endpoint)
    for pages, endpoint in (
        (
            r"(?:www\.|m\.|music\.)?youtube\.com/(?:watch\?|shorts/|live/|playlist\?)|youtu\.be/.",
            "https://www.youtube.com/oembed?format=json&url=",
        ),
        (r"(?:www\.|player\.)?vimeo\.com/.", "https://vimeo.com/api/oembed.json?url="),
        (
            r"(?:www\.|mobile\.)?(?:twitter|x)\.com/[^/]+/status/",
            "https://publish.twitter.com/oembed?omit_script=1&url=",
        ),
        (
            r"bsky\.app/profile/[^/]+/post/",
            "https://embed.bsky.app/oembed?format=json&url=",
        ),
        (
            r"(?:www\.|old\.)?reddit\.com/r/[^/]+/(?:comments|s)/",
            "https://www.reddit.com/oembed?url=",
        ),
        (
            r"(?:www\.|vm\.)?tiktok\.com/(?:@[^/]+/(?:video|photo)/|[A-Za-z0-9]{6,})",
            "https://www.tiktok.com/oembed?url=",
        ),
        (
            r"open\.spotify\.com/(?:[a-z-]+/)?(?:track|album|artist|playlist|episode|show)/",
            "https://open.spotify.com/oembed?url=",
        ),
        (
            r"(?:www\.|m\.)?soundcloud\.com/[^/]+/.",
            "https://soundcloud.com/oembed?format=json&url=",
        ),
        (
            r"(?:www\.)?flickr\.com/photos/|flic\.kr/p/",
            "https://www.flickr.com/services/oembed/?format=json&url=",
        ),
        (
            r"(?:www\.)?dailymotion\.com/video/|dai\.ly/.",
            "https://www.dailymotion.com/services/oembed?format=json&url=",
        ),
    )
)


class OEmbed(msgspec.Struct):
    """What is used of an answer."""

    type: str = ""
    title: str = ""
    author_name: str = ""
    provider_name: str = ""
    url: str = ""
    thumbnail_url: str = ""
    html: str = ""


def request_for(url: str) -> str | None:
    """Where the site of a page tells of it by oEmbed, if it is one of the list."""
    for pages, endpoint in PROVIDERS:
        if pages.match(url):
            return endpoint + quote(url, safe="")
    return None
