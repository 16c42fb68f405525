"""Pages that are not wanted: a list of domains and URLs."""

import functools
import hashlib
import urllib.parse
from collections.abc import Iterable

from etils import epath

from humpback_jax.errors import UserError


class Blocklist:
    """Domains, which stand for their subdomains too, and single URLs.

    An entry with a path is a URL, any other a domain:

        example.com                    blocks example.com, www.example.com, http://a.example.com/x
        http://other.org/page?id=1     blocks that page, by http or https, with or without "www."

    Args:
      lines: an entry each; empty lines and those that begin with # are left out.
    """

    def __init__(self, lines: Iterable[str]):
        self._domains: set[str] = set()
        self._urls: set[tuple[str, str]] = set()
        for line in map(str.strip, lines):
            if not line or line.startswith("#"):
                continue
            host, rest = _parts(line if "//" in line else f"//{line}")
            if not host:
                raise ValueError(f"'{line}' is no domain and no URL")
            if rest:
                self._urls.add((host, rest))
            else:
                self._domains.add(host)

    @property
    def digest(self) -> str:
        """16 hex digits: equal entries, equal digits."""
        entries = repr((sorted(self._domains), sorted(self._urls)))
        return hashlib.sha256(entries.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def __contains__(self, url: str) -> bool:
        host, rest = _parts(url)
        if rest and (host, rest) in self._urls:
            return True
        while host and host not in self._domains:
            host = host.partition(".")[2]
        return bool(host)


def _parts(url: str) -> tuple[str, str]:
    """Returns host and path with query, without what does not tell pages apart."""
    try:
        split = urllib.parse.urlsplit(url)
        host = (split.hostname or "").rstrip(".").removeprefix("www.")
    except ValueError:
        return "", ""
    rest = split.path.rstrip("/") + (f"?{split.query}" if split.query else "")
    return host, rest


@functools.lru_cache(maxsize=2)
def load_blocklist(files: tuple[str, ...]) -> Blocklist:
    """Returns the list of all files together, read once in a process.

    Raises:
      UserError: a file cannot be read or has a line that is no entry.
    """
    lines: list[str] = []
    for file in files:
        try:
            text = epath.Path(file).read_bytes().decode("utf-8-sig")
            Blocklist(text.splitlines())
        except (OSError, ValueError) as error:
            raise UserError(
                f"the blocklist {file} cannot be read ({error}): give a domain or a URL a line"
            ) from error
        lines += text.splitlines()
    return Blocklist(lines)
