"""Numbers and names as they stand in a sentence."""

from __future__ import annotations

__all__ = ["count_text", "with_article"]


def count_text(count: int, singular: str, plural: str = "") -> str:
    """Return a number with its noun, in the plural where it is not one.

    >>> count_text(1, "run"), count_text(1200, "run"), count_text(0, "entry", "entries")
    ('1 run', '1,200 runs', '0 entries')
    """
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def with_article(name: str) -> str:
    """Return a type's name with its article.

    >>> with_article("int"), with_article("dict"), with_article("UUID"), with_article("MRO")
    ('an int', 'a dict', 'a UUID', 'an MRO')
    """
    if name[:2].isupper():  # an abbreviation is read letter by letter
        return f"{'an' if name[0] in 'AEFHILMNORSX' else 'a'} {name}"
    is_vowel = name[:1].lower() in "aeiou" and not name.lower().startswith(("uni", "use", "uuid", "eu"))
    return f"{'an' if is_vowel else 'a'} {name}"
