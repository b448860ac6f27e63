// What the program does about encryption: keys of its own, their copies on the server, and verification.
//
// Everything is kept in memory, so a device lasts as long as its program.

import {
    CryptoEvent,
    decodeRecoveryKey,
    VerificationPhase,
    VerificationRequestEvent,
    VerifierEvent,
} from "matrix-js-sdk/lib/crypto-api/index.js";

let secretKey = null;

export const callbacks = {
    async getSecretStorageKey({ keys }) {
        return secretKey && [Object.keys(keys)[0], secretKey];
    },
    cacheSecretStorageKey(_keyId, _info, key) {
        secretKey = key;
    },
};

function once(source, name, found) {
    return new Promise((resolve) => {
        const look = (value) => {
            const result = found(value);
            if (!result) return;
            source.off(name, look);
            resolve(result);
        };
        source.on(name, look);
        look();
    });
}

async function compared(verifier, told) {
    verifier.on(VerifierEvent.ShowSas, async (sas) => {
        told(sas.sas.decimal.join(" "));
        await sas.confirm();
    });
    await verifier.verify();
}

export function commands(client) {
    const crypto = () => client().getCrypto();
    const requests = [];

    async function withPassword(password, request) {
        const identifier = { type: "m.id.user", user: client().getUserId() };
        try {
            return await request(null);
        } catch (error) {
            if (error.httpStatus !== 401) throw error;
            const { session } = error.data;
            return await request({ type: "m.login.password", identifier, password, session });
        }
    }

    return {
        async encrypt() {
            await client().initRustCrypto({ useIndexedDB: false });
            client().on(CryptoEvent.VerificationRequestReceived, (request) => requests.push(request));
        },
        async deviceId() {
            return client().getDeviceId();
        },
        // A new identity with its secrets stored; gives the key of the store.
        async setUp({ password }) {
            await crypto().bootstrapCrossSigning({
                authUploadDeviceSigningKeys: (request) => withPassword(password, request),
            });
            const key = await crypto().createRecoveryKeyFromPassphrase();
            await crypto().bootstrapSecretStorage({
                createSecretStorageKey: async () => key,
                setupNewSecretStorage: true,
                setupNewKeyBackup: true,
            });
            return key.encodedPrivateKey;
        },
        // The identity and all messages' keys, from the store of the account; gives what came.
        async recover({ recoveryKey }) {
            secretKey = decodeRecoveryKey(recoveryKey);
            // Asks the server: private keys are taken only when the public ones are known.
            if (!(await crypto().userHasCrossSigningKeys(undefined, true))) throw new Error("no public keys");
            await crypto().bootstrapCrossSigning({});
            await crypto().loadSessionBackupPrivateKeyFromSecretStorage();
            await crypto().checkKeyBackupAndEnable();
            const { total, imported } = await crypto().restoreKeyBackup();
            return { total, imported };
        },
        // Leave a device on the server that takes keys of messages while no other is there.
        async dehydrate() {
            if (!(await crypto().isDehydrationSupported())) throw new Error("the server takes none");
            await crypto().startDehydration({ createNewKey: true });
        },
        // Take over what such a device was sent, and leave another.
        async rehydrate() {
            await crypto().startDehydration();
        },
        // How many sessions of messages this device knows, and how many the account's backup has.
        async sessions() {
            const known = (await crypto().exportRoomKeys()).length;
            const prefix = "/_matrix/client/v3";
            const asked = client().http.authedRequest("GET", "/room_keys/version", {}, undefined, { prefix });
            return { known, stored: (await asked).count };
        },
        async trusts({ userId, deviceId }) {
            const status = await crypto().getDeviceVerificationStatus(userId, deviceId);
            return Boolean(status?.crossSigningVerified);
        },
        // Whether the user's own identity signed the device; both are asked of the server.
        async isSigned({ userId, deviceId }) {
            await crypto().userHasCrossSigningKeys(userId, true);
            const status = await crypto().getDeviceVerificationStatus(userId, deviceId);
            return Boolean(status?.signedByOwner);
        },
        async devicesOf({ userId }) {
            const devices = await crypto().getUserDeviceInfo([userId]);
            return [...(devices.get(userId)?.keys() ?? [])];
        },
        // What every encrypted event of a room became: its text, or why it can't be read.
        async readings({ roomId }) {
            const inRoom = client().getRoom(roomId);
            const events = (inRoom?.getLiveTimeline().getEvents() ?? []).filter((event) => event.isEncrypted());
            await Promise.all(events.map((event) => event.getDecryptionPromise()));
            return events.map((event) => ({
                event_id: event.getId(),
                body: event.isDecryptionFailure() ? null : (event.getContent().body ?? null),
                failure: event.decryptionFailureReason,
            }));
        },
        // Compare short strings with another of the account's devices; gives what was shown.
        async verifyOther() {
            const request = await crypto().requestOwnUserVerification();
            await once(request, VerificationRequestEvent.Change, () => request.phase === VerificationPhase.Ready);
            const verifier = await request.startVerification("m.sas.v1");
            let shown;
            await compared(verifier, (sas) => (shown = sas));
            await once(request, VerificationRequestEvent.Change, () => request.phase === VerificationPhase.Done);
            return shown;
        },
        async beVerified() {
            await once(client(), CryptoEvent.VerificationRequestReceived, () => requests.length > 0);
            const request = requests[0];
            await request.accept();
            await once(request, VerificationRequestEvent.Change, () => request.verifier);
            let shown;
            await compared(request.verifier, (sas) => (shown = sas));
            await once(request, VerificationRequestEvent.Change, () => request.phase === VerificationPhase.Done);
            return shown;
        },
    };
}
