"""The peer's side of `make bench-corpus`: warcio and trafilatura, in a venv of their own."""

import importlib.metadata
import json
import pathlib
import sys

import paired
import trafilatura
from warcio.archiveiterator import ArchiveIterator


def extract(file: str) -> dict:
    pages = characters = 0
    with open(file, "rb") as stream:
        for record in ArchiveIterator(stream):
            if record.rec_type == "response":
                pages += 1
                text = trafilatura.extract(record.content_stream().read())
                characters += len(text or "")
    return {"pages": pages, "characters": characters}


def content(job: dict) -> dict:
    payloads = [pathlib.Path(file).read_bytes() for file in job["files"]]
    return {"texts": [trafilatura.extract(payload) or "" for payload in payloads]}


def main() -> None:
    file = json.loads(sys.argv[1])["file"]
    actions = {"extract": lambda job: extract(file), "content": content}
    versions = {name: importlib.metadata.version(name) for name in ("warcio", "trafilatura")}
    paired.serve({"versions": versions}, paired.timed(actions))


if __name__ == "__main__":
    main()
