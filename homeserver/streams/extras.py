"""What a joined room's section holds beside its history: receipts, typing, account data, counts,
sticky events.

Owns their JSON. Finding the receipts and account data is done by `news.py`.
"""

from collections.abc import Collection

from homeserver.matrix import canonical
from homeserver.matrix.pushrules import push_rules_content
from homeserver.push.unread import MAIN, NONE, Counted, Unread, UnreadCounts, total
from homeserver.rooms.actor import Room
from homeserver.rooms.views import EventView
from homeserver.streams.asker import Asker
from homeserver.streams.memberships import Membership
from homeserver.streams.ring import AccountDataEntry, ReceiptEntry
from homeserver.users.account_data import PUSH_RULES
from homeserver.users.typing import Typing


class RoomExtras:
    """See the module."""

    def __init__(self, typing: Typing, unread: UnreadCounts) -> None:
        self._typing = typing
        self._unread = unread

    def ephemeral(
        self,
        asker: Asker,
        room: Room,
        receipts: Collection[ReceiptEntry],
        *,
        typing: bool,
        stayed: bool,
    ) -> bytes | None:
        """The `ephemeral` part; `typing` says whether typing is to be told.

        To a client that hasn't `stayed` it goes without saying that nobody types.
        """
        if not typing and not receipts:
            return None
        wanted = asker.filter.room.ephemeral
        if not wanted.admits_room(room.room_id):
            return None
        events: list[bytes] = []
        if (
            typing
            and wanted.matches("m.typing", room_id=room.room_id)
            and (stayed or self._typing.users(room.nid))
        ):
            events.append(self._typing.event(room.nid, asker.ignored))
        if receipts and wanted.matches("m.receipt", room_id=room.room_id):
            shown = [entry for entry in receipts if entry.user_id not in asker.ignored]
            events.extend(receipt_events(shown))
        return b'"ephemeral":{"events":[%b]}' % b",".join(events) if events else None

    def sticky(self, asker: Asker, views: Collection[EventView]) -> bytes | None:
        """The part with sticky events; no filter keeps them back (MSC4354)."""
        events = [
            view.render(asker.now, device_nid=asker.device_nid)
            for view in views
            if view.sender not in asker.ignored
        ]
        return b'"msc4354_sticky":{"events":[%b]}' % b",".join(events) if events else None

    def account_data(
        self, asker: Asker, room: Room, entries: Collection[AccountDataEntry]
    ) -> bytes | None:
        """The `account_data` part."""
        if not entries:
            return None
        wanted = asker.filter.room.account_data
        events = [
            account_data_event(entry.type, entry.content)
            for entry in entries
            if wanted.matches(entry.type, room_id=room.room_id)
        ]
        return b'"account_data":{"events":[%b]}' % b",".join(events) if events else None

    def own_account_data(
        self, asker: Asker, entries: Collection[AccountDataEntry], *, afresh: bool
    ) -> list[bytes]:
        """The events of the account's own `account_data` section.

        Push rules are shown whole; a client told `afresh` gets them also when they are the default.
        """
        if not entries and not afresh:
            return []
        contents = {entry.type: entry.content for entry in entries}
        if afresh or PUSH_RULES in contents:
            contents[PUSH_RULES] = push_rules_content(asker.user_id, contents.get(PUSH_RULES))
        wanted = asker.filter.account_data
        return [
            account_data_event(type_, content)
            for type_, content in contents.items()
            if wanted.matches(type_)
        ]

    async def unread(self, asker: Asker, room: Room, member: Membership, until: int) -> bytes:
        """The `unread_notifications` part; by thread where the client wants that."""
        reader = Counted(asker.user_nid, asker.user_id, asker.ignored)
        counts = await self._unread.count(reader, room, member.pos, until, recount=asker.stored)
        if not asker.filter.room.timeline.unread_thread_notifications:
            return b'"unread_notifications":' + _count(total(counts))
        threads = b",".join(
            canonical.encode(thread) + b":" + _count(count)
            for thread, count in counts.items()
            if thread != MAIN
        )
        main = _count(counts.get(MAIN, NONE))
        part = b'"unread_notifications":' + main
        return part + b',"unread_thread_notifications":{%b}' % threads if threads else part


def _count(unread: Unread) -> bytes:
    return b'{"highlight_count":%d,"notification_count":%d}' % (
        unread.highlights,
        unread.notifications,
    )


def account_data_event(type_: str, content: bytes) -> bytes:
    """An account data event of a sync answer."""
    return b'{"content":%b,"type":%b}' % (content, canonical.encode(type_))


def receipt_events(receipts: Collection[ReceiptEntry]) -> list[bytes]:
    """`m.receipt` events: one, or more where a user has read one event in several threads.

    spec: client-server-api#mreceipt
    """
    contents: list[dict[str, dict[str, dict[str, dict[str, object]]]]] = []
    for entry in receipts:
        kind = "m.read.private" if entry.private else "m.read"
        data: dict[str, object] = {"ts": entry.ts}
        if entry.thread:
            data["thread_id"] = entry.thread
        for content in contents:
            users = content.setdefault(entry.event_id, {}).setdefault(kind, {})
            if entry.user_id not in users:
                users[entry.user_id] = data
                break
        else:
            contents.append({entry.event_id: {kind: {entry.user_id: data}}})
    return [canonical.encode({"type": "m.receipt", "content": content}) for content in contents]
