"""Web pages of the shape that is common on the web, made up from a seed, in a WARC file.

A page is an article, a list of cards, a shop or a forum thread: a head with meta elements, styles
and scripts, a menu, an icon here and there, long class lists, the content, cards of further
articles, a footer, comments in the markup, data as JSON at the end. `shape` measures how much of it
is text and how many tags it has, for comparison with real pages.
"""

import gzip
import json
import random
from collections.abc import Callable, Iterator

from selectolax.lexbor import LexborHTMLParser

_WORDS = (
    "the of and to in is that for it as was with be by on not he this are at from but have an "
    "had they which one you were her all their there been if more when will would who so no "
    "said what up its about into than them can only other new some could time these two may "
    "then do first any my now such like our over man me even most made after also did many "
    "before must through back years where much your way well down should because each just "
    "those people how too little state good very make world still own see men work long get "
    "here between both life being under never day same another know while last might us great "
    "old year off come since against go came right used take three bread flour water oven dough "
    "yeast salt stone river bridge garden winter summer window letter teacher student market "
    "engine valley forest weather harvest kitchen table village mountain coast harbour railway "
    "station printer paper colour music question answer"
)
_CLASSES = (
    "container row col flex grid wrapper inner outer item card media content title link button "
    "icon text-sm text-lg font-bold mt-4 mb-2 px-6 py-3 rounded shadow hover:underline md:w-1/2 "
    "lg:flex is-active has-image js-track widget block__element block__element--modifier "
    "css-1x2y3z sc-abc"
)
WORDS, CLASSES = _WORDS.split(), _CLASSES.split()
SCRIPT = (
    "!function(e,t){var n=t.createElement('script');n.async=!0;n.src=e.base+'/v2/tag.js?id='+e.id;"
    "for(var r=0;r<e.queue.length;r++){if(e.queue[r]&&e.queue[r].type==='event'){n.dataset[r]="
    "JSON.stringify(e.queue[r])}}var o=t.getElementsByTagName('script')[0];o.parentNode."
    "insertBefore(n,o);window.layer=window.layer||[];window.layer.push({'<div>':'</div>'})}"
    "(window.config,document);"
)
ICON = '<path d="M12 2C6.48 2 2 6.48 2 12s4.48 10 10 10 10-4.48 10-10S17.52 2 12 2zm0 18"></path>'


