"""What encrypted rooms ask of a server: keys uploaded, queried and claimed, messages to devices.

Keys are real (signed by the device's own key), as servers may check them; what is encrypted is not.
"""

import asyncio
from functools import partial

from nacl.signing import SigningKey

from bench.client import V3, Client, Json
from bench.meter import Measurement, in_parallel, timed
from bench.scenarios import Bench, Scenario, require
from homeserver.matrix.canonical import JsonObject, encode, encode_unpadded

_ALGORITHM = "signed_curve25519"
_TO_DEVICE = "m.room.encrypted"
_DEVICES_A_REQUEST = 20
_OLM_BYTES = 1_400


class _Device:
    """The keys of a client's device."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._key = SigningKey.generate()
        self._made = 0

    def _signed(self, value: JsonObject) -> JsonObject:
        signature = encode_unpadded(self._key.sign(encode(value)).signature)
        key_id = f"ed25519:{self.client.device_id}"
        return {**value, "signatures": {self.client.user_id: {key_id: signature}}}

    def identity(self) -> JsonObject:
        """The body's `device_keys`."""
        user_id, device_id = self.client.user_id, self.client.device_id
        return self._signed(
            {
                "user_id": user_id,
                "device_id": device_id,
                "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
                "keys": {
                    f"ed25519:{device_id}": encode_unpadded(bytes(self._key.verify_key)),
                    f"curve25519:{device_id}": encode_unpadded(bytes(32)),
                },
            }
        )

    def one_time(self, number: int) -> JsonObject:
        """The body's `one_time_keys`: so many that were not made before."""
        keys: JsonObject = {}
        for _ in range(number):
            self._made += 1
            key = encode_unpadded(self._made.to_bytes(32, "big"))
            keys[f"{_ALGORITHM}:K{self._made}"] = self._signed({"key": key})
        return keys

    async def upload(self, body: JsonObject) -> int:
        """Upload; how many one-time keys the server then has."""
        reply = await self.client.call("POST", f"{V3}/keys/upload", body)
        return int(reply["one_time_key_counts"].get(_ALGORITHM, 0))


async def _devices(bench: Bench, number: int, one_time: int) -> list[_Device]:
    devices = [_Device(client) for client in await bench.users(number)]
    jobs = [
        partial(device.upload, {"device_keys": device.identity(), **_pool(device, one_time)})
        for device in devices
    ]
    await in_parallel(4, jobs)
    return devices


def _pool(device: _Device, number: int) -> JsonObject:
    return {"one_time_keys": device.one_time(number)} if number else {}


async def uploads(bench: Bench) -> Measurement:
    """Devices with keys upload 50 one-time keys each, 4 at once."""
    devices = await _devices(bench, bench.sizes.uploads, 0)
    bodies = [{"one_time_keys": device.one_time(50)} for device in devices]

    async def upload(device: _Device, body: JsonObject, cost: Measurement) -> int:
        return await timed(cost, device.upload(body))

    async with bench.meter.measure() as cost:
        jobs = [
            partial(upload, device, body, cost)
            for device, body in zip(devices, bodies, strict=True)
        ]
        counts = await in_parallel(4, jobs)
        cost.operations = len(counts)
    require(set(counts) == {50}, "an upload was not counted")
    return cost


async def queries(bench: Bench) -> Measurement:
    """The keys of 500 users are asked for in one request, one request after the other."""
    devices = await _devices(bench, bench.sizes.keyed, 0)
    asker = devices[0].client
    body: Json = {"device_keys": {device.client.user_id: [] for device in devices}}
    await asker.call("POST", f"{V3}/keys/query", body)
    async with bench.meter.measure() as cost:
        replies = [
            await timed(cost, asker.call("POST", f"{V3}/keys/query", body))
            for _ in range(bench.sizes.queries)
        ]
        cost.operations = len(replies)
    for reply in replies:
        found = {
            (user_id, device_id)
            for user_id, own in reply["device_keys"].items()
            for device_id in own
        }
        wanted = {(device.client.user_id, device.client.device_id) for device in devices}
        require(found == wanted, "a query misses devices")
    return cost


