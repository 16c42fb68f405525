"""How numbers and texts are written on the page."""

import math

MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def count(value: float | None) -> str:
    """Returns a whole number with a thin space between thousands: 41821 -> "41 821"."""
    if value is None:
        return MISSING
    return f"{value:,.0f}".replace(",", "\u202f").replace("-", MINUS)


def percent(share: float | None, digits: int = 1) -> str:
    """Returns a share as "58.7 %", MISSING if there is none."""
    return MISSING if share is None else f"{100 * share:.{digits}f}\u202f%"


def points(share: float | None) -> str:
    """Returns a difference of shares in percentage points with its sign: 0.466 -> "+46.6"."""
    return MISSING if share is None else f"{100 * share:+.1f}".replace("-", MINUS)


def decimal(value: float | None, digits: int = 2) -> str:
    """Returns a number with so many decimals."""
    if value is None or math.isnan(value):
        return MISSING
    return f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 2) -> str:
    """Returns a number with its sign."""
    if value is None or math.isnan(value):
        return MISSING
    text = f"{value:+.{digits}f}"
    return (text if float(text) else text[1:]).replace("-", MINUS)


def short(value: float) -> str:
    """Returns a number in few characters, for axes and rates: 0.0005 -> "5e-4"."""
    if value and (abs(value) < 0.01 or abs(value) >= 1e6):
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", MINUS)
    return f"{value:,.4g}".replace(",", "\u202f").replace("-", MINUS)


def large(value: float | None) -> str:
    """Returns a number to three digits with its unit: 851968 -> "852 K"."""
    if value is None:
        return MISSING
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= limit:
            return f"{value / limit:.3g}\u202f{unit}"
    return f"{value:.0f}"


def duration(seconds: float | None) -> str:
    """Returns seconds as "0.8 s", "42 s", "3 min 5 s" or "2 h 7 min"."""
    if seconds is None:
        return MISSING
    if seconds < 9.95:
        return f"{seconds:.1f}\u202fs"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}\u202fs"
    if whole < 3600:
        return f"{whole // 60}\u202fmin {whole % 60}\u202fs"
    return f"{count(whole // 3600)}\u202fh {whole % 3600 // 60}\u202fmin"


def split_text(text: str, limit: int = 320) -> tuple[str, str]:
    """Returns (beginning, rest) of a text, cut at white space; the rest is "" if it is short.

    The two put together are the text, so that a page can show the beginning and open the rest.
    """
    if len(text) <= limit * 5 // 4:
        return text, ""
    cut = max(text.rfind(" ", 0, limit), text.rfind("\n", 0, limit))
    cut = cut if cut > limit // 2 else limit
    return text[:cut], text[cut:]


FILTERS = {
    "count": count,
    "percent": percent,
    "points": points,
    "decimal": decimal,
    "signed": signed,
    "short": short,
    "large": large,
    "duration": duration,
}
