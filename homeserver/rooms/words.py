"""Text as words that can be looked up: the one tokenizer of all searching.

Owns what a word is. Letters, digits and marks of any script make words, which are compared without
case and in one form for what Unicode writes in several. Where a script has no spaces (Chinese,
Japanese, Korean syllables, Thai) every two neighbours are a word, so that any two characters that
stand together are found. Words are written in ASCII letters and digits only: no database's own
idea of a word matters, and a prefix of a word is a prefix of what is written.
"""

import re
from collections.abc import Iterator
from unicodedata import category, normalize

_MOST_WORDS = 500
_LONGEST = 40
_MOST_TEXT = 20_000
_UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x3040, 0x30FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7AF),
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
)
_PLAIN = re.compile(r"[a-z0-9]+")


def written(text: str) -> list[str]:
    """The words to keep of a text, each once, at most 500."""
    if text.isascii():
        plain = _PLAIN.findall(text[:_MOST_TEXT].lower())
        return list(dict.fromkeys("w" + word[:_LONGEST] for word in plain))[:_MOST_WORDS]
    found: dict[str, None] = {}
    for run, unspaced in _runs(text[:_MOST_TEXT]):
        if unspaced:
            # The last character stands for itself, so that each is the beginning of a word.
            found.update(dict.fromkeys(_encoded(run[at : at + 2]) for at in range(len(run))))
        else:
            found[_encoded(run[:_LONGEST])] = None
        if len(found) >= _MOST_WORDS:
            break
    return list(found)[:_MOST_WORDS]


def asked(text: str) -> list[str]:
    """The beginnings of words that all must occur in what is looked for, at most 30."""
    found: dict[str, None] = {}
    for run, unspaced in _runs(text[:_MOST_TEXT]):
        if unspaced and len(run) > 1:
            found.update(dict.fromkeys(_encoded(run[at : at + 2]) for at in range(len(run) - 1)))
        else:
            found[_encoded(run[:_LONGEST])] = None
    return list(found)[:30]


def is_character(word: str) -> bool:
    """Whether a word that is asked for is one character of a script without spaces.

    Most words that have it are two characters, which it begins.
    """
    if not word.startswith("x"):
        return False
    text = bytes.fromhex(word[1:]).decode()
    return len(text) == 1 and _is_unspaced(text)


def shown(text: str) -> list[str]:
    """The words of a query as people read them, for highlighting."""
    return list(dict.fromkeys(run for run, _ in _runs(text[:_MOST_TEXT])))[:30]


def folded(text: str) -> str:
    """Text for comparison: without case, and one form for what Unicode writes in several."""
    if text.isascii():
        return text.lower()
    return normalize("NFKC", normalize("NFKC", text).casefold())


def _runs(text: str) -> Iterator[tuple[str, bool]]:
    """Stretches of one kind, and whether that is of a script without spaces."""
    run, kind = "", False
    for character in folded(text):
        if not (character.isalnum() or category(character)[0] == "M"):
            if run:
                yield run, kind
            run = ""
            continue
        unspaced = _is_unspaced(character)
        if run and unspaced != kind:
            yield run, kind
            run = ""
        run, kind = run + character, unspaced
    if run:
        yield run, kind


def _is_unspaced(character: str) -> bool:
    code = ord(character)
    return code >= 0x0E00 and any(first <= code <= last for first, last in _UNSPACED)


def _encoded(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return "w" + word
    return "x" + word.encode().hex()
