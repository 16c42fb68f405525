"""Corpus speed, memory and content against bare parsing and a peer: `make bench-corpus`.

On one core, in turns: (a) lexbor parsing the pages' text and nothing else, which is the ceiling,
(b) reading the WARC, decoding, parsing and cutting into segments, (c) the whole stage with its
filters, (d) warcio and trafilatura, in a process of their own. Figures are medians over the turns.
Two archives: one of documentation pages (an argument) and one of pages made up by corpus_pages.

Content is judged on the pages of tests/data/pages: F1 of the words against what was written down by
hand. `--memory` measures the peak of a worker on files made to fill it. Ends with a line of JSON.
"""

import argparse
import collections
import gzip
import json
import os
import pathlib
import re
import statistics
import sys
import tempfile

import corpus_pages
import paired

ROOT = paired.HERE.parent
PAGES = ROOT / "tests" / "data" / "pages"
DOCUMENTATION = ROOT.parent / "shared" / "data" / "corpus" / "documentation.warc.gz"
WEB_PAGES = 250
STEPS = {"read": "read", "segment": "read to segments", "stage": "whole stage"}


def speed(name: str, file: str, peer_python: str, turns: int) -> dict:
    """Returns the ratios of an archive's steps to bare parsing, and to the peer."""
    ours = paired.Side(sys.executable, "corpus_ours.py", {"file": file})
    peer = paired.Side(peer_python, "corpus_peer.py", {"file": file})
    jobs = {step: (ours, {"do": step}) for step in ("bare", *STEPS)}
    jobs["peer"] = (peer, {"do": "extract"})
    paired.take_turns({step: jobs[step] for step in jobs if step != "peer"}, 1)
    answers = paired.take_turns(jobs, turns)
    megabytes = ours.ready["bytes"] / 1e6
    ours.close()
    peer.close()
    row = {"archive": name, "pages": ours.ready["pages"], "megabytes": megabytes}
    row |= {step: megabytes / paired.median_seconds(answers[step]) for step in answers}
    row["of bare"] = {step: paired.paired_ratio(answers[step], answers["bare"]) for step in STEPS}
    row["of peer"] = paired.paired_ratio(answers["segment"], answers["peer"])
    row["of peer, whole stage"] = paired.paired_ratio(answers["stage"], answers["peer"])
    row["versions"] = peer.ready["versions"]
    return row


def words(text: str) -> collections.Counter[str]:
    return collections.Counter(re.findall(r"\w+", text.casefold()))


def f1(expected: str, found: str) -> float:
    """Returns the harmonic mean of precision and recall of the words that were found."""
    a, b = words(expected), words(found)
    shared = (a & b).total()
    return 2 * shared / (a.total() + b.total()) if shared else 0.0


def main_content(page: dict) -> str:
    """Returns what a reader takes for the content of a page of tests/data/pages."""
    kept = [page["segments"][index] for index in page["main"]]
    text = "\n".join(f"{segment['path'][-1]}\n{segment['text']}" for segment in kept)
    for part in page["without"]:
        text = text.replace(part, "", 1)
    return f"{page['also']}\n{text}"


def content(peer_python: str) -> dict:
    """Returns the mean F1 of both sides over the pages with hand-made expectations."""
    files = sorted(str(path) for path in PAGES.glob("*.html"))
    expected = [
        main_content(json.loads(pathlib.Path(f).with_suffix(".json").read_text())) for f in files
    ]
    scores = {}
    for name, python, script in (
        ("ours", sys.executable, "corpus_ours.py"),
        ("trafilatura", peer_python, "corpus_peer.py"),
    ):
        side = paired.Side(python, script, {"file": ""})
        texts = side.turn({"do": "content", "files": files})["texts"]
        side.close()
        scores[name] = [f1(a, b) for a, b in zip(expected, texts, strict=True)]
    better = sum(a >= b for a, b in zip(scores["ours"], scores["trafilatura"], strict=True))
    return {
        "pages": len(files),
        "ours": statistics.mean(scores["ours"]),
        "trafilatura": statistics.mean(scores["trafilatura"]),
        "ours at least as good": better,
        "each": {pathlib.Path(f).stem: s for f, *s in zip(files, *scores.values(), strict=True)},
    }


def write_web_archive(path: pathlib.Path, count: int) -> dict[str, float]:
    htmls = list(corpus_pages.pages(count))
    with path.open("wb") as out:
        for number, html in enumerate(htmls):
            out.write(corpus_pages.record(f"https://made.up/{number}", html))
    return corpus_pages.shape(htmls)


