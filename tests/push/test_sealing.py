"""Encryption and signatures of Web Push are those of the RFCs."""

import os
from pathlib import Path

import http_ece
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.options import ConfigError
from homeserver.push import sealing
from homeserver.push.gateway import GatewayFailed
from homeserver.push.vapid import USED_SECONDS, Vapid, VapidKey, read, vapid_key
from homeserver.runtime.clock import FakeClock
from tests.push.push_service import claims, decoded, encoded

MESSAGE = b"When I grow up, I want to be a watermelon"
SECRET = "BTBZMqHH6r4Tts7J_aSIgg"
SALT = "DGv6ra1nlYgDCS1FRnbzlw"
SENDER = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"
SENDER_POINT = (
    "BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8"
)
RECEIVER = "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"
RECEIVER_POINT = (
    "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
)
SEALED = (
    "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS"
    "6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qu"
    "lcy4a-fN"
)
TOKEN = (
    "eyJ0eXAiOiJKV1QiLCJhbGciOiJFUzI1NiJ9.eyJhdWQiOiJodHRwczovL3B1c2guZXhhbXBsZS5uZXQiLCJleHAiOjE0"
    "NTM1MjM3NjgsInN1YiI6Im1haWx0bzpwdXNoQGV4YW1wbGUuY29tIn0.i3CYb7t4xfxCDquptFOepC9GAu_HLGkMlMuCG"
    "SK2rpiUfnK9ojFwDXb1JrErtmysazNjjvW2L9OkSSHzvoD1oA"
)
TOKEN_KEY = (
    "BA1Hxzyi1RUM1b5wjxsn7nGxAszw2u61m164i3MrAIxHF6YK5h4SDYic-dRuU_RCPCfA5aq9ojSwk5Y2EmClBPs"
)


def test_the_example_of_rfc_8291() -> None:
    """Appendix A, byte for byte."""
    own = sealing.private_key(decoded(SENDER))
    assert encoded(sealing.point_of(own)) == SENDER_POINT
    receiver = sealing.public_key(decoded(RECEIVER_POINT))
    sealed = sealing.sealed_with(own, decoded(SALT), MESSAGE, receiver, decoded(SECRET))
    assert encoded(sealed) == SEALED


@settings(max_examples=30, deadline=None)
@given(st.integers(0, sealing.MOST_BYTES))
def test_whatever_is_sealed_is_read_by_another_program(length: int) -> None:
    message, secret = os.urandom(length), os.urandom(16)
    key = ec.generate_private_key(ec.SECP256R1())
    sealed = sealing.sealed(message, key.public_key(), secret)
    assert len(sealed) <= sealing.RECORD_BYTES
    assert http_ece.decrypt(sealed, private_key=key, auth_secret=secret) == message
    assert sealing.sealed(message, key.public_key(), secret)[:86] != sealed[:86]


def test_the_longest_message_fills_a_record_and_a_longer_one_is_none() -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    sealed = sealing.sealed(b"x" * sealing.MOST_BYTES, key, bytes(16))
    assert len(sealed) == sealing.RECORD_BYTES == 4_096
    with pytest.raises(ValueError, match="bytes"):
        sealing.sealed(b"x" * (sealing.MOST_BYTES + 1), key, bytes(16))


@pytest.mark.parametrize(
    "point",
    [
        b"",
        b"\x04" + bytes(64),
        decoded(RECEIVER_POINT)[:-1],
        b"\x05" + decoded(RECEIVER_POINT)[1:],
        b"\x02" + decoded(RECEIVER_POINT)[1:33],
        decoded(RECEIVER_POINT)[:-1] + b"\x00",
    ],
)
def test_what_is_no_point_of_the_curve_is_no_key(point: bytes) -> None:
    with pytest.raises(ValueError):
        sealing.public_key(point)


def test_the_example_of_rfc_8292_is_what_the_tests_take_for_signed() -> None:
    said, key = claims(f"vapid t={TOKEN}, k={TOKEN_KEY}")
    assert said["aud"] == "https://push.example.net"
    assert key == TOKEN_KEY
    with pytest.raises(ValueError, match="wrong signature"):
        claims(f"vapid t={TOKEN[:-1]}Q, k={TOKEN_KEY}")


class TestVapid:
    def vapid(self, clock: FakeClock, contact: str = "mailto:me@m.example") -> Vapid:
        return Vapid(VapidKey(SENDER_POINT, SENDER), contact, clock)

    def test_a_token_is_for_one_push_service(self) -> None:
        clock = FakeClock()
        vapid = self.vapid(clock)
        said, _ = claims(vapid.authorization("https://push.example.net:443/p"))
        assert said["aud"] == "https://push.example.net"
        said, key = claims(vapid.authorization("https://Push.example.net:8443/p/x?y#z"))
        now = clock.now_ms() // 1_000
        assert said == {
            "aud": "https://push.example.net:8443",
            "exp": now + 12 * 3_600,
            "sub": "mailto:me@m.example",
        }
        assert key == SENDER_POINT == vapid.public_key

    async def test_it_is_used_for_some_hours(self) -> None:
        clock = FakeClock()
        vapid = self.vapid(clock)
        first = vapid.authorization("https://push.example.net/p/1")
        assert vapid.authorization("https://push.example.net/p/2") == first
        assert vapid.authorization("https://push.example.org/p/2") != first
        await clock.advance(USED_SECONDS + 1)
        second = vapid.authorization("https://push.example.net/p/1")
        assert claims(second)[0]["exp"] > claims(first)[0]["exp"]

    def test_without_a_contact_there_is_none(self) -> None:
        said, _ = claims(self.vapid(FakeClock(), "").authorization("https://push.example/p"))
        assert "sub" not in said

    def test_many_services_take_no_more_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("homeserver.push.vapid._SERVICES", 2)
        vapid = self.vapid(FakeClock())
        first = vapid.authorization("https://1.example/")
        for number in range(2, 4):
            vapid.authorization(f"https://{number}.example/")
        assert vapid.authorization("https://1.example/") != first

    def test_a_file_whose_halves_are_of_two_keys_signs_nothing(self) -> None:
        vapid = Vapid(VapidKey(RECEIVER_POINT, SENDER), "", FakeClock())
        with pytest.raises(GatewayFailed, match="not that of its private one"):
            vapid.authorization("https://push.example/p")


class TestKeyFile:
    def test_it_is_made_once_and_for_nobody_else_to_read(self, tmp_path: Path) -> None:
        file = tmp_path / "vapid.key"
        made = vapid_key(file)
        assert file.stat().st_mode & 0o777 == 0o600
        assert vapid_key(file) == read(file) == made
        own = sealing.private_key(decoded(made.private))
        assert encoded(sealing.point_of(own)) == made.public
        assert vapid_key(tmp_path / "another") != made

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "p256",
            f"p256 {SENDER_POINT}",
            f"p256 {SENDER} {SENDER_POINT}",
            f"rsa {SENDER_POINT} {SENDER}",
            f"p256 {SENDER_POINT} {SENDER} x",
            "p256 & &",
            "é",
        ],
    )
    def test_a_damaged_one_is_named_and_left_alone(self, tmp_path: Path, text: str) -> None:
        file = tmp_path / "vapid.key"
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"vapid\.key"):
            vapid_key(file)
        assert file.read_text() == text
