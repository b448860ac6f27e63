"""Which state of a room a client requires, where it doesn't take all of it.

Owns the two forms in which clients say it and the decision for one state key. Parsing does the
work, so that a decision is a few look-ups. What a client requires of a room by several rules is
what any of them selects.
spec: MSC4186 (`required_state`)
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from homeserver.errors import MatrixError

MEMBER = "m.room.member"
MAX_ELEMENTS = 1_000
_ANY = "*"
_LAZY = "$LAZY"
_ME = "$ME"
_NONE: frozenset[str] = frozenset()
_NO_KEYS: frozenset[tuple[str, str]] = frozenset()


class Selection(NamedTuple):
    """What one rule selects: `keys`; and of the rest what is wanted and isn't left out.

    `types` are wanted with every state key, `state_keys` with every type.
    """

    keys: frozenset[tuple[str, str]] = _NO_KEYS
    everything: bool = False
    types: frozenset[str] = _NONE
    state_keys: frozenset[str] = _NONE
    not_keys: frozenset[tuple[str, str]] = _NO_KEYS
    not_types: frozenset[str] = _NONE
    not_state_keys: frozenset[str] = _NONE

    def matches(self, type_: str, state_key: str) -> bool:
        """Whether it selects a state key."""
        if (type_, state_key) in self.keys:
            return True
        if not (self.everything or type_ in self.types or state_key in self.state_keys):
            return False
        return (
            type_ not in self.not_types
            and state_key not in self.not_state_keys
            and (type_, state_key) not in self.not_keys
        )


class Required(NamedTuple):
    """What a client requires of a room; `lazy`: also the members whom the timeline shows."""

    selections: frozenset[Selection] = frozenset()
    lazy: bool = False

    def matches(self, type_: str, state_key: str) -> bool:
        """Whether a state key is required, members that are needed for a timeline aside."""
        return any(selection.matches(type_, state_key) for selection in self.selections)

    def joined(self, other: "Required") -> "Required":
        """What either requires."""
        if other == self:
            return self
        return Required(self.selections | other.selections, self.lazy or other.lazy)

    def covers(self, other: "Required") -> bool:
        """Whether it is plain that all that the other selects is selected."""
        return other.selections <= self.selections

    @property
    def whole(self) -> bool:
        """Whether only the whole state of a room tells what is required."""
        return any(one.everything or one.state_keys for one in self.selections)

    @property
    def keys(self) -> set[tuple[str, str]]:
        """The state keys that are named, where it isn't `whole`."""
        return {key for one in self.selections for key in one.keys}

    @property
    def types(self) -> set[str]:
        """The types of which every state key may be required, where it isn't `whole`."""
        return {type_ for one in self.selections for type_ in one.types}


NOTHING = Required()


def of_pairs(pairs: Sequence[tuple[str, str]], user_id: str) -> Required:
    """What (type, state key) pairs of a user require; either may be `*`.

    Beside `*` and `*` the others narrow their types down. Raises `MatrixError` M_INVALID_PARAM for
    too many.
    """
    _check(len(pairs))
    lazy = (MEMBER, _LAZY) in pairs
    everything = (_ANY, _ANY) in pairs
    exact: set[tuple[str, str]] = set()
    types: set[str] = set()
    state_keys: set[str] = set()
    for type_, key in pairs:
        state_key = user_id if key == _ME else key
        if (type_, state_key) == (MEMBER, _LAZY):
            continue
        if type_ != _ANY and state_key != _ANY:
            exact.add((type_, state_key))
        elif type_ != _ANY:
            types.add(type_)
        elif state_key != _ANY:
            state_keys.add(state_key)
    narrowed: set[str] = set()
    if everything:
        narrowed = {type_ for type_, _ in exact} - types
        if lazy and MEMBER not in types:
            narrowed.add(MEMBER)
    return _required(
        Selection(
            keys=frozenset(exact),
            everything=everything,
            types=frozenset(types),
            state_keys=frozenset(state_keys),
            not_types=frozenset(narrowed),
        ),
        lazy=lazy,
    )


Element = tuple[str | None, str | None]
"""A type and a state key, None for any."""


def of_elements(
    include: Sequence[Element], exclude: Sequence[Element], user_id: str, *, lazy: bool
) -> Required:
    """What these elements of a user require.

    Raises `MatrixError` M_INVALID_PARAM for too many.
    """
    _check(len(include) + len(exclude))
    keys, everything, types, state_keys = _sorted(include, user_id)
    not_keys, nothing, not_types, not_state_keys = _sorted(exclude, user_id)
    if nothing:
        return Required(lazy=lazy)
    left = {
        (type_, key)
        for type_, key in keys - not_keys
        if type_ not in not_types and key not in not_state_keys
    }
    return _required(
        Selection(
            frozenset(left), everything, types, state_keys, not_keys, not_types, not_state_keys
        ),
        lazy=lazy,
    )


def _sorted(
    elements: Iterable[Element], user_id: str
) -> tuple[frozenset[tuple[str, str]], bool, frozenset[str], frozenset[str]]:
    """The keys, whether everything is meant, the types and the state keys."""
    keys: set[tuple[str, str]] = set()
    types: set[str] = set()
    state_keys: set[str] = set()
    everything = False
    for type_, key in elements:
        state_key = user_id if key == _ME else key
        if type_ is not None and state_key is not None:
            keys.add((type_, state_key))
        elif type_ is not None:
            types.add(type_)
        elif state_key is not None:
            state_keys.add(state_key)
        else:
            everything = True
    return frozenset(keys), everything, frozenset(types), frozenset(state_keys)


def _required(selection: Selection, *, lazy: bool) -> Required:
    empty = not (selection.keys or selection.everything or selection.types or selection.state_keys)
    return Required(frozenset() if empty else frozenset((selection,)), lazy)


def _check(count: int) -> None:
    if count > MAX_ELEMENTS:
        raise MatrixError.invalid_param(
            f"required_state: at most {MAX_ELEMENTS} elements are taken"
        )
