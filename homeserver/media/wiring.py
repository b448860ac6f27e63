"""What media are made of, built and connected once.

Owns the order in which the parts of this package are made and ended. Nothing here has behaviour of
its own.
"""

from dataclasses import dataclass

from homeserver.config import Config, S3Bucket
from homeserver.http.outbound import Outbound
from homeserver.media.downloads import Downloads
from homeserver.media.encrypted import EncryptedFiles
from homeserver.media.files import DISK, S3, Files
from homeserver.media.leaving import Leaving
from homeserver.media.listing import Listing
from homeserver.media.moderation import Moderation
from homeserver.media.moving import Moving
from homeserver.media.previews import Previews
from homeserver.media.quotas import Quotas
from homeserver.media.remote import Elsewhere, Remote
from homeserver.media.shrinkers import Shrinkers
from homeserver.media.thumbnails import Thumbnails
from homeserver.media.uploads import Uploads
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from storage.blobs import Blobs, Disk
from storage.engine import Database

TIDY_SECONDS = 300.0


@dataclass(frozen=True)
class Media:
    """The parts that endpoints and others use."""

    clock: Clock
    files: Files
    quotas: Quotas
    encrypted: EncryptedFiles
    uploads: Uploads
    remote: Remote
    downloads: Downloads
    thumbnails: Thumbnails
    previews: Previews
    listing: Listing
    leaving: Leaving
    moderation: Moderation
    moving: Moving

    @classmethod
    async def build(
        cls,
        config: Config,
        elsewhere: Elsewhere,
        outbound: Outbound,
        database: Database,
        commits: CommitQueue,
        clock: Clock,
    ) -> "Media":
        """Make everything; raises OSError when the folder can't be used.

        `elsewhere` opens files of other servers, `outbound` whatever strangers link to.
        """
        options, name = config.media, config.server.name
        durable = config.database.synchronous == "full"
        disk = Disk(options.dir, durable=durable, keep_free=options.keep_free_bytes)
        places: dict[int, Blobs] = {DISK: disk}
        if config.s3.bucket:
            places[S3] = _s3(config.s3)
        keep_in = S3 if S3 in places and config.s3.new_files else DISK
        files = Files(database, commits, clock, disk, places, keep_in)
        await files.open()
        quotas = Quotas(options, database)
        files.dropped = quotas.forget
        encrypted = EncryptedFiles(clock, enabled=options.redacted_encrypted)
        await encrypted.open(database)
        uploads = Uploads(options, files, quotas, encrypted, database, commits, clock, name)
        remote = Remote(options, files, elsewhere, database, commits, clock)
        await remote.open()
        leaving = Leaving(options, files, remote, database, commits, clock, name)
        shrinkers = Shrinkers(clock, options.max_image_pixels)
        return cls(
            clock=clock,
            files=files,
            quotas=quotas,
            encrypted=encrypted,
            uploads=uploads,
            remote=remote,
            downloads=Downloads(options, files, uploads, remote, database, clock, name),
            thumbnails=Thumbnails(files, remote, shrinkers, database, commits, clock),
            previews=Previews(
                name,
                files,
                remote,
                database,
                commits,
                outbound,
                clock,
                enabled=options.url_previews,
            ),
            listing=Listing(database, commits, name),
            leaving=leaving,
            moderation=Moderation(files, remote, leaving, database, clock, name),
            moving=Moving(files, database),
        )

    async def tidy(self) -> None:
        """Forget what is over, now and then, until cancelled."""
        await self.listing.run()
        while True:
            await self.uploads.forget_expired()
            await self.leaving.run()
            await self.remote.tidy()
            await self.previews.tidy()
            await self.clock.sleep(TIDY_SECONDS)

    async def close(self) -> None:
        """Let go of files and processes."""
        await self.remote.close()
        await self.thumbnails.close()
        await self.previews.close()
        await self.files.close()


def _s3(options: S3Bucket) -> Blobs:
    # It loads a library that others need not have.
    from storage.s3 import S3, Bucket

    bucket = Bucket(
        options.url or f"https://s3.{options.region}.amazonaws.com",
        options.bucket,
        options.region,
        options.access_key,
        options.secret_key,
        options.prefix,
        options.redirect_url,
    )
    return S3(bucket)
