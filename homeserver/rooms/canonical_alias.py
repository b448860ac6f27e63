"""What an `m.room.canonical_alias` event says.

Owns which aliases its content names, whether it is well-formed, and the content without one of
them. Where the aliases lead is not asked here.
spec: client-server-api#mroomcanonical_alias
"""

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.ids import is_room_alias

CANONICAL_ALIAS = "m.room.canonical_alias"
MAX_ALIASES = 100


def named(content: JsonObject) -> set[str]:
    """The aliases that a content names, as far as it is well-formed."""
    alternatives = content.get("alt_aliases")
    found = [content.get("alias"), *(alternatives if isinstance(alternatives, list) else ())]
    return {alias for alias in found if isinstance(alias, str) and alias}


def added(content: JsonObject, before: JsonObject) -> set[str]:
    """The aliases that a new content names and the one before did not.

    Raises `MatrixError` M_INVALID_PARAM for what can't be aliases, and for too many new ones.
    """
    alias, alternatives = content.get("alias"), content.get("alt_aliases")
    if alias is not None and not isinstance(alias, str):
        raise MatrixError.invalid_param("alias must be a string")
    if alternatives is not None and (
        not isinstance(alternatives, list) or not all(isinstance(one, str) for one in alternatives)
    ):
        raise MatrixError.invalid_param("alt_aliases must be a list of strings")
    if "" in (alternatives or ()):
        raise MatrixError.invalid_param("alt_aliases: an alias is empty")
    new = named(content) - named(before)
    if len(new) > MAX_ALIASES:
        raise MatrixError.invalid_param(f"alt_aliases: more than {MAX_ALIASES} new ones")
    for one in new:
        if not is_room_alias(one):
            raise MatrixError.invalid_param(f"{one!r} is not a room alias")
    return new


def without(content: JsonObject, alias: str) -> JsonObject:
    """The content when an alias is gone; the same where it does not name it."""
    left = dict(content)
    if left.get("alias") == alias:
        del left["alias"]
    alternatives = left.get("alt_aliases")
    if isinstance(alternatives, list) and alias in alternatives:
        left["alt_aliases"] = [one for one in alternatives if one != alias]
        if not left["alt_aliases"]:
            del left["alt_aliases"]
    return left


def misled(alias: str) -> MatrixError:
    """The error for an alias that does not lead to the room that names it."""
    return MatrixError("M_BAD_ALIAS", f"{alias} does not lead to this room")
