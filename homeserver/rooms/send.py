"""Making an event of ours and putting it at the head of its room.

Owns the way from a draft to a signed, authorised event. Everything here is synchronous and works
on a loaded head; what is missing is asked for by the exceptions of `head` and `numbers`, raised
before anything has changed. It does not wait for the commit (`actor.py`).
spec: server-server-api#authorisation-rules
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.auth import auth_keys, authorise
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Malformed, TooLarge
from homeserver.matrix.event import Event, build
from homeserver.matrix.policy import Policy, is_own_leave
from homeserver.matrix.sign import SigningKey
from homeserver.matrix.sticky import members_of
from homeserver.media.encrypted import EncryptedFiles
from homeserver.rooms.append import Appended, Place, Txn, append, redact, summary_text
from homeserver.rooms.head import Head
from homeserver.rooms.policy import Unrecommended, policy_of
from homeserver.rooms.shown import shown_no_more, stored_json
from homeserver.runtime.clock import Clock
from homeserver.streams.numbers import Numbers
from storage.changes import Change

MAX_PREV = 10
"""More previous events than this never go into one event; the newest are taken."""
MAX_DEPTH = 2**53 - 1
"""The greatest depth that an event can say; others' depths are not trusted with anything."""


@dataclass(frozen=True, slots=True)
class Author:
    """Who we are when we make events: the server's name, its key, the clock, the numbers.

    `encrypted` says which files an event may show that can't be read.
    """

    server_name: str
    key: SigningKey
    clock: Clock
    numbers: Numbers
    encrypted: EncryptedFiles


@dataclass(frozen=True, slots=True)
class Draft:
    """An event to be made. `ts` is for application services; others send now.

    `sticky_ms`: it is to be a sticky event for so long.
    """

    sender: str
    type: str
    content: JsonObject
    state_key: str | None = None
    redacts: str | None = None
    txn: Txn | None = None
    ts: int | None = None
    sticky_ms: int | None = None


