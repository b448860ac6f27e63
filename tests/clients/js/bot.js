// A bot made with matrix-bot-sdk: joins where it is invited and answers "!echo TEXT" with TEXT.
// Its encryption comes as a binary that is downloaded when it is installed; the bot uses none.
import Module, { createRequire } from "node:module";

const load = Module._load;
Module._load = (request, ...rest) =>
    request.startsWith("@matrix-org/matrix-sdk-crypto-nodejs") ? {} : load(request, ...rest);
const { AutojoinRoomsMixin, LogService, LogLevel, MatrixClient, SimpleFsStorageProvider } =
    createRequire(import.meta.url)("@vector-im/matrix-bot-sdk");

const [url, token, state] = process.argv.slice(2);
LogService.setLevel(LogLevel.ERROR);
const client = new MatrixClient(url, token, new SimpleFsStorageProvider(state));
AutojoinRoomsMixin.setupOnClient(client);
const self = await client.getUserId();
client.on("room.message", async (room, event) => {
    const text = event.content?.body ?? "";
    if (event.sender !== self && text.startsWith("!echo ")) {
        await client.replyText(room, event, text.slice("!echo ".length));
    }
});
// Its state is one file, written in place: it ends between two writes, not within one.
process.on("SIGTERM", () => process.exit(0));
await client.start();
process.stdout.write("started\n");
