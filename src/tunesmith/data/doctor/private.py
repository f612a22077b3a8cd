"""Personal data: telephone numbers, Chinese identity numbers, e-mail addresses, bank cards; found and masked.

"call 13812345678"  ->  Mark "13812345678", shown as 138****5678, masked as [PHONE]
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterator

from tunesmith.data.doctor.pieces import Mark, Piece

# ASCII: a Chinese character is a \w too, and stands without a space before and behind what is looked for.
_EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}(?![\w-])", re.ASCII
)
_ID = re.compile(r"(?<![0-9A-Za-z.,])[1-9]\d{5}(?:19|20)\d{9}[0-9Xx](?![0-9A-Za-z])")
_CARD = re.compile(
    r"(?<![0-9A-Za-z.,-])(?<!\d )(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{4,5})"
    r"(?![0-9A-Za-z])(?![.,-]\d| \d)"
)
# Issuers: 4 Visa, 51-55 and 2221-2720 Mastercard, 34/37 Amex, 35 JCB, 6011/65 Discover, 62 UnionPay (ISO/IEC 7812).
_ISSUER = re.compile(
    r"4|5[1-5]|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)|3[47]|35(?:2[89]|[3-8])|6011|65|62"
)
_PHONE = re.compile(
    r"(?<![\w.,+-])(?:\+?86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?![\w-]|[.,]\d)"  # a Chinese mobile
    r"|(?<![\w.,+-])0[1-9]\d{1,2}-[2-8]\d{6,7}(?![\w-]|[.,]\d)"  # a Chinese landline with its area code
    r"|(?<![\w.,+-])\+\d{1,3}[ .-]?\(?\d{1,4}\)?(?:[ .-]?\d{2,4}){2,4}(?![\w-]|[.,]\d)"  # E.164
    r"|(?<![\w.,+-])(?:\+?1[ -.])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[-.])[2-9]\d\d[-.]\d{4}(?![\w-]|[.,]\d)",  # NANP
    re.ASCII,
)
# Reserved for examples: RFC 2606 domains, 555-01xx numbers.
_INVENTED = re.compile(
    r"@(?:[\w-]+\.)*(?:example|test|domain|email|yourdomain|mail)\.\w+$|555-?01\d\d$"
    r"|\.(?:example|test|invalid)$",
    re.IGNORECASE,
)
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def is_identity_number(text: str) -> bool:
    """GB 11643-1999: eighteen places, a real date of birth, and the right check digit (ISO 7064, MOD 11-2)."""
    if not re.fullmatch(r"[1-9]\d{16}[0-9Xx]", text):
        return False
    try:
        born = datetime.date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    digit = "10X98765432"[sum(w * int(c) for w, c in zip(_WEIGHTS, text)) % 11]
    return 1900 <= born.year <= 2100 and text[17].upper() == digit


def is_card_number(text: str) -> bool:
    """A bank card by the length of its issuer and its check digit (Luhn, ISO/IEC 7812-1)."""
    digits = [int(c) for c in text if c.isdigit()]
    spelt = "".join(map(str, digits))
    if not 13 <= len(digits) <= 19 or not _ISSUER.match(spelt) or len(set(digits)) < 4:
        return False
    doubled = (d if i % 2 == 0 else (2 * d - 9 if d > 4 else 2 * d) for i, d in enumerate(reversed(digits)))
    return sum(doubled) % 10 == 0


def _is_phone(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return 8 <= len(digits) <= 15 and len(set(digits[-8:])) > 2


# In this order: an identity number would be a card or a telephone number to those that come after it.
_KINDS: tuple[tuple[str, str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("an e-mail address", "[EMAIL]", _EMAIL, lambda text: True),
    ("an identity number", "[ID]", _ID, is_identity_number),
    ("a bank card number", "[CARD]", _CARD, is_card_number),
    ("a telephone number", "[PHONE]", _PHONE, _is_phone),
)
_MAY_HOLD = re.compile(r"@|\d[\d ()+.-]{6}")


def personal(piece: Piece) -> Iterator[Mark]:
    """Every piece of personal data, each stretch once; what is shown of it is masked."""
    if not _MAY_HOLD.search(piece.text):
        return
    taken: list[tuple[int, int]] = []
    for name, mask, pattern, holds in _KINDS:
        for found in pattern.finditer(piece.text):
            start, end = found.span()
            free = all(end <= a or start >= b for a, b in taken)
            if free and not _INVENTED.search(found.group()) and holds(found.group()):
                taken.append((start, end))
                yield Mark(start, end, f"holds {name}, {shown(found.group())}", mask)


def shown(text: str) -> str:
    """As much of it as tells which one is meant, and no more: 138****5678, l***@x.org."""
    name, at, domain = text.partition("@")
    if at:
        return f"{name[:1]}***@{domain}"
    return f"{text[:3]}{'*' * max(4, len(text) - 7)}{text[-4:]}"
