"""What people read, in their language: a look-up in the compiled catalogue that lies beside this file.

English texts are the keys, so an English reader needs no catalogue. Babel compiles the catalogue before a release
(``pybabel compile --domain tillstream --directory wire/locale``); at run time the standard library reads it.
"""

from __future__ import annotations

import gettext
from functools import cache
from pathlib import Path
from typing import Literal

from .reasons import Reason

DOMAIN = "tillstream"
LOCALE_DIR = Path(__file__).parent / "locale"

Language = Literal["en", "ru"]


@cache
def _catalogue(language: Language) -> gettext.NullTranslations:
    """Return a language's catalogue; without one, texts stay English: a till must not stop for want of a word."""
    return gettext.translation(DOMAIN, LOCALE_DIR, [language], fallback=True)


def translate(text: str, language: Language) -> str:
    """Return a text in a language, the English one if it has no translation."""
    return _catalogue(language).gettext(text)


def tell(reason: Reason, language: Language) -> tuple[str, str]:
    """Return what a reason means and what to do next, for people."""
    kind = reason.kind
    title = translate(kind.title, language).format(detail=reason.detail or "-").removesuffix(": -")
    return title, translate(kind.next_step, language)
