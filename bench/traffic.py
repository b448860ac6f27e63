"""A busy room's life, told by a generator of pseudo-random numbers: the same at every run.

Owns the mix: who does what next, and how long messages are. It decides only; `size` carries it out.
The mix is that of public rooms with bridged clients: three quarters messages and edits, the rest
reactions, coming and going, changed names, redactions; a receipt now and then.
"""

import random
from dataclasses import dataclass, field
from typing import Literal

from homeserver.matrix.canonical import JsonObject

Kind = Literal["message", "reaction", "redaction", "membership", "profile", "receipt"]

_MIX: dict[Kind, float] = {
    "message": 0.56,
    "reaction": 0.08,
    "redaction": 0.01,
    "membership": 0.08,
    "profile": 0.02,
    "receipt": 0.25,
}
_TEXT = """
the be to of and a in that have it for not on with he as you do at this but his by from they we say
her she or an will my one all would there their what so up out if about who get which go me when
make can like time no just him know take people into year your good some could them see other than
then now look only come its over think also back after use two how our work first well way even new
want because any these give day most us room server question answer yesterday update broken release
encrypted homeserver client bridge thanks https issue
"""
_WORDS = _TEXT.split()
_EMOJI = ("👍", "❤️", "😂", "🎉", "👀", "✅", "🙏")


@dataclass
class Traffic:
    """What happens next in a room of `members` people; message ids are remembered to refer to."""

    members: int
    seed: int = 1
    recent: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        # The first half stays, and a few of them talk most of the time; the others come and go.
        self._staying = self.members // 2
        self._weights = [1 / (n + 5) for n in range(self._staying)]

    def next(self) -> tuple[Kind, int]:
        """What is done, and the number of the member who does it."""
        kinds, shares = list(_MIX), list(_MIX.values())
        kind = self._random.choices(kinds, shares)[0]
        if not self.recent and kind in ("reaction", "redaction", "receipt"):
            kind = "message"
        if kind == "membership":
            return kind, self._random.randrange(self._staying, self.members)
        if kind in ("profile", "receipt"):
            return kind, self._random.randrange(self._staying)
        return kind, self._random.choices(range(self._staying), self._weights)[0]

    def message(self) -> JsonObject:
        """The content of a text message, a reply or an edit; its event has about 750 bytes."""
        body = " ".join(self._random.choices(_WORDS, k=self._random.randint(2, 60)))
        content: JsonObject = {"msgtype": "m.text", "body": body}
        chance = self._random.random()
        if self.recent and chance < 0.1:
            content["m.relates_to"] = {"m.in_reply_to": {"event_id": self.earlier()}}
        elif self.recent and chance < 0.13:
            content["m.new_content"] = {"msgtype": "m.text", "body": body}
            content["m.relates_to"] = {"rel_type": "m.replace", "event_id": self.earlier()}
        return content

    def reaction(self) -> JsonObject:
        """The content of a reaction to one of the last messages."""
        relation = {
            "rel_type": "m.annotation",
            "event_id": self.earlier(),
            "key": self._random.choice(_EMOJI),
        }
        return {"m.relates_to": relation}

    def name(self) -> str:
        """A new display name."""
        return " ".join(self._random.choices(_WORDS, k=2)).title()

    def earlier(self) -> str:
        """One of the last messages."""
        return self._random.choice(self.recent)

    def sent(self, event_id: str) -> None:
        """A message can be referred to from now on."""
        self.recent.append(event_id)
        if len(self.recent) > 200:
            del self.recent[:100]

    def txn_id(self) -> str:
        """A transaction id of the length that clients choose."""
        return f"m{self._random.randrange(10**12, 10**13)}.{self._random.randrange(10**4)}"
