"""`make fuzz`: thousands of damaged pages and archives through the segment stage's own code.

None may crash it, hold it for more than two seconds, or be lost from its counts. Cases run in a
process of their own, so that even a fault inside a parser is one line that names the case:

    python tests/fuzz/corpus_fuzz.py --cases 10000
    python tests/fuzz/corpus_fuzz.py --only page:4711 --write bad.html
"""

import argparse
import dataclasses
import faulthandler
import multiprocessing
import pathlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from corpus_mutations import Case, archive_case, page_case, sound_pages

from beam_pipelines.segment_extract import extract_part
from humpback_jax.corpus.filters import SegmentFilters, select_page
from humpback_jax.corpus.html import PageError
from humpback_jax.corpus.page import Page
from humpback_jax.corpus.reading import Part, ReadConfig
from humpback_jax.corpus.warc import read_pages
from humpback_jax.records import Source

SECONDS = 2.0  # of CPU, for a page
_HUNG = 60.0
CORPUS = pathlib.Path(__file__).resolve().parents[2].parent / "shared" / "data" / "corpus"
FILTERS = SegmentFilters(min_length=50, language="")
# Those of Common Crawl's shape are too long to be read thousands of times.
_MAX_ARCHIVE = 300_000


@dataclasses.dataclass(frozen=True)
class Material:
    """What damage is done to: sound pages, and archives beside those made from them."""

    pages: Sequence[bytes]
    archives: Sequence[bytes]

    def case(self, target: str, number: int) -> Case:
        """Returns the case of a target, "page" or "archive", and a number."""
        if target == "page":
            return page_case(number, self.pages)
        return archive_case(number, self.pages, self.archives)


def load_material() -> Material:
    """Returns the microworld's pages, and real pages and archives where they are present."""
    pages, archives = sound_pages(), []
    if CORPUS.exists():
        real = [p for p in read_pages(CORPUS / "documentation.warc.gz") if isinstance(p, Page)]
        pages += [page.payload for page in real if len(page.payload) < 40_000][:100]
        files = sorted(path for path in CORPUS.rglob("*.warc*") if path.is_file())
        archives = [f.read_bytes() for f in files if f.stat().st_size < _MAX_ARCHIVE]
    return Material(pages, archives)


def check_page(case: Case) -> None:
    """Raises AssertionError, or whatever the code raises, if a page is not taken as it should."""
    source = Source("fuzz", 0, str(case.number))
    page = Page(source, "http://site.example/", "text/html", "", 200, "", case.content)
    try:
        nodes, (kept, rejected, _) = select_page(page, FILTERS)
    except PageError:
        return
    assert len(kept) + len(rejected) == len(nodes), "a header was lost"
    for node in nodes:
        assert node.length == len(node.text()), f"the length of header {node.ordinal} is wrong"
    for segment in kept:
        segment.text.encode()


def check_archive(case: Case, folder: pathlib.Path) -> int:
    """Does the same for an archive; returns how many pages were read."""
    path = folder / "fuzz.warc.gz"
    path.write_bytes(case.content)
    found = extract_part(Part((str(path),)), ReadConfig(), FILTERS)
    found.counts.check(f"segments of archive {case.number}")
    found.page_counts.check(f"pages of archive {case.number}")
    assert found.page_counts.errors == 0, f"errors: {found.page_rejects}"
    return found.page_counts.records_in


def run_cases(
    material: Material, cases: Sequence[tuple[str, int]], folder: pathlib.Path
) -> Iterator[tuple[str, int, str, float, str]]:
    """Yields (target, number, kind, seconds, failure or "") of each case."""
    for target, number in cases:
        case = material.case(target, number)
        start, pages, failure = time.process_time(), 1, ""
        try:
            if target == "page":
                check_page(case)
            else:
                pages = max(1, check_archive(case, folder))
        except Exception as error:  # whatever it is, the case is to be named
            failure = f"{type(error).__name__}: {error}"
        seconds = (time.process_time() - start) / pages
        if not failure and seconds > SECONDS:
            failure = f"took {seconds:.1f} s a page"
        yield target, number, case.kind, seconds, failure


def _work(cases, pipe) -> None:
    faulthandler.enable()
    material = load_material()
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            pipe.send(("begun", *case))
            for result in run_cases(material, [case], pathlib.Path(folder)):
                pipe.send(result)
    pipe.send(None)


def _supervised(cases: Sequence[tuple[str, int]]) -> Iterator[tuple[str, int, str, float, str]]:
    """Yields the results of cases, going on in another process after one that ends it."""
    context = multiprocessing.get_context("spawn")
    while cases:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(cases, theirs))
        process.start()
        theirs.close()
        begun, failure = 0, "the process died"
        try:
            while True:
                if not ours.poll(_HUNG):
                    failure = f"no answer for {_HUNG:.0f} s"
                    break
                message = ours.recv()
                if message is None:
                    return
                if message[0] == "begun":
                    begun += 1
                else:
                    yield message
        except EOFError:
            pass
        process.kill()
        process.join()
        assert begun, "the worker did not start"
        target, number = cases[begun - 1]
        yield target, number, "", _HUNG, failure
        cases = cases[begun:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000, help="half pages, half archives")
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", default="", metavar="page:N|archive:N", help="one case")
    parser.add_argument("--write", default="", metavar="FILE", help="write the one case there")
    options = parser.parse_args()
    if options.only:
        target, _, number = options.only.partition(":")
        cases = [(target, int(number))]
        if options.write:
            case = load_material().case(target, int(number))
            pathlib.Path(options.write).write_bytes(case.content)
    else:
        numbers = range(options.start, options.start + options.cases // 2)
        cases = [(target, number) for number in numbers for target in ("page", "archive")]
    kinds: Counter[str] = Counter()
    slowest: dict[str, tuple[float, int]] = {}
    failures = 0
    for target, number, kind, seconds, failure in _supervised(cases):
        name = f"{target} {kind}"
        kinds[name] += 1
        slowest[name] = max(slowest.get(name, (0.0, 0)), (seconds, number))
        if failure:
            failures += 1
            print(f"{target}:{number} ({kind}): {failure}", flush=True)
    print("| kind | cases | slowest, CPU s a page | its number |\n|---|---|---|---|")
    for name in sorted(kinds):
        print(f"| {name} | {kinds[name]} | {slowest[name][0]:.3f} | {slowest[name][1]} |")
    print(f"{sum(kinds.values())} cases, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
