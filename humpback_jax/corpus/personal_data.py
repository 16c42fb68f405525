"""Personal data in a text: e-mail addresses, phone numbers, postal addresses.

Patterns cannot know whose an address is; they look for the form. Places that stand for no person
(user@example.com, +1 555 0100) are passed over. docs/corpus.md has their precision.
"""

import re

_EMAIL = re.compile(
    r"(?<![\w.+-])([\w.+-]{1,64})(?:@|\s?\[at\]\s?|\s?\(at\)\s?)((?:[a-z0-9-]{1,63}\.)+([a-z]{2,24}))"
    r"(?![\w-])",
    re.IGNORECASE,
)
# Names of RFC 2606, and hosts of which user@host is no mailbox.
_NO_DOMAINS = ("example.com", "example.org", "example.net", "domain.com", "domain.tld")
_NO_ENDINGS = frozenset(("example", "test", "invalid", "localhost", "local", "internal"))
_NO_ENDINGS_OF_FILES = frozenset(("png", "jpg", "jpeg", "gif", "svg", "webp", "js", "css", "html"))
_NO_USERS = frozenset(("git", "user", "username", "root", "hg", "svn"))

# International numbers, and those of North America in their usual forms.
_PHONE = re.compile(
    r"(?<![\w.+/-])(?:"
    r"\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}"
    r"|(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[.-])[2-9]\d\d[.-]\d{4}"
    r")(?![\w/-]|\.\d)"
)
_FICTION = re.compile(r"555.?01\d\d$")

_STREETS = (
    *("street", "st", "avenue", "ave", "road", "rd", "boulevard", "blvd", "lane", "ln", "drive"),
    *("dr", "court", "ct", "square", "sq", "highway", "hwy", "parkway", "pkwy", "terrace"),
)
_ADDRESS = re.compile(
    r"(?<![\w.,-])\d{1,5}[A-Za-z]?,? (?:(?:N|S|E|W|NE|NW|SE|SW|North|South|East|West)\.? )?"
    r"(?:[A-Z][a-z'\u2019-]+ |\d{1,3}(?:st|nd|rd|th) ){1,3}"
    rf"(?:{'|'.join(name.title() for name in _STREETS)})\b\.?"
    r"(?=,|\n| ?\(|\.?$|\.\s|,? (?:Suite|Ste|Apt|Unit|Floor|#))"
    r"|\b[A-Z][A-Za-z .'-]{1,40}, [A-Z]{2} \d{5}(?:-\d{4})?\b"
    r"|\b[A-Z]{1,2}\d[A-Z\d]? \d[ABD-HJLNP-UW-Z]{2}\b"
    r"|\bP\.? ?O\.? Box \d+",
)


def has_email(text: str) -> bool:
    """Returns whether an e-mail address stands in the text, written out or as "name [at] host"."""
    if "@" not in text and "at]" not in text and "at)" not in text:
        return False
    return any(map(_is_mailbox, _EMAIL.finditer(text)))


def _is_mailbox(found: re.Match) -> bool:
    user, domain, ending = (part.lower() for part in found.groups())
    if ending in _NO_ENDINGS or ending in _NO_ENDINGS_OF_FILES or user in _NO_USERS:
        return False
    return not any(domain == name or domain.endswith("." + name) for name in _NO_DOMAINS)


def has_phone(text: str) -> bool:
    """Returns whether a phone number stands in the text: international or North American."""
    return any(_is_phone(found[0]) for found in _PHONE.finditer(text))


def _is_phone(number: str) -> bool:
    digits = sum(map(str.isdigit, number))
    least = 9 if number.startswith("+") else 10
    return least <= digits <= 15 and not _FICTION.search(number)


def has_address(text: str) -> bool:
    """Returns whether a postal address stands in the text.

    That is a street with its number, a US city with its ZIP code, a British postcode or a
    post-office box.
    """
    return _ADDRESS.search(text) is not None


# In the order in which they are looked for.
DETECTORS = {"email": has_email, "phone": has_phone, "address": has_address}