async def claims(bench: Bench) -> Measurement:
    """One-time keys of 500 devices are claimed in one request, one request after the other."""
    rounds = bench.sizes.claims
    devices = await _devices(bench, bench.sizes.keyed, rounds + 1)
    asker = devices[0].client
    body = {
        "one_time_keys": {
            device.client.user_id: {device.client.device_id: _ALGORITHM} for device in devices
        }
    }
    given: list[Json] = [await asker.call("POST", f"{V3}/keys/claim", body)]
    async with bench.meter.measure() as cost:
        given += [
            await timed(cost, asker.call("POST", f"{V3}/keys/claim", body)) for _ in range(rounds)
        ]
        cost.operations = rounds
    keys = [
        (user_id, key_id)
        for reply in given
        for user_id, own in reply["one_time_keys"].items()
        for found in own.values()
        for key_id in found
    ]
    require(len(keys) == len(devices) * (rounds + 1), "a claim got no key though there were some")
    require(len(set(keys)) == len(keys), "a key was given out twice")
    return cost


async def to_device(bench: Bench) -> Measurement:
    """Messages to 100 devices in each request; an operation is one message, fetched and done with.

    The devices fetch them when all are sent, a page at a time, until their inboxes are empty.
    """
    sender, *receivers = await bench.users(1 + bench.sizes.inboxes)
    tokens = [(await receiver.sync())["next_batch"] for receiver in receivers]

    async def send(number: int) -> None:
        content = {"algorithm": "m.olm.v1.curve25519-aes-sha2", "number": number, "ciphertext": {}}
        messages = {receiver.user_id: {receiver.device_id: content} for receiver in receivers}
        target = f"{V3}/sendToDevice/{_TO_DEVICE}/{sender.transaction()}"
        await sender.call("PUT", target, {"messages": messages})

    async def fetch(receiver: Client, token: str) -> list[int]:
        numbers: list[int] = []
        while True:
            reply = await receiver.sync(token)
            token = reply["next_batch"]
            events = reply.get("to_device", {}).get("events", [])
            if not events:
                return numbers
            numbers += [event["content"]["number"] for event in events]

    async with bench.meter.measure() as cost:
        for number in range(bench.sizes.inbox):
            await timed(cost, send(number))
        jobs = [
            partial(fetch, receiver, token)
            for receiver, token in zip(receivers, tokens, strict=True)
        ]
        got = await in_parallel(4, jobs)
        cost.operations = bench.sizes.inbox * len(receivers)
    expected = list(range(bench.sizes.inbox))
    require(all(numbers == expected for numbers in got), "messages are missing or out of order")
    again = await asyncio.gather(*(receiver.sync() for receiver in receivers))
    left = [reply.get("to_device", {}).get("events") for reply in again]
    require(not any(left), "messages that were done with came again")
    return cost


async def to_device_live(bench: Bench) -> Measurement:
    """Keys shared with devices that are there; an operation is a message delivered, and parking.

    As SDKs do it: a request for each 20 devices, of messages as long as a room key is when it is
    encrypted, to clients that wait in a long poll.
    """
    sender, *listeners = await bench.users(1 + _DEVICES_A_REQUEST)
    tokens = [(await listener.sync())["next_batch"] for listener in listeners]
    received: list[list[int]] = [[] for _ in listeners]
    news = asyncio.Event()

    async def listen(number: int) -> None:
        while True:
            reply = await listeners[number].sync(tokens[number], timeout=30_000)
            tokens[number] = reply["next_batch"]
            events = reply.get("to_device", {}).get("events", [])
            received[number] += [event["content"]["number"] for event in events]
            news.set()

    async def share(number: int) -> None:
        ciphertext = {"curve25519-key-of-the-device": {"type": 1, "body": "A" * _OLM_BYTES}}
        content = {
            "algorithm": "m.olm.v1.curve25519-aes-sha2",
            "number": number,
            "ciphertext": ciphertext,
        }
        messages = {listener.user_id: {listener.device_id: content} for listener in listeners}
        target = f"{V3}/sendToDevice/{_TO_DEVICE}/{sender.transaction()}"
        await sender.call("PUT", target, {"messages": messages})
        while any(len(got) <= number for got in received):
            news.clear()
            await asyncio.wait_for(news.wait(), 60)

    rounds = bench.sizes.shares
    async with asyncio.TaskGroup() as group:
        polls = [group.create_task(listen(number)) for number in range(len(listeners))]
        async with bench.meter.measure() as cost:
            for number in range(rounds):
                await timed(cost, share(number))
            cost.operations = rounds * len(listeners)
        for poll in polls:
            poll.cancel()
    expected = list(range(rounds))
    require(all(numbers == expected for numbers in received), "a message is missing or came twice")
    return cost


KEYS: dict[str, Scenario] = {
    "keys-upload": uploads,
    "keys-query": queries,
    "keys-claim": claims,
    "to-device": to_device,
    "to-device-live": to_device_live,
}