class Sending:
    """The events that one verb puts into one room, in one commit.

    `ahead` is how many positions of the commit lie before the first event: changes of state that no
    event of ours made stand there. `published` is called with the first position after the commit.
    `asked` are those of its events, in their order, about which the room's policy server was asked
    when the verb ran before: where they still are what is to be sent, they are.
    """

    def __init__(self, head: Head, author: Author, asked: Sequence[Event] = ()) -> None:
        self.head = head
        self.events: list[Appended] = []
        self.changes: list[Change] = []
        self.ahead = 0
        self.published: Callable[[int], None] | None = None
        self.done = False
        self._author = author
        self._asked = asked
        self._number = 0

    def add(self, draft: Draft, redacted: tuple[int, Event] | None = None) -> Event:
        """Make the event and append it.

        `redacted` is the (number, event) that a redaction takes effect on. Raises `Rejected` when
        the room's rules forbid it, `MatrixError` M_TOO_LARGE or M_BAD_JSON when it can't be an
        event, M_UNKNOWN (502) when it can't be brought to another server's user, `Unrecommended`
        when the room's policy server must be asked first, and the exceptions of missing things; in
        each case this event has changed nothing.
        """
        made, pdu, auth_nids = self._make(draft)
        self._check_reachable(made)
        policy = self.policy()
        if policy is not None and not policy.recommends(made):
            made = self._recommended(policy, made)
            pdu = canonical.encode(made.pdu)
        author = self._author
        appended, changes = append(
            self.head,
            author.numbers,
            made,
            pdu,
            index=self.ahead + len(self.events),
            auth_nids=auth_nids,
            local_server=author.server_name,
            txn=draft.txn,
            redacted=redacted,
            now=author.clock.now_ms(),
        )
        self.events.append(appended)
        self.changes.extend(changes)
        sender_nid = self.head.names.nid(draft.sender)
        self.changes.extend(author.encrypted.shown_by(sender_nid, appended.nid, made, pdu))
        return made

    def make(self, draft: Draft) -> tuple[Event, bytes]:
        """Make the event without appending it, and its canonical JSON; raises as `add` does."""
        event, pdu, _ = self._make(draft)
        return event, pdu

    def policy(self) -> Policy | None:
        """The policy server that the room uses; raises as `policy_of` does."""
        return policy_of(self.head, self._author.server_name)

    def _recommended(self, policy: Policy, made: Event) -> Event:
        """The same event as the policy server has signed it; a leave goes without, once asked."""
        number = self._number
        if number < len(self._asked):
            asked = self._asked[number]
            same = _same(asked, made)
            leaves = is_own_leave(asked) and is_own_leave(made)
            if (same and policy.recommends(asked)) or leaves:
                self._number += 1
                return asked if same else made
        raise Unrecommended(policy, made, number)

    def _make(self, draft: Draft) -> tuple[Event, bytes, list[int]]:
        head, author = self.head, self._author
        now = author.clock.now_ms()
        auth: list[tuple[int, Event]] = []
        for type_, key in auth_keys(
            head.rules, draft.type, draft.sender, draft.state_key, draft.content
        ):
            nid = head.event_nid(type_, key)
            if nid is not None:
                auth.append((nid, head.loaded(nid)))
        try:
            event, pdu = build(
                head.rules,
                room_id=head.room_id,
                sender=draft.sender,
                type=draft.type,
                content=draft.content,
                state_key=draft.state_key,
                prev_event_ids=[event_id for _, event_id in head.extremities[-MAX_PREV:]],
                auth_event_ids=[event.event_id for _, event in auth],
                depth=min(head.depth + 1, MAX_DEPTH),
                origin_server_ts=now if draft.ts is None else draft.ts,
                redacts=draft.redacts,
                sticky=None if draft.sticky_ms is None else members_of(draft.sticky_ms),
                event_id_domain=author.server_name,
                sign=author.key,
                server_name=author.server_name,
            )
        except TooLarge as error:
            raise MatrixError.too_large(str(error)) from error
        except Malformed as error:
            raise MatrixError.bad_json(str(error)) from error
        if "\0" in (summary_text(event) or ""):
            raise MatrixError.bad_json(f"A text of {event.type} holds the character U+0000")
        authorise(event, head.event)
        return event, pdu, [nid for nid, _ in auth]

    def place(
        self,
        event: Event,
        pdu: bytes,
        auth_nids: Sequence[int],
        place: Place,
        redacted: tuple[int, Event] | None,
    ) -> None:
        """Append an event from elsewhere that was found to be allowed."""
        appended, changes = append(
            self.head,
            self._author.numbers,
            event,
            pdu,
            index=self.ahead + len(self.events),
            auth_nids=auth_nids,
            local_server=self._author.server_name,
            redacted=redacted,
            place=place,
            now=self._author.clock.now_ms(),
        )
        self.events.append(appended)
        self.changes.extend(changes)

    def redact(self, nid: int, event: Event, by: tuple[int, Event]) -> None:
        """Redact event `nid` by the stored event `by` (number, event), which is no redaction of it
        alone. Raises `NamesMissing` before anything has changed.
        """
        author = self._author
        self.changes += redact(
            self.head,
            nid,
            event,
            by,
            local_server=author.server_name,
            now=author.clock.now_ms(),
        )

    @property
    def now(self) -> int:
        """The time in ms."""
        return self._author.clock.now_ms()

    def stored_json(self, nid: int, pdu: bytes, *, redacted: bool) -> list[Change]:
        """The rows of an event's canonical JSON, for one that gets no place behind the others."""
        return stored_json(nid, pdu, self._author.server_name, redacted=redacted)

    def shown_no_more(self, nid: int, event: Event) -> list[Change]:
        """The changes for a stored event of which it comes out that it is redacted."""
        author = self._author
        sender_nid = self.head.names.nid(event.sender)
        return shown_no_more(nid, event, sender_nid, author.server_name, author.clock.now_ms())

    def _check_reachable(self, event: Event) -> None:
        """An invite only means something when the invited user hears of it."""
        if event.type == "m.room.member" and event.content.get("membership") == "invite":
            target = event.state_key or ""
            if not target.endswith(":" + self._author.server_name):
                raise MatrixError(
                    "M_UNKNOWN", f"The server of {target} can't be reached: no federation", 502
                )


def unchanged(head: Head, draft: Draft) -> Event | None:
    """The current event that already says what a state draft would say, from the same sender.

    None for a sender who may not say it any more: let the rules refuse that.
    spec: client-server-api#put_matrixclientv3roomsroomidstateeventtypestatekey
    """
    if draft.state_key is None:
        return None
    current = head.event(draft.type, draft.state_key)
    if current is None or current.sender != draft.sender or current.content != draft.content:
        return None
    if head.membership(draft.sender) != "join":
        return None
    levels = head.power_levels()
    if levels.user_level(draft.sender) < levels.event_level(draft.type, True):
        return None
    return current


def _same(one: Event, other: Event) -> bool:
    """Whether two events differ in nothing but the time at which they were made."""
    return _timeless(one) == _timeless(other)


def _timeless(event: Event) -> JsonObject:
    own = ("origin_server_ts", "hashes", "signatures", "event_id")
    return {key: value for key, value in event.pdu.items() if key not in own}


def random_id() -> str:
    """An opaque part of a room id, 18 letters."""
    return "".join(secrets.choice(_LETTERS) for _ in range(18))


_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
