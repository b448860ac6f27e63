"""What people do beside chatting: spaces, search, threads, files, and rooms that notify thousands.

Files are incompressible bytes, pictures are noise: nothing gets cheaper by being alike.
"""

import asyncio
import io
import os
import random
from functools import partial

from PIL import Image

from bench.client import V3, Client, Json, segment
from bench.meter import Measurement, in_parallel, timed
from bench.scenarios import Bench, Scenario, require, texts

_FILE_BYTES = 100_000
_V1 = "/_matrix/client/v1"


async def hierarchy(bench: Bench) -> Measurement:
    """A space of 50 public rooms is listed by its members, 4 at once."""
    owner, *readers = await bench.users(5)
    space = await owner.create_room(
        preset="public_chat", creation_content={"type": "m.space"}, room_version="12"
    )
    for reader in readers:
        await reader.join(space)
    children = []
    for number in range(bench.sizes.children):
        children.append(await owner.create_room(preset="public_chat", name=f"Room {number}"))
        target = f"{V3}/rooms/{segment(space)}/state/m.space.child/{segment(children[-1])}"
        await owner.call("PUT", target, {"via": ["localhost"]})
    target = f"{_V1}/rooms/{segment(space)}/hierarchy"
    query: dict[str, str | int] = {"limit": 100}

    async def walk(reader: Client, cost: Measurement) -> list[Json]:
        return [
            await timed(cost, reader.call("GET", target, query=query))
            for _ in range(bench.sizes.walks)
        ]

    await owner.call("GET", target, query=query)
    async with bench.meter.measure() as cost:
        found = await asyncio.gather(*(walk(reader, cost) for reader in readers))
        cost.operations = len(cost.waits)
    for reply in (reply for walked in found for reply in walked):
        # A server may end a page earlier than it was asked to.
        rooms = {room["room_id"] for room in reply["rooms"]}
        require(rooms <= {space, *children}, "a hierarchy has rooms that are not in it")
        whole = rooms == {space, *children}
        require(whole or "next_batch" in reply, "a hierarchy misses rooms")
    return cost


