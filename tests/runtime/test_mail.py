"""Mail goes out by a real SMTP server, in two forms."""

import pytest

from homeserver.config import Mail
from homeserver.runtime.mail import Mailer, MailFailed, is_mail_address
from tests.postbox import Postbox, postbox, text_of

__all__ = ["postbox"]

VALUES = {"purpose": "add", "link": "https://a.example/?x=1&y=<b>", "hours": 24}


def mailer(port: int) -> Mailer:
    settings = Mail(host="127.0.0.1", port=port, security="none", from_address="no@a.example")
    return Mailer(settings, "a.example")


async def test_a_mail_has_two_forms_and_escapes_in_one(postbox: Postbox) -> None:
    await mailer(postbox.port).send("bob@b.example", "Your\r\naddress", "validate", VALUES)
    (mail,) = postbox.mails
    assert (mail["To"], mail["Subject"]) == ("bob@b.example", "Your address")
    assert mail["From"].addresses[0].addr_spec == "no@a.example"
    assert "https://a.example/?x=1&y=<b>" in text_of(mail)
    assert "y=&lt;b&gt;" in text_of(mail, "html")


async def test_what_the_server_refuses_is_an_error_with_its_reason(postbox: Postbox) -> None:
    postbox.refuse = "550 nobody of that name"
    with pytest.raises(MailFailed, match="nobody of that name"):
        await mailer(postbox.port).send("bob@b.example", "Hello", "validate", VALUES)
    with pytest.raises(MailFailed):
        await mailer(1).send("bob@b.example", "Hello", "validate", VALUES)
    assert not Mailer(Mail(), "a.example").enabled


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("bob@b.example", True),
        ("bob+tag@b.example", True),
        ("zoë@b.example", True),
        ("bob", False),
        ("bob@", False),
        ("@b.example", False),
        ("bob@b.example\nBcc: all@c.example", False),
        ("bob bob@b.example", False),
        ("a@b@c.example", False),
        ("<bob>@b.example", False),
        ("bob@.example", False),
        ("x" * 250 + "@b.example", False),
    ],
)
def test_addresses(text: str, right: bool) -> None:
    assert is_mail_address(text) == right
