"""What people read on the pages, in their language: the catalogues that lie beside this file, and those of ``wire``.

English texts are the keys. Each part of the console keeps its catalogue in a file of its own (``console.po``, …), so
that two parts can grow without touching the same file; all of them are looked through. Babel compiles them:
``pybabel compile --domain console --directory central/console/locale``.
"""

from __future__ import annotations

import gettext
from collections.abc import Callable
from functools import cache
from pathlib import Path

from wire.translation import Language, translate

LOCALE_DIR = Path(__file__).parent / "locale"
LANGUAGES: tuple[Language, ...] = ("ru", "en")
Speak = Callable[[str], str]


def say(text: str) -> str:
    """Mark a text that is translated where it is shown; it stays as it is here."""
    return text


def speaker(language: Language) -> Speak:
    """Return what turns English texts into a language."""
    return _speaker(language)


@cache
def _speaker(language: Language) -> Speak:
    chain = gettext.NullTranslations()
    for path in sorted((LOCALE_DIR / language / "LC_MESSAGES").glob("*.mo")):
        with path.open("rb") as file:
            chain.add_fallback(gettext.GNUTranslations(file))

    def speak(text: str) -> str:
        if not text:
            return ""  # A catalogue's own head stands under the empty text.
        return found if (found := chain.gettext(text)) != text else translate(text, language)

    return speak


ROLE_NAMES = (say("viewer"), say("operator"), say("administrator"))
"""The roles of ``central.rights`` as people read them."""