def heavy_files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Writes the files that could fill a worker's memory."""
    files = {}
    files["2 GB of pages"] = folder / "large.warc.gz"
    htmls = list(corpus_pages.pages(200))
    members = b"".join(corpus_pages.record(f"https://made.up/{i}", h) for i, h in enumerate(htmls))
    size = sum(len(html.encode()) for html in htmls)
    with files["2 GB of pages"].open("wb") as out:
        for _ in range(-(-2_000_000_000 // size)):
            out.write(members)
    files["a page at the limit"] = folder / "limit.warc.gz"
    sentence = "A dough \u2013 of flour, water and salt \u2013 rises by itself in a night. "
    block = f"<p class='a b'>Of <a href='x'>bread</a>: {sentence * 3}</p>\n"
    html = "<h1>Bread</h1>" + block * (8_380_000 // len(block.encode()))
    files["a page at the limit"].write_bytes(corpus_pages.record("https://made.up/", html))
    files["a header of 16 MB"] = folder / "header.warc.gz"
    ids = " ".join(map(str, range(2_000_000)))
    head = f"WARC/1.1\r\nWARC-Type: response\r\nVDOM-Primary: {ids}\r\nContent-Length: 10\r\n\r\n"
    files["a header of 16 MB"].write_bytes(gzip.compress(head.encode() + b"<h1>A</h1>\r\n\r\n"))
    files["a gzip bomb of 4 GB"] = folder / "bomb.warc.gz"
    length = 4 << 30
    head = f"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: {length}\r\n\r\n<h1>A</h1>"
    with gzip.open(files["a gzip bomb of 4 GB"], "wb", 1) as out:
        out.write(head.encode())
        for _ in range(length >> 20):
            out.write(bytes(1 << 20))
    return files


def memory() -> dict[str, float]:
    """Returns the peak memory in MiB of the whole stage on each heavy file."""
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, file in {"nothing": "", **heavy_files(pathlib.Path(folder))}.items():
            side = paired.Side(
                sys.executable, "corpus_ours.py", {"file": str(file), "memory": True}
            )
            if file:
                side.turn({"do": "stage"})
            peaks[name] = side.turn({"do": "memory"})["mib"]
            side.close()
    return peaks


def report(rows: list[dict], quality: dict, peaks: dict[str, float], shape: dict) -> None:
    of_bare = "of bare: read / segments / stage"
    columns = {
        "archive": lambda r: f"{r['archive']}, {r['pages']} pages, {r['megabytes']:.0f} MB",
        "bare parsing, MB/s": lambda r: f"{r['bare']:.0f}",
        "read to segments": lambda r: f"{r['segment']:.0f}",
        "whole stage": lambda r: f"{r['stage']:.0f}",
        "warcio + trafilatura": lambda r: f"{r['peer']:.2f}",
        of_bare: lambda r: " / ".join(f"{r['of bare'][s]:.2f}" for s in STEPS),
        "of the peer: segments / stage": lambda r: (
            f"{r['of peer']:.0f} / {r['of peer, whole stage']:.0f}"
        ),
    }
    print("\n" + paired.table(rows, columns))
    print(
        f"\nmade-up pages: {shape['bytes'] / 1000:.0f} KB, {shape['text']:.1%} text, "
        f"{shape['tags']:.1f} tags in 1,000 bytes, {shape['headers']:.0f} headers"
        f"\nwords' F1 over {quality['pages']} pages: ours {quality['ours']:.3f}, trafilatura "
        f"{quality['trafilatura']:.3f}; ours at least as good on {quality['ours at least as good']}"
    )
    for name, peak in peaks.items():
        print(f"peak memory, {name}: {peak:.0f} MiB")
    print(json.dumps({"bench": "corpus", "rows": rows, "content": quality, "memory": peaks}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documentation", default=str(DOCUMENTATION))
    parser.add_argument("--peer_python", default=".venv-corpus/bin/python")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        web = pathlib.Path(folder) / "web.warc.gz"
        shape = write_web_archive(web, WEB_PAGES)
        archives = {"made-up web": str(web)}
        if pathlib.Path(arguments.documentation).exists():
            archives["documentation"] = arguments.documentation
        else:
            print(f"{arguments.documentation} is absent: give --documentation, a WARC file")
        rows = [
            speed(name, file, arguments.peer_python, arguments.turns)
            for name, file in archives.items()
        ]
    peaks = memory() if arguments.memory else {}
    report(rows, content(arguments.peer_python), peaks, shape)


if __name__ == "__main__":
    main()
