// A chat client on matrix-js-sdk that does what it is told.
//
// Reads commands as JSON lines {id, do, with} from standard input and answers {id, result} or {id, error}.
// After each sync that the SDK has worked in it writes {synced: true}. It also keeps what the sync replies
// themselves said (`heard`), since the SDK would hide an event that the server delivers twice.

import readline from "node:readline";

for (const level of ["log", "info", "debug", "warn", "error", "trace"]) {
    console[level] = (...words) => process.stderr.write(words.map(String).join(" ") + "\n");
}
const sdk = await import("matrix-js-sdk");
const { SlidingSync } = await import("matrix-js-sdk/lib/sliding-sync.js");
const encryption = await import("./encryption.js");

let client;
let baseUrl;
let sliding = null;
let reachable = true;
const heard = [];

function write(line) {
    process.stdout.write(JSON.stringify(line) + "\n");
}

let cut = new AbortController();

// A session that was logged out softly is gone on with by its refresh token, and what was refused is asked again.
let refreshToken = null;
let renewing = null;
let renewals = 0;

async function renew() {
    const session = await client.refreshToken(refreshToken);
    refreshToken = session.refresh_token;
    client.setAccessToken(session.access_token);
    renewals += 1;
}

async function renewingFetch(resource, options) {
    const token = client?.getAccessToken();
    const response = await fetch(resource, options);
    if (refreshToken === null || response.status !== 401) return response;
    if (new URL(resource).pathname.endsWith("/refresh")) return response;
    if ((await response.clone().json()).soft_logout !== true) return response;
    if (token === client.getAccessToken()) {
        renewing ??= renew().finally(() => (renewing = null));
        await renewing;
    }
    const headers = { ...options.headers, Authorization: `Bearer ${client.getAccessToken()}` };
    return await fetch(resource, { ...options, headers });
}

async function listeningFetch(resource, options) {
    if (!reachable) throw new TypeError("fetch failed");
    const signal = AbortSignal.any([cut.signal, ...(options?.signal ? [options.signal] : [])]);
    const response = await renewingFetch(resource, { ...options, signal });
    const url = new URL(resource);
    if (url.pathname.endsWith("/sync") && response.ok) {
        const reply = await response.clone().json();
        const rooms = {};
        for (const [roomId, room] of Object.entries(reply.rooms?.join ?? {})) {
            rooms[roomId] = {
                limited: Boolean(room.timeline?.limited),
                events: (room.timeline?.events ?? []).map((event) => event.event_id),
            };
        }
        heard.push({ since: url.searchParams.get("since"), next: reply.next_batch, rooms });
    }
    return response;
}

function connect(session) {
    client = sdk.createClient({
        baseUrl,
        fetchFn: listeningFetch,
        cryptoCallbacks: encryption.callbacks,
        ...session,
    });
}

function room(roomId) {
    const found = client.getRoom(roomId);
    if (!found) throw new Error(`the client knows no room ${roomId}`);
    return found;
}

function described(event, inRoom) {
    const reactions = inRoom.relations.getChildEventsForEvent(event.getId(), "m.annotation", "m.reaction");
    return {
        event_id: event.getId(),
        type: event.getType(),
        sender: event.getSender(),
        body: event.getContent().body ?? null,
        redacted: event.isRedacted(),
        reactions: (reactions?.getRelations() ?? [])
            .filter((reaction) => !reaction.isRedacted())
            .map((reaction) => reaction.getRelation().key),
    };
}

// The SDK gives a message up when the server is not there; like other clients, offer it again, under the
// same transaction id.
async function sendUntilSent(roomId, send) {
    const inRoom = room(roomId);
    const txnId = client.makeTxnId();
    try {
        return (await send(txnId)).event_id;
    } catch (error) {
        if (error.httpStatus && error.httpStatus < 500) throw error;
    }
    for (;;) {
        const failed = inRoom.getPendingEvents().find((event) => event.getTxnId() === txnId);
        if (!failed) {
            const sent = inRoom.getLiveTimeline().getEvents().find((event) => event.getTxnId() === txnId);
            if (!sent) throw new Error("a message was neither sent nor kept");
            return sent.getId();
        }
        try {
            return (await client.resendEvent(failed, inRoom)).event_id;
        } catch (error) {
            if (error.httpStatus && error.httpStatus < 500) throw error;
            await new Promise((resolve) => setTimeout(resolve, 200));
        }
    }
}

function message(body, more = {}) {
    return { msgtype: "m.text", body, ...more };
}

