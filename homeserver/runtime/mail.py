"""Mail to users.

Owns the writing of mails from templates and handing them to the configured SMTP server. A mail has
a plain and an HTML form that say the same. Why one is sent, and when again, is not decided here.
"""

import asyncio
import importlib
from collections.abc import Mapping
from email.message import EmailMessage
from email.utils import formataddr, formatdate, make_msgid
from functools import cached_property
from typing import TYPE_CHECKING, Any

from homeserver.config import Mail
from homeserver.errors import MatrixError

if TYPE_CHECKING:
    import jinja2

SECONDS = 30.0
MAX_ADDRESS = 254


class MailFailed(MatrixError):
    """The SMTP server did not take a mail; the text is a sentence without secrets."""

    def __init__(self, reason: str) -> None:
        super().__init__("M_UNKNOWN", f"The mail could not be sent: {reason}", 502)


class Mailer:
    """Sends mail; `enabled` says whether there is an SMTP server to do it by."""

    def __init__(self, settings: Mail, server_name: str) -> None:
        self._settings = settings
        self._server_name = server_name

    @property
    def enabled(self) -> bool:
        """Whether mail can be sent at all."""
        return bool(self._settings.host)

    async def send(
        self,
        to: str,
        subject: str,
        template: str,
        values: Mapping[str, Any],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send the mail of `templates/{template}.txt` and `.html`, filled with `values`.

        `subject` is one line; `headers` are further ones, such as List-Unsubscribe. Raises
        `MailFailed`, a `MatrixError`.
        """
        # Both are big: they are read at the first mail, and beside the loop.
        aiosmtplib = await asyncio.to_thread(importlib.import_module, "aiosmtplib")
        templates = await asyncio.to_thread(getattr, self, "_templates")
        settings = self._settings
        message = EmailMessage()
        message["From"] = formataddr((self._server_name, settings.from_address))
        message["To"] = to
        message["Subject"] = " ".join(subject.split())
        message["Date"] = formatdate()
        message["Message-ID"] = make_msgid(domain=settings.from_address.rpartition("@")[2])
        message["Auto-Submitted"] = "auto-generated"
        for name, value in (headers or {}).items():
            message[name] = value
        shown = {"server_name": self._server_name, **values}
        message.set_content(templates.get_template(f"{template}.txt").render(shown))
        html = templates.get_template(f"{template}.html").render(shown)
        message.add_alternative(html, subtype="html")
        try:
            await aiosmtplib.send(
                message,
                hostname=settings.host,
                port=settings.port,
                username=settings.username or None,
                password=settings.password or None,
                use_tls=settings.security == "tls",
                start_tls=settings.security == "starttls",
                timeout=SECONDS,
            )
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise MailFailed(str(error).splitlines()[0] if str(error) else "no answer") from None

    @cached_property
    def _templates(self) -> "jinja2.Environment":
        import jinja2

        return jinja2.Environment(
            loader=jinja2.PackageLoader("homeserver", "templates"),
            autoescape=jinja2.select_autoescape(["html"]),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )


def is_mail_address(text: str) -> bool:
    """Whether this can be the address of a mail: one @, no white space or controls, ASCII host."""
    local, at, host = text.rpartition("@")
    return (
        bool(at and local and host)
        and len(text.encode(errors="surrogatepass")) <= MAX_ADDRESS
        and host.isascii()
        and not any(part.isspace() or not part.isprintable() for part in text)
        and not set('<>,;:\\"()[]@') & set(local)
        and "." not in (host[0], host[-1])
    )