async def search(bench: Bench) -> Measurement:
    """A word that stands in 20 of 1,000 messages of ten rooms is searched for, 4 at once."""
    owner, *readers = await bench.users(5)
    rooms = [await bench.room(owner, readers) for _ in range(10)]
    wanted: set[str] = set()

    async def fill(number: int) -> None:
        text = f"message number {number} of many, about nothing at all"
        rare = number % (bench.sizes.searched // 20) == 0
        event_id = await owner.say(
            rooms[number % len(rooms)], text + (" but heliotrope" if rare else "")
        )
        if rare:
            wanted.add(event_id)

    await in_parallel(8, [partial(fill, number) for number in range(bench.sizes.searched)])
    body = {
        "search_categories": {
            "room_events": {
                "search_term": "heliotrope",
                "order_by": "recent",
                "filter": {"limit": 50},
            }
        }
    }

    async def look(reader: Client, cost: Measurement) -> list[Json]:
        return [
            await timed(cost, reader.call("POST", f"{V3}/search", body))
            for _ in range(bench.sizes.walks)
        ]

    await owner.call("POST", f"{V3}/search", body)
    async with bench.meter.measure() as cost:
        found = await asyncio.gather(*(look(reader, cost) for reader in readers))
        cost.operations = len(cost.waits)
    for reply in (reply for looked in found for reply in looked):
        results = reply["search_categories"]["room_events"]["results"]
        require({one["result"]["event_id"] for one in results} == wanted, "a search is incomplete")
    return cost


async def relations(bench: Bench) -> Measurement:
    """A page of 50 of a thread of 100 replies, 4 readers at once."""
    owner, *readers = await bench.users(5)
    room_id = await bench.room(owner, readers)
    root = await owner.say(room_id, "root")
    related = {"rel_type": "m.thread", "event_id": root}
    replies = [
        await owner.send(
            room_id, {"msgtype": "m.text", "body": f"reply {number}", "m.relates_to": related}
        )
        for number in range(100)
    ]
    target = f"{_V1}/rooms/{segment(room_id)}/relations/{segment(root)}/m.thread"

    async def read(reader: Client, cost: Measurement) -> None:
        for _ in range(bench.sizes.walks):
            reply = await timed(cost, reader.call("GET", target, query={"limit": 50}))
            require(texts(reply["chunk"]) == replies[:49:-1], "a thread's page is not its end")

    await read(readers[0], Measurement())
    async with bench.meter.measure() as cost:
        await asyncio.gather(*(read(reader, cost) for reader in readers))
        cost.operations = len(cost.waits)
    return cost


async def deep_messages(bench: Bench) -> Measurement:
    """Pages of 100 at any depth of a room of 5,000 messages, 4 readers at once."""
    owners = await bench.users(32)
    room_id = await bench.room(owners[0], owners[1:])
    each = bench.sizes.deep // len(owners)

    async def talk(owner: Client) -> None:
        for number in range(each):
            await owner.say(room_id, f"message {number}")

    await asyncio.gather(*(talk(owner) for owner in owners))
    whole: list[str] = []
    tokens: list[tuple[str, int]] = []
    start = None
    while True:
        reply = await owners[0].messages(room_id, start=start, limit=100)
        whole += [event["event_id"] for event in reply["chunk"]]
        start = reply.get("end")
        if start is None:
            break
        tokens.append((start, len(whole)))
    chance = random.Random(1)

    async def dive(reader: Client, cost: Measurement) -> None:
        for token, place in chance.choices(tokens, k=bench.sizes.dives):
            page = await timed(cost, reader.messages(room_id, start=token, limit=100))
            ids = [event["event_id"] for event in page["chunk"]]
            require(ids == whole[place : place + 100], "a page is not what stands there")

    async with bench.meter.measure() as cost:
        await asyncio.gather(*(dive(reader, cost) for reader in owners[:4]))
        cost.operations = len(cost.waits)
    require(len(whole) >= each * len(owners), "the history misses messages")
    return cost


async def _files(bench: Bench, client: Client) -> tuple[dict[str, bytes], Measurement]:
    files = [os.urandom(_FILE_BYTES) for _ in range(bench.sizes.files)]

    async def upload(data: bytes, cost: Measurement) -> str:
        return await timed(cost, client.upload(data, "application/octet-stream"))

    async with bench.meter.measure() as cost:
        names = await in_parallel(4, [partial(upload, data, cost) for data in files])
        cost.operations = len(names)
    return dict(zip(names, files, strict=True)), cost


async def uploads(bench: Bench) -> Measurement:
    """Files of 100 KB are uploaded, 4 at once."""
    (client,) = await bench.users(1)
    files, cost = await _files(bench, client)
    for name in list(files)[:: max(1, len(files) // 10)]:
        require(await client.download(name) == files[name], "an uploaded file is another")
    return cost


async def downloads(bench: Bench) -> Measurement:
    """Files of 100 KB are downloaded, 4 at once."""
    client, reader = await bench.users(2)
    files, _ = await _files(bench, client)

    async def download(name: str, cost: Measurement) -> bool:
        return await timed(cost, reader.download(name)) == files[name]

    async with bench.meter.measure() as cost:
        same = await in_parallel(4, [partial(download, name, cost) for name in files])
        cost.operations = len(same)
    require(all(same), "a downloaded file is another")
    return cost


async def thumbnails(bench: Bench) -> Measurement:
    """Pictures of 1600 x 1200 are uploaded and shown once as thumbnails of 320 x 240."""
    (client,) = await bench.users(1)
    size = (1600, 1200)
    pictures = []
    for _ in range(bench.sizes.pictures + 2):
        noise = Image.frombytes("RGB", (80, 60), os.urandom(80 * 60 * 3)).resize(size)
        file = io.BytesIO()
        noise.save(file, "JPEG")
        pictures.append(file.getvalue())

    async def show(picture: bytes) -> bytes:
        name = await client.upload(picture, "image/jpeg")
        query: dict[str, str | int] = {"width": 320, "height": 240, "method": "scale"}
        return await client.download(name, thumbnail=query)

    for picture in pictures[:2]:
        await show(picture)
    async with bench.meter.measure() as cost:
        shown = [await timed(cost, show(picture)) for picture in pictures[2:]]
        cost.operations = len(shown)
    for data in shown:
        with Image.open(io.BytesIO(data)) as image:
            require(image.size == (320, 240), f"a thumbnail is of the size {image.size}")
    return cost


async def big_room(bench: Bench) -> Measurement:
    """A message into a room of 2,000 members of this server, all of whom it may notify."""
    sender, *members = await bench.users(bench.sizes.audience)
    room_id = await bench.room(sender, members)
    reader = members[-1]
    token = (await reader.sync())["next_batch"]
    for number in range(5):
        await sender.say(room_id, f"warm {number}")
    async with bench.meter.measure() as cost:
        sent = [
            await timed(cost, sender.say(room_id, f"message {number}"))
            for number in range(bench.sizes.notified)
        ]
        cost.operations = len(sent)
    room = (await reader.sync(token))["rooms"]["join"][room_id]
    count = room["unread_notifications"]["notification_count"]
    require(count == len(sent) + 5, f"a member is told of {count} notifications")
    return cost


FEATURES: dict[str, Scenario] = {
    "hierarchy": hierarchy,
    "search": search,
    "relations": relations,
    "messages-deep": deep_messages,
    "media-upload": uploads,
    "media-download": downloads,
    "thumbnails": thumbnails,
    "big-room": big_room,
}
