"""One-time and fallback keys: uploaded by devices, given out once.

Owns the pools. Invariants: a key is given to one claim only, and an id that was given out is never
given out again while its device lives and has the same identity; a claim is one statement of the
database, so this holds for any number of claims at once; the counts that /sync tells are those of
the last commit.
spec: client-server-api#one-time-and-fallback-keys
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.devicekeys import NamedKey, is_signed, named_keys
from homeserver.streams.commit import CommitQueue
from homeserver.streams.numbers import Numbers
from homeserver.users.device_lists import Told
from storage import device_keys as store
from storage.changes import Change, Insert, Put
from storage.engine import Database
from storage.schema import FallbackKeyRow, OneTimeKeyRow

MAX_KEYS = 1_000
"""Unclaimed keys of one algorithm that a device may have."""
_MAX_CACHED = 50_000
_VERIFIED_INLINE = 60
"""More signatures are verified in a thread: each takes 50 µs, and others wait for the loop."""
# A fallback key may be replaced just when it was claimed: then the new one is.
_MOST_ROUNDS = 3


Watcher = Callable[[Collection[int] | None], None]


class Pool(NamedTuple):
    """What a device has: unclaimed keys by algorithm, algorithms with an unused fallback key.

    `json` are the members of a sync answer that say so.
    """

    counts: Mapping[str, int]
    unused_fallbacks: Collection[str]
    json: bytes


def _pool(counts: Mapping[str, int], unused_fallbacks: Collection[str]) -> Pool:
    """A pool with its JSON, in which the count of the usual algorithm is always told."""
    json = b'"device_one_time_keys_count":%b,"device_unused_fallback_key_types":%b' % (
        canonical.encode({"signed_curve25519": 0, **counts}),
        canonical.encode(sorted(unused_fallbacks)),
    )
    return Pool(counts, unused_fallbacks, _EMPTY if json == _EMPTY else json)


_EMPTY = (
    b'"device_one_time_keys_count":{"signed_curve25519":0},"device_unused_fallback_key_types":[]'
)


class OneTimeKeys:
    """See the module."""

    def __init__(self, database: Database, commits: CommitQueue, numbers: Numbers) -> None:
        self._database = database
        self._commits = commits
        self._numbers = numbers
        self._pools: OrderedDict[int, Pool] = OrderedDict()
        self._watchers: list[Watcher] = []
        self._changes = 0

    async def pool(self, device_nid: int, *, stored: bool = False) -> Pool:
        """What a device has; `stored` reads the tables whatever is in memory."""
        known = None if stored else self._pools.get(device_nid)
        if known is None:
            changes = self._changes
            known = (await self.pools([device_nid]))[device_nid]
            # A change that was committed meanwhile may be newer than what was read.
            if changes == self._changes:
                self._pools[device_nid] = known
                if len(self._pools) > _MAX_CACHED:
                    self._pools.popitem(last=False)
        return known

    async def pools(self, device_nids: Collection[int]) -> dict[int, Pool]:
        """What each of the devices has, as the tables say."""
        counts = await store.one_time_counts(self._database, device_nids)
        fallbacks = await store.fallback_keys(self._database, device_nids)
        return {
            nid: _pool(
                counts.get(nid, {}),
                [name for name, row in fallbacks.get(nid, {}).items() if not row.used],
            )
            for nid in device_nids
        }

    def on_change(self, watcher: Watcher) -> None:
        """Call `watcher(device numbers)` when their pools have changed; None: those of all."""
        self._watchers.append(watcher)

    def forget(self, device_nids: Collection[int]) -> None:
        """The pools of these devices have changed."""
        self._changes += 1
        for device_nid in device_nids:
            self._pools.pop(device_nid, None)
        for watcher in self._watchers:
            watcher(device_nids)

    async def doubted(self, device_nid: int) -> None:
        """A device knows more than the database: what it has may be given out already.

        Its keys are dropped, so that it uploads others.
        """
        pool = await self.pool(device_nid, stored=True)
        if any(pool.counts.values()) or pool.unused_fallbacks:
            await self._commits.commit(
                store.pool_emptied(device_nid), 0, lambda _: self.forget([device_nid])
            )

    def clear(self) -> None:
        """All pools may have changed."""
        self._changes += 1
        self._pools.clear()
        for watcher in self._watchers:
            watcher(None)

    async def added(
        self,
        device_nid: int,
        user_id: str,
        signer: tuple[str, bytes] | None,
        one_time: JsonObject,
        fallback: JsonObject,
        *,
        anew: bool = False,
    ) -> Told:
        """What adds keys to a device, to be committed in the user's turn.

        `signer` is the key with which the device signs. Keys that are there already are passed
        over; `anew` drops all that there are, and what is known of their ids. Raises `Malformed`,
        and `MatrixError`: M_INVALID_SIGNATURE, M_INVALID_PARAM for an id that stands for another
        key, M_TOO_LARGE when there are too many.
        """
        if max(len(one_time), len(fallback)) > MAX_KEYS:
            raise MatrixError.too_large(f"At most {MAX_KEYS} keys are taken at once")
        new, spare = named_keys(one_time), named_keys(fallback)
        if len({key.algorithm for key in spare}) < len(spare):
            raise MatrixError.invalid_param("fallback_keys: more than one key of an algorithm")
        await _check_signatures([*new, *spare], user_id, signer)
        before = await self.pool(device_nid)
        counts = {} if anew else dict(before.counts)
        unused = set() if anew else set(before.unused_fallbacks)
        changes: list[Change] = store.pools_gone([device_nid]) if anew else []
        for algorithm in sorted({key.algorithm for key in new}):
            keys = [key for key in new if key.algorithm == algorithm]
            known: Mapping[str, bytes] = {}
            if not anew:
                ids = [key.key_id for key in keys]
                known = await store.one_time_digests(self._database, device_nid, algorithm, ids)
            inserted = await self._inserted(device_nid, keys, known)
            if inserted:
                changes += inserted
                counts[algorithm] = counts.get(algorithm, 0) + len(inserted)
        if max(counts.values(), default=0) > MAX_KEYS:
            raise MatrixError.too_large(
                f"A device has at most {MAX_KEYS} unclaimed keys of an algorithm"
            )
        if spare:
            kept: Mapping[str, FallbackKeyRow] = {}
            if not anew:
                rows = await store.fallback_keys(self._database, [device_nid])
                kept = rows.get(device_nid, {})
            for key in spare:
                row = FallbackKeyRow(device_nid, key.algorithm, key.key_id, key.json, 0)
                old = kept.get(key.algorithm)
                if old is None or old._replace(used=0) != row:
                    changes.append(Put(row))
                    unused.add(key.algorithm)

        def publish(_: int) -> None:
            # If it is another one now, it was read meanwhile, before or after this commit.
            unread = self._pools.get(device_nid) is before
            self.forget([device_nid])
            if unread:
                self._pools[device_nid] = _pool(counts, unused)

        return Told(changes, 0, publish)

    async def claim(self, wanted: Mapping[int, str]) -> dict[int, tuple[str, bytes]]:
        """Claim a key of the given algorithm for each device.

        By device the key's name and JSON; devices without any are absent.
        """
        by_algorithm: dict[str, list[int]] = {}
        for device_nid, algorithm in wanted.items():
            by_algorithm.setdefault(algorithm, []).append(device_nid)
        found: dict[int, tuple[str, bytes]] = {}
        for algorithm, device_nids in by_algorithm.items():
            await self._claim(algorithm, device_nids, found)
        return found

    async def _claim(
        self, algorithm: str, wanted: Collection[int], found: dict[int, tuple[str, bytes]]
    ) -> None:
        for _ in range(_MOST_ROUNDS):
            claim_nid = await self._numbers.take_soon("claim")
            devices = list(wanted)

            def publish(_: int, nids: list[int] = devices) -> None:
                self.forget(nids)

            await self._commits.commit(store.claimed(claim_nid, devices, algorithm), 0, publish)
            for device_nid, _, key_id, json in await store.taken(self._database, claim_nid):
                found[device_nid] = (f"{algorithm}:{key_id}", json)
            with suppress(MatrixError):  # the queue is full: their JSON stays for now
                self._commits.submit([store.delivered(claim_nid)])
            missing = [nid for nid in devices if nid not in found]
            fallbacks = await store.fallback_keys(self._database, missing) if missing else {}
            wanted = []
            for device_nid, by_algorithm in fallbacks.items():
                row = by_algorithm.get(algorithm)
                if row is not None and row.used:
                    found[device_nid] = (f"{algorithm}:{row.key_id}", row.json)
                elif row is not None:
                    wanted.append(device_nid)
            if not wanted:
                return

    async def _inserted(
        self, device_nid: int, keys: Collection[NamedKey], known: Mapping[str, bytes]
    ) -> list[Change]:
        """What adds those of the keys whose ids are not `known`, by their digests."""
        new = []
        for key in keys:
            digest = hashlib.blake2b(key.json, digest_size=16).digest()
            if key.key_id not in known:
                new.append((key, digest))
            elif known[key.key_id] != digest:
                raise MatrixError.invalid_param(
                    f"One-time key {key.name} exists already with another content;"
                    " an id can't be used again"
                )
        nids = await self._numbers.take_many("one_time_key", len(new))
        return [
            Insert(
                OneTimeKeyRow(nid, device_nid, key.algorithm, key.key_id, digest, key.json, None)
            )
            for nid, (key, digest) in zip(nids, new, strict=True)
        ]


async def _check_signatures(
    keys: Sequence[NamedKey], user_id: str, signer: tuple[str, bytes] | None
) -> None:
    """Raise `MatrixError` unless the keys are signed by their device (decision 18)."""
    signed = [key for key in keys if key.needs_signature]
    if not signed:
        return
    if signer is None:
        raise MatrixError.invalid_param("The device has no keys yet to sign others with")
    trusted = dict([signer])

    def unsigned() -> str | None:
        for key in signed:
            if not isinstance(key.value, dict) or not is_signed(key.value, user_id, trusted):
                return key.name
        return None

    bad = await asyncio.to_thread(unsigned) if len(signed) > _VERIFIED_INLINE else unsigned()
    if bad is not None:
        raise MatrixError(
            "M_INVALID_SIGNATURE", f"{bad} is not signed by the device's key {signer[0]}"
        )
