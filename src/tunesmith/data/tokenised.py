"""One source as shards in the cache: found there, or made; what an earlier, killed run made is kept.

source + content hash + tokenizer + template + options + code  ->  tokens/KEY/  shard-00000 .. shard-00074, manifest

The manifest is written last: without it an entry is unfinished, and whoever comes next goes on with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.data import cache
from tunesmith.data.books import Books, Complaint
from tunesmith.data.gather import Opened
from tunesmith.data.ledger import SourceAccount
from tunesmith.data.pieces import PIECE_BYTES, Piece, count_rows, pieces_of, workers_wanted
from tunesmith.data.refused import bad_row
from tunesmith.data.shards import Shard, remove
from tunesmith.data.splits import Split
from tunesmith.data.template import ChatTemplate
from tunesmith.data.work import SPELT, Maker, Wanted
from tunesmith.data.workers import Job, Task, Words, work
from tunesmith.errors import Problem
from tunesmith.events import Reporter
from tunesmith.recipe import Source

_FORMAT = 1
Watch = Callable[[list[int]], None]


@dataclass(frozen=True, slots=True)
class Tokenised:
    """A finished source. `rows_in` counts rows that were not read too."""

    source: Source
    use: Split
    key: str
    folder: Path
    shards: tuple[Shard, ...]
    format: str | None
    not_read: int

    @property
    def rows(self) -> int:
        """Rows that are kept, before any is held out."""
        return sum(shard.rows for shard in self.shards)

    @property
    def rows_read(self) -> int:
        """Rows that were looked at."""
        return sum(shard.books.rows_in for shard in self.shards)

    @property
    def is_text(self) -> bool:
        """Whether rows are documents that stand in an order."""
        return self.format == "text"

    def account(self) -> SourceAccount:
        """The books of all shards together."""
        account = SourceAccount(self.source.path, self.format, self.use)
        account.arrive(self.rows_read + self.not_read)
        for shard in self.shards:
            account.fates.update(shard.books.fates)
            account.reasons.update(shard.books.reasons)
        if self.not_read:
            account.settle("not_read", rows=self.not_read)
        return account

    def discard(self) -> None:
        """Take the entry out of the cache: what it holds is not what its key says."""
        (self.folder / "manifest.json").unlink(missing_ok=True)
        for shard in self.shards:
            remove(self.folder, shard.number)

    def complaints(self, kinds: set[str]) -> tuple[list[Problem], int]:
        """(the first complaints of these kinds with their addresses, how many there are)."""
        told, count = [], 0
        for shard in self.shards:
            count += sum(shard.books.complaint_counts[kind] for kind in kinds)
            told += [
                problem_of(shard.books, shard.first_line, each)
                for each in shard.books.complaints
                if each.kind in kinds
            ]
        return told[:SPELT], count


def problem_of(books: Books, first_line: int, complaint: Complaint) -> Problem:
    """A row that cannot be used, for the user."""
    where = f"{books.name}:{first_line + complaint.line}"
    if complaint.kind == "labels":
        return Problem(where, complaint.detail, "set data.template: plain, and please report this template")
    return bad_row(where, complaint.reason, complaint.detail)


@dataclass(frozen=True, slots=True)
class BadRows:
    """Rows that mean nothing: the first of them, and how many there are."""

    problems: list[Problem]
    count: int


@dataclass(frozen=True, slots=True)
class Kitchen:
    """What all sources of a recipe are tokenised with."""

    words: Words
    tokenizer: str
    """Its digest."""
    template: ChatTemplate
    wanted: Wanted
    reporter: Reporter
    workers: int | None = None
    watch: Watch = lambda pids: None

    def key(self, opened: Opened, content: str, limit: int | None) -> str:
        """Of everything that decides the shards."""
        source = opened.source
        return cache.key_of(
            {
                "layout": _FORMAT,
                "code": cache.code_version(),
                "content": content,
                "path": source.path,
                "format": opened.format,
                "columns": dict(sorted(source.columns.items())),
                "split": source.split,
                "tags": None if source.tags is None else source.tags.model_dump(mode="json"),
                "limit": limit,
                "piece": PIECE_BYTES,
                "objective": self.wanted.objective,
                "max_length": self.wanted.max_length,
                "overlength": self.wanted.overlength,
                "template": self.template.source,
                "stops": sorted(self.template.stop_ids),
                "special": dict(self.words.special_tokens_map),
                "tokenizer": self.tokenizer,
            }
        )

    def tokenise(
        self, opened: Opened, use: Split, content: str, limit: int | None, strict: bool
    ) -> Tokenised | BadRows:
        """A source from the cache, or made now; where `strict`, its bad rows instead, if there are any."""
        key = self.key(opened, content, limit)
        folder = cache.folder_of("tokens", key)
        if (found := self._open(opened, use, key, folder)) is None:
            name = opened.source.path

            def waiting() -> None:
                self.reporter.progress(f"waiting for another run that tokenises {name}", 0, None)

            with cache.locked(folder, waiting):
                found = self._open(opened, use, key, folder)
                if found is None:
                    bad = self._make(opened, folder, limit, strict)
                    if bad is not None:
                        return bad
                    found = self._open(opened, use, key, folder)
                    assert found is not None
        cache.mark_used(folder)
        lease = cache.Lease(folder)
        for shard in found.shards:
            shard.lease = lease
        return found

    def _open(self, opened: Opened, use: Split, key: str, folder: Path) -> Tokenised | None:
        """The finished entry with all its shards whole; None where something is missing."""
        manifest = cache.read_document(folder / "manifest.json")
        if manifest is None:
            return None
        shards, line = [], _Lines()
        for number, (document, by_bytes) in enumerate(zip(manifest["shards"], manifest["by_bytes"])):
            shard = Shard(folder, number, document)
            shard.first_line = line.first(shard.books, by_bytes)
            if not shard.is_whole():
                remove(folder, number)
                (folder / "manifest.json").unlink(missing_ok=True)
                return None
            shards.append(shard)
        return Tokenised(
            opened.source, use, key, folder, tuple(shards), manifest["format"], manifest["not_read"]
        )

    def _make(self, opened: Opened, folder: Path, limit: int | None, strict: bool) -> BadRows | None:
        """Make the shards that are missing and the manifest, or return the bad rows of a strict reading.

        What follows the first bad row is only looked through: the tokens of a file that will be changed are of
        no use.
        """
        source = opened.source
        books: dict[int, tuple[Books, bool]] = {}
        done = _Progress(self.reporter, source)
        job: list[Job] = ["make"]
        todo = self._missing(source, folder, limit, books, done)
        for piece, found in self._work(opened, folder, todo, lambda: job[-1], done, strict):
            books[piece.number] = found, piece.rows is None
            if strict and found.complaint_counts["bad"]:
                job.append("scan")
        if job[-1] == "scan":
            return _bad_rows([books[number] for number in sorted(books)])
        shards = [Shard.find(folder, number) for number in range(len(books))]
        read = sum(book.rows_in for book, _ in books.values())
        formats = (book.format for book, _ in books.values() if book.format is not None)
        about = {
            "what": source.path,
            "rows": read,
            "tokens": sum(book.kept_tokens for book, _ in books.values()),
        }
        manifest: dict[str, Any] = {
            "about": about,
            "format": opened.format or next(formats, None),
            "not_read": 0 if limit is None else count_rows(source) - read,
            "by_bytes": [books[number][1] for number in range(len(books))],
            "shards": [shard.document for shard in shards if shard is not None],
        }
        assert len(manifest["shards"]) == len(books)
        cache.write_document(folder / "manifest.json", manifest)
        return None

    def maker(self, opened: Opened) -> Maker:
        """Makes shards here, in this process."""
        return Maker(opened, self.wanted, self.template, self.words.bos_token_id)

    def _processes(self, opened: Opened, done: _Progress) -> int:
        """How many processes work on a source. A format that no row has told yet is learnt on the way, here."""
        if opened.format is None:
            return 0
        return workers_wanted(done.size) if self.workers is None else self.workers

    def _missing(
        self,
        source: Source,
        folder: Path,
        limit: int | None,
        books: dict[int, tuple[Books, bool]],
        done: _Progress,
    ) -> Iterator[Piece]:
        """The pieces whose shards are not there yet, or not whole."""
        for piece in pieces_of(source, limit, None):
            there = Shard.find(folder, piece.number)
            if there is None:
                yield piece
            else:
                books[piece.number] = there.books, piece.rows is None
                done.add(piece.end - piece.start)

    def _work(
        self,
        opened: Opened,
        folder: Path,
        pieces: Iterator[Piece],
        job: Callable[[], Job],
        done: _Progress,
        strict: bool,
    ) -> Iterator[tuple[Piece, Books]]:
        wanted = self._processes(opened, done)
        if wanted == 0 or opened.format is None:
            maker = self.maker(opened)
            for piece in pieces:
                told = done.within(piece)
                books = maker.scan(piece) if job() == "scan" else maker.make(piece, folder, told, strict)
                done.add(piece.end - piece.start)
                yield piece, books
            return
        task = Task(opened.source, opened.format, self.wanted, self.words, self.template.choice, folder)
        for piece, books in work(task, pieces, wanted, job, self.watch):
            done.add(piece.end - piece.start)
            yield piece, books


class _Lines:
    """Where in its file a shard begins: pieces read by their bytes count lines from 0."""

    def __init__(self) -> None:
        self._name, self._lines = "", 0

    def first(self, books: Books, by_bytes: bool) -> int:
        """The line before the first of this shard; shards are asked for in order."""
        if books.name != self._name:
            self._name, self._lines = books.name, 0
        first = self._lines if by_bytes else 0
        self._lines += books.lines
        return first


def _bad_rows(read: list[tuple[Books, bool]]) -> BadRows:
    """What was found in the pieces of a source, in order, with its addresses."""
    lines = _Lines()
    told: list[Problem] = []
    for books, by_bytes in read:
        first = lines.first(books, by_bytes)
        told += [problem_of(books, first, each) for each in books.complaints if each.kind == "bad"]
    return BadRows(told[:SPELT], sum(books.complaint_counts["bad"] for books, _ in read))


class _Progress:
    """How much of a source is done, by bytes."""

    def __init__(self, reporter: Reporter, source: Source) -> None:
        from tunesmith.data.files import files_of

        self._reporter, self._what = reporter, f"tokenising {source.path}"
        self.size = sum(file.path.stat().st_size for file in files_of(source.path))
        self._done = 0

    def add(self, size: int) -> None:
        """A piece is done."""
        self._done += size
        self._reporter.progress(self._what, min(self._done, self.size), self.size)

    def within(self, piece: Piece) -> Callable[[int], None]:
        """Hears how far a piece has come."""
        return lambda end: self._reporter.progress(
            self._what, min(self._done + end - piece.start, self.size), self.size
        )
