"""Our side of `make bench-corpus`: answers each job of benchmarks/corpus.py."""

import json
import pathlib
import resource
import sys
from collections.abc import Iterator

import paired
from selectolax.lexbor import LexborHTMLParser

from beam_pipelines.segment_extract import extract_part
from humpback_jax.corpus.filters import SegmentFilters
from humpback_jax.corpus.html import PageError, decode
from humpback_jax.corpus.page import MAX_PAGE_BYTES, Page
from humpback_jax.corpus.reading import Part, ReadConfig
from humpback_jax.corpus.segments import HeaderNode, page_headers
from humpback_jax.corpus.warc import read_pages
from humpback_jax.records import Source


def pages(file: str) -> list[Page]:
    return [item for item in read_pages(file) if isinstance(item, Page)]


def bare(texts: list[str]) -> dict:
    for text in texts:
        LexborHTMLParser(text)
    return {"pages": len(texts)}


def read(file: str) -> dict:
    return {"pages": sum(isinstance(item, Page) for item in read_pages(file))}


def segment(file: str) -> dict:
    return {"headers": sum(len(nodes) for _, nodes in pages_with_headers(file))}


def stage(file: str) -> dict:
    found = extract_part(Part((file,)), ReadConfig(), SegmentFilters())
    return {"segments": len(found.segments)}


def pages_with_headers(file: str) -> Iterator[tuple[Page, list[HeaderNode]]]:
    for item in read_pages(file):
        if isinstance(item, Page):
            try:
                yield item, page_headers(item, MAX_PAGE_BYTES)
            except PageError:
                continue


def memory(_: dict) -> dict:
    """Returns the most memory this process has held, in MiB."""
    return {"mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def content(job: dict) -> dict:
    """Returns the headers and texts of HTML files, one text for each."""
    texts = []
    for file in job["files"]:
        payload = pathlib.Path(file).read_bytes()
        page = Page(Source(file, 0, ""), "", "text/html", "", 0, "", payload)
        roots = [node for node in page_headers(page, MAX_PAGE_BYTES) if node.parent is None]
        texts.append("\n".join(f"{node.header}\n{node.text()}" for node in roots))
    return {"texts": texts}


def main() -> None:
    file = json.loads(sys.argv[1])["file"]
    actions = {
        "read": lambda job: read(file),
        "segment": lambda job: segment(file),
        "stage": lambda job: stage(file),
        "memory": memory,
        "content": content,
    }
    ready = {}
    if not json.loads(sys.argv[1]).get("memory"):
        texts = [decode(page.payload, page.charset) for page in pages(file)] if file else []
        actions["bare"] = lambda job: bare(texts)
        ready = {"pages": len(texts), "bytes": sum(len(text.encode()) for text in texts)}
    paired.serve(ready, paired.timed(actions))


if __name__ == "__main__":
    main()
