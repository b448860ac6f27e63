"""The user in whose name the server speaks to its users.

Owns the account: its name is kept free for it, it is made when it is first needed, and shows what
the configuration says. It has no password and no session. An account of that name that a person
has made is never spoken for.
"""

from homeserver.config import ServerNotices
from homeserver.errors import MatrixError
from homeserver.users.accounts import Accounts, NewAccount
from homeserver.users.profiles import AVATAR_URL, DISPLAYNAME, Profiles
from storage import accounts as store
from storage.engine import Database
from storage.schema import DEACTIVATED, SERVICE, UserRow


async def official(database: Database, options: ServerNotices, server_name: str) -> str:
    """The id of the user in whose name the server speaks, nothing where a person has the account.

    While the server runs nobody else can make it.
    """
    name = options.localpart
    row = (await store.users_by_localpart(database, [name])).get(name)
    is_persons = row is not None and not row.flags & SERVICE
    return "" if is_persons else options.user_id(server_name)


class NoticesUser:
    """See the module; `user_id` is known before there is an account."""

    def __init__(
        self,
        database: Database,
        accounts: Accounts,
        profiles: Profiles,
        options: ServerNotices,
        server_name: str,
    ) -> None:
        self._database = database
        self._accounts = accounts
        self._profiles = profiles
        self._options = options
        self.user_id = options.user_id(server_name)

    def check_free(self, user_id: str) -> None:
        """Raise `MatrixError` M_USER_IN_USE for the name of this user."""
        if user_id == self.user_id:
            raise MatrixError("M_USER_IN_USE", "This user name is the server's own", 400)

    async def ready(self) -> int:
        """The number of the user, who exists then and shows what is configured.

        Raises `MatrixError` M_USER_IN_USE when the account is a person's, or was closed.
        """
        row = await self._row() or await self._made()
        if row.flags & DEACTIVATED or not row.flags & SERVICE:
            raise MatrixError(
                "M_USER_IN_USE",
                f"{self.user_id} is somebody's account: name another in server_notices.localpart",
                400,
            )
        shown = {DISPLAYNAME: self._options.display_name, AVATAR_URL: self._options.avatar_url}
        for field, value in shown.items():
            await self._profiles.put(row.user_nid, field, {field: value})
        return row.user_nid

    async def _row(self) -> UserRow | None:
        name = self._options.localpart
        return (await store.users_by_localpart(self._database, [name])).get(name)

    async def _made(self) -> UserRow:
        try:
            await self._accounts.create(NewAccount(self._options.localpart, service=True))
        except MatrixError as error:
            if error.errcode != "M_USER_IN_USE":  # two notices made it at once
                raise
        row = await self._row()
        assert row is not None
        return row