class Page:
    """One page in the making."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.number = seed

    def page(self) -> str:
        """Returns the HTML of the page."""
        kinds: list[Callable[[], str]] = [self.article, self.listing, self.shop, self.thread]
        content = self.random.choices(kinds, weights=(5, 3, 2, 2))[0]()
        return (
            f'<!DOCTYPE html>\n<html lang="en" class="{self.classes(2)}">\n{self.head()}'
            f'<body class="{self.classes(6)}">\n<!-- Google Tag Manager (noscript) -->\n<noscript>'
            f'<iframe src="https://tags.example/ns.html?id={self.number}" height="0" width="0" '
            f'style="display:none;visibility:hidden"></iframe></noscript>\n{self.menu()}'
            f'<main id="content" class="{self.classes(4)}">\n{content}</main>\n'
            f"{self.cards(self.random.randint(4, 16))}{self.footer()}{self.cookies()}{self.data()}"
            "</body>\n</html>\n"
        )

    def words(self, count: int) -> str:
        return " ".join(self.random.choices(WORDS, k=count))

    def title(self) -> str:
        return self.words(self.random.randint(3, 8)).capitalize()

    def sentence(self) -> str:
        return self.words(self.random.randint(6, 22)).capitalize() + "."

    def classes(self, most: int) -> str:
        return " ".join(self.random.choices(CLASSES, k=self.random.randint(1, most)))

    def url(self) -> str:
        return "/" + self.words(self.random.randint(2, 6)).replace(" ", "-") + f"?id={self.number}"

    def link(self, text: str) -> str:
        return f'<a href="{self.url()}" class="{self.classes(3)}">{text}</a>'

    def icon(self) -> str:
        return (
            f'<svg class="{self.classes(2)}" aria-hidden="true" width="24" height="24" '
            f'viewBox="0 0 24 24">{ICON * self.random.randint(1, 3)}</svg>'
        )

    def picture(self) -> str:
        sizes = ", ".join(
            f"https://img.example/{self.number}/{w}.webp {w}w" for w in (320, 640, 960)
        )
        return (
            f'<picture><source srcset="{sizes}" type="image/webp"><img class="{self.classes(3)}" '
            f'src="https://img.example/{self.number}.jpg" loading="lazy" alt="{self.title()}" '
            f'width="640" height="360" data-srcset="{sizes}"></picture>'
        )

    def script(self, size: int) -> str:
        code = SCRIPT * (1 + size // len(SCRIPT))
        return f"<script>window.config={{id:{self.random.random()}}};{code[:size]}</script>\n"

    def head(self) -> str:
        metas = "".join(
            f'<meta property="og:{name}" content="{self.sentence()}">\n'
            for name in ("title", "description", "image", "url", "type", "site_name", "locale")
        )
        links = "".join(
            f'<link rel="preload" href="https://cdn.example/{self.random.random()}" as="font">\n'
            for _ in range(self.random.randint(3, 20))
        )
        rules = "".join(
            f".{self.random.choice(CLASSES)}>.{name}{{display:flex;margin:0 {i}px;color:#1a2b3c}}"
            for i, name in enumerate(self.random.choices(CLASSES, k=self.random.randint(100, 500)))
        )
        scripts = "".join(
            self.script(self.random.randint(300, 8000)) for _ in range(self.random.randint(3, 8))
        )
        about = {"@type": "Article", "headline": self.title(), "articleBody": self.words(60)}
        return (
            f'<head>\n<meta charset="utf-8">\n<title>{self.title()}</title>\n{metas}{links}'
            f'<style>{rules}</style>\n{scripts}<script type="application/ld+json">'
            f"{json.dumps(about)}</script>\n</head>\n"
        )

    def menu(self) -> str:
        groups = []
        for _ in range(self.random.randint(5, 12)):
            entries = "".join(
                f'<li class="{self.classes(3)}" role="none">{self.link(self.words(2))}</li>\n'
                for _ in range(self.random.randint(4, 20))
            )
            groups.append(
                f'<li class="{self.classes(4)}"><button type="button" aria-expanded="false">'
                f'{self.words(1)}{self.icon()}</button><ul class="{self.classes(3)}">{entries}</ul>'
                "</li>"
            )
        return (
            f'<header class="{self.classes(4)}"><a href="/" class="logo">{self.icon()}</a>\n'
            f'<nav aria-label="Main"><ul class="{self.classes(3)}">{"".join(groups)}</ul></nav>\n'
            f'<form role="search" action="/search"><input type="text" name="q">{self.icon()}</form>'
            "</header>\n"
        )

    def paragraph(self) -> str:
        parts = []
        for _ in range(self.random.randint(2, 6)):
            sentence = self.sentence()
            match self.random.randrange(8):
                case 0:
                    sentence = f"{self.link(self.words(2))} {sentence}"
                case 1:
                    sentence = f"<strong>{self.words(2)}</strong> {sentence}"
                case 2:
                    sentence = f"<em>“{sentence}”</em> \u2013 {self.words(3)}."
            parts.append(sentence)
        return f"<p>{' '.join(parts)}</p>\n"

    def section(self) -> str:
        parts = [f'<h2 id="{self.random.random()}">{self.title()}</h2>\n']
        parts += [self.paragraph() for _ in range(self.random.randint(2, 6))]
        match self.random.randrange(6):
            case 0:
                items = "".join(f"<li>{self.sentence()}</li>\n" for _ in range(5))
                parts.append(f"<ul>\n{items}</ul>\n")
            case 1:
                parts.append(
                    f"<figure>{self.picture()}<figcaption>{self.title()}</figcaption></figure>\n"
                )
            case 2:
                parts.append(
                    f'<div class="ad {self.classes(3)}" data-slot="{self.number}" data-sizes="[300'
                    f',250]" style="min-height:250px">{self.script(400)}</div>\n'
                )
        return "".join(parts)

    def article(self) -> str:
        sections = "".join(self.section() for _ in range(self.random.choice((1, 2, 3, 4, 5, 12))))
        crumbs = "".join(f"<li>{self.link(self.words(1))}</li>" for _ in range(3))
        return (
            f'<ol class="breadcrumbs {self.classes(2)}">{crumbs}</ol>\n<article class="'
            f'{self.classes(4)}"><header><h1 class="{self.classes(3)}">{self.title()}</h1>\n'
            f'<div class="{self.classes(3)}"><span>By {self.link(self.words(2))}</span> '
            f'<time>12 May</time></div></header>\n{self.picture()}\n<div class="body">'
            f"{self.paragraph()}{sections}</div></article>\n"
        )

    def listing(self) -> str:
        return f"<h1>{self.title()}</h1>\n{self.cards(self.random.randint(12, 40))}"

    def shop(self) -> str:
        rows = "".join(
            f"<tr><th>{self.words(2)}</th><td>{self.words(4)}</td></tr>\n" for _ in range(12)
        )
        return (
            f'<div class="{self.classes(5)}"><h1>{self.title()}</h1>\n{self.picture() * 4}'
            f'<span class="price">12.00</span><select><option>1<option>2</select>\n'
            f"<h2>Details</h2>\n{self.paragraph() * 2}<table>{rows}</table></div>\n"
        )

    def thread(self) -> str:
        posts = "".join(
            f'<div class="post {self.classes(4)}" id="p{i}" data-author="{self.words(1)}">'
            f'<div class="{self.classes(3)}">{self.picture()}{self.link(self.words(1))}</div>'
            f'<div class="message">{self.paragraph()}</div><div class="{self.classes(3)}">'
            f'<button class="{self.classes(3)}">{self.icon()}</button></div></div>\n'
            for i in range(self.random.randint(5, 30))
        )
        return f"<h1>{self.title()}</h1>\n{posts}"

    def cards(self, count: int) -> str:
        tag = self.random.choice(("h3", "div", "div"))
        cards = "".join(
            f'<div class="{self.classes(5)}" data-id="{self.random.random()}" data-track="card">'
            f'<div class="{self.classes(4)}"><a href="{self.url()}" class="{self.classes(3)}" '
            f'tabindex="-1" aria-hidden="true">{self.picture()}</a></div>\n<div class="'
            f'{self.classes(4)}"><span class="{self.classes(2)}">{self.words(1)}</span>'
            f'<{tag} class="{self.classes(3)}">{self.link(self.title())}</{tag}>'
            f"<p>{self.sentence()}</p></div></div>\n"
            for _ in range(count)
        )
        return f'<section class="{self.classes(3)}"><h2>More like this</h2>{cards}</section>\n'

    def footer(self) -> str:
        columns = "".join(
            f'<div class="{self.classes(3)}"><h4>{self.words(1)}</h4><ul>'
            + "".join(f"<li>{self.link(self.words(2))}</li>" for _ in range(12))
            + "</ul></div>\n"
            for _ in range(5)
        )
        return f'<footer class="{self.classes(4)}">{columns}<p>© 2024 Made up</p></footer>\n'

    def cookies(self) -> str:
        return (
            f'<div id="cookies" class="{self.classes(3)}" style="display: none"><h2>We value your '
            f"privacy</h2><p>{self.sentence() * 4}</p><button>Accept</button></div>\n"
        )

    def data(self) -> str:
        state = [{"id": self.random.random(), "title": self.title(), "url": self.url()}]
        state *= self.random.randint(20, 300)
        return (
            f'<script id="state" type="application/json">{json.dumps(state)}</script>\n'
            f"{self.script(self.random.randint(2000, 30000))}"
        )


def pages(count: int, seed: int = 0) -> Iterator[str]:
    """Yields as many pages, the same ones for the same seed."""
    for number in range(count):
        yield Page(seed * 1_000_003 + number).page()


def record(url: str, html: str) -> bytes:
    """Returns a page as a gzip member of a WARC file."""
    body = html.encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nServer: made-up\r\n\r\n"
    block = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <{url}>\r\nWARC-Target-URI: {url}\r\n"
        f"Content-Length: {len(head) + len(body)}\r\n\r\n"
    )
    return gzip.compress(block.encode() + head + body + b"\r\n\r\n", 6)


def shape(htmls: list[str]) -> dict[str, float]:
    """Returns bytes of a page, its share of text, and tags in 1,000 bytes, over all pages."""
    size = sum(len(html.encode()) for html in htmls)
    text = tags = headers = 0
    for html in htmls:
        tree = LexborHTMLParser(html)
        tree.strip_tags(["script", "style", "noscript", "template"])
        body = tree.body
        text += len(" ".join(body.text().split()).encode()) if body else 0
        headers += len(tree.css("h1,h2,h3,h4,h5,h6"))
        tags += (tree.html or "").count("<")
    return {
        "bytes": size / len(htmls),
        "text": text / size,
        "tags": 1000 * tags / size,
        "headers": headers / len(htmls),
    }