const commands = {
    async connect({ url }) {
        baseUrl = url;
        connect({});
    },
    async register({ username, password }) {
        const request = { username, password, inhibit_login: true };
        try {
            await client.registerRequest(request);
            throw new Error("registration did not ask for authentication");
        } catch (error) {
            if (error.httpStatus !== 401) throw error;
            const dummy = error.data.flows.some((flow) => flow.stages.join() === "m.login.dummy");
            if (!dummy) throw new Error("registration offers no flow of one dummy stage");
            request.auth = { type: "m.login.dummy", session: error.data.session };
        }
        return (await client.registerRequest(request)).user_id;
    },
    async login({ username, password, refreshing }) {
        const identifier = { type: "m.id.user", user: username };
        const session = await client.loginRequest({
            type: "m.login.password",
            identifier,
            password,
            refresh_token: refreshing,
        });
        refreshToken = session.refresh_token ?? null;
        connect({
            accessToken: session.access_token,
            userId: session.user_id,
            deviceId: session.device_id,
        });
        return session.user_id;
    },
    async renewals() {
        return renewals;
    },
    async start({ sliding: slides }) {
        client.on("sync", (state) => {
            if (state === "SYNCING" || state === "PREPARED") write({ synced: true });
        });
        const prepared = new Promise((resolve) => {
            client.on("sync", (state) => state === "PREPARED" && resolve());
        });
        const options = { pollTimeout: 10000, pendingEventOrdering: "detached" };
        if (slides) {
            const wanted = { required_state: [["*", "*"]], timeline_limit: 20 };
            const lists = new Map([["all", { ranges: [[0, 99]], ...wanted }]]);
            sliding = new SlidingSync(baseUrl, lists, wanted, client, 10000);
            options.slidingSync = sliding;
        } else {
            options.filter = new sdk.Filter(client.getUserId());
            options.filter.setDefinition({ room: { timeline: { limit: 200 } } });
        }
        await client.startClient(options);
        await prepared;
    },
    async stop() {
        client.stopClient();
    },
    async goOffline() {
        reachable = false;
        cut.abort();
    },
    async goOnline() {
        reachable = true;
        cut = new AbortController();
        client.retryImmediately();
    },
    async logout() {
        await client.logout(true);
    },
    async createRoom({ name }) {
        return (await client.createRoom({ name, preset: "private_chat" })).room_id;
    },
    async createEncryptedRoom({ name, history }) {
        const state = (type, content) => ({ type, state_key: "", content });
        const room = await client.createRoom({
            name,
            preset: "private_chat",
            initial_state: [
                state("m.room.encryption", { algorithm: "m.megolm.v1.aes-sha2" }),
                state("m.room.history_visibility", { history_visibility: history }),
            ],
        });
        return room.room_id;
    },
    async invite({ roomId, userId }) {
        await client.invite(roomId, userId);
    },
    async join({ roomId }) {
        await client.joinRoom(roomId);
    },
    async leave({ roomId }) {
        await client.leave(roomId);
    },
    async say({ roomId, text }) {
        return await sendUntilSent(roomId, (txnId) =>
            client.sendEvent(roomId, "m.room.message", message(text), txnId),
        );
    },
    async edit({ roomId, eventId, text }) {
        const content = message(`* ${text}`, {
            "m.new_content": message(text),
            "m.relates_to": { rel_type: "m.replace", event_id: eventId },
        });
        return (await client.sendEvent(roomId, "m.room.message", content)).event_id;
    },
    async react({ roomId, eventId, key }) {
        const content = { "m.relates_to": { rel_type: "m.annotation", event_id: eventId, key } };
        return (await client.sendEvent(roomId, "m.reaction", content)).event_id;
    },
    async redact({ roomId, eventId }) {
        return (await client.redactEvent(roomId, eventId)).event_id;
    },
    async typing({ roomId, typing }) {
        await client.sendTyping(roomId, typing, 20000);
    },
    async read({ roomId, eventId }) {
        await client.sendReadReceipt(room(roomId).findEventById(eventId));
    },
    async rename({ name }) {
        await client.setDisplayName(name);
    },
    async nameRoom({ roomId, name }) {
        await client.setRoomName(roomId, name);
    },
    async pageBack({ roomId }) {
        const inRoom = room(roomId);
        const timeline = inRoom.getLiveTimeline();
        while (timeline.getPaginationToken("b") !== null) await client.scrollback(inRoom, 100);
        return timeline.getEvents().map((event) => event.getId());
    },
    async call({ method, args }) {
        return (await client[method](...args)) ?? null;
    },
    // What the SDK has no method for.
    async request({ method, path, body }) {
        return await client.http.authedRequest(method, path, undefined, body, { prefix: "" });
    },
    async stickyEvents({ roomId }) {
        return [...room(roomId)._unstable_getStickyEvents()].map((event) => ({
            sender: event.getSender(),
            content: event.getContent(),
        }));
    },
    async roomOrder() {
        const rooms = client.getRooms().sort((one, other) => other.getBumpStamp() - one.getBumpStamp());
        return { count: sliding.getListData("all").joinedCount, rooms: rooms.map((each) => each.roomId) };
    },
    async heard({ roomId }) {
        return heard.map(({ since, next, rooms }) => ({ since, next, ...(rooms[roomId] ?? {}) }));
    },
    async view({ roomId }) {
        const inRoom = client.getRoom(roomId);
        if (!inRoom) return null;
        const members = {};
        const typing = [];
        const receipts = {};
        for (const member of inRoom.currentState.getMembers()) {
            members[member.userId] = { membership: member.membership, name: member.rawDisplayName };
            if (member.typing) typing.push(member.userId);
            const eventId = inRoom.getEventReadUpTo(member.userId, true);
            if (eventId) receipts[member.userId] = eventId;
        }
        const events = inRoom.getLiveTimeline().getEvents();
        return {
            name: inRoom.name,
            membership: inRoom.getMyMembership(),
            members,
            typing,
            receipts,
            timeline: events.map((event) => described(event, inRoom)),
        };
    },
};

Object.assign(commands, encryption.commands(() => client));

for await (const line of readline.createInterface({ input: process.stdin })) {
    const { id, do: name, with: given } = JSON.parse(line);
    commands[name](given ?? {}).then(
        (result) => write({ id, result: result ?? null }),
        (error) => write({ id, error: `${error.name}: ${error.message}` }),
    );
}
process.exit(0);
