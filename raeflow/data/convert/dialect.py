"""How a table of text is written: its encoding, what divides its values, its header."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from raeflow.data.convert.parquet import Options
from raeflow.data.files import ARROW_ERRORS, Piece, reason
from raeflow.errors import RaeflowError

_HEAD = 1 << 20
"""Bytes of a file from which its dialect is told."""
_RECORDS = 200
_SIGNS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_NUMBER = re.compile(r"\s*[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?\s*")


@dataclass(frozen=True)
class Dialect:
    """One file, and how it is read."""

    piece: Piece
    encoding: str
    sign: str
    """What divides values."""
    decimal: str
    """`.` or `,`."""
    header: bool
    raw: tuple[str, ...]
    """Names of columns as the file has them."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names without the blanks around them."""
        return tuple(name.strip() for name in self.raw)

    @property
    def unusual(self) -> str:
        """What of it is worth a word."""
        told = [f"values divided by {_SIGNS[self.sign]}"] if self.sign != "," else []
        told += ["decimal commas"] if self.decimal == "," else []
        told += [f"encoded as {self.encoding}"] if self.encoding != "utf-8" else []
        told += [] if self.header else [f"no header; columns are called {self.raw[0]} to {self.raw[-1]}"]
        return ", ".join(told)

    def not_text(self, what: str) -> RaeflowError:
        """Bytes that are no text in this encoding."""
        return RaeflowError(f"{self.piece.uri}: not text in {self.encoding} ({what}); name its encoding, as in --encoding latin-1")


@contextmanager
def opened(piece: Piece) -> Iterator[Any]:
    """The bytes of a file from its start, unpacked if its name says that they are packed."""
    with piece.filesystem.open_input_stream(piece.path, compression="detect", buffer_size=1 << 20) as stream:
        yield stream


def sniff(piece: Piece, options: Options) -> Dialect:
    """The dialect of a file, from its first bytes; refuses an empty file and names that are missing or given twice."""
    try:
        with opened(piece) as stream:
            head = stream.read(_HEAD)
            cut = len(head) == _HEAD
    except ARROW_ERRORS as error:
        raise RaeflowError(f"{piece.uri}: cannot be read ({reason(error)})") from error
    encoding = options.encoding or ("utf-16" if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8")
    text = _text(piece, head, encoding, cut)
    if not text.strip():
        raise RaeflowError(f"{piece.uri}: the file is empty")
    if "\0" in text:
        raise RaeflowError(f"{piece.uri}: holds bytes that are no text; is it a table of text at all?")
    sign = _sign(text, piece.path.lower(), cut)
    records = _records(text, sign, cut)
    header = options.header is not False
    raw = tuple(records[0]) if header else tuple(f"f{n}" for n in range(len(records[0])))
    if header:
        _check(piece, raw, options)
    return Dialect(piece, encoding, sign, _decimal(records[1:] if header else records, sign), header, raw)


def _text(piece: Piece, head: bytes, encoding: str, cut: bool) -> str:
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head, final=not cut)
    except LookupError as error:
        raise RaeflowError(f"--encoding {encoding}: there is no such encoding") from error
    except UnicodeDecodeError as error:
        raise RaeflowError(
            f"{piece.uri}: not text in {encoding} (byte {error.start}: {error.reason}); name its encoding, as in --encoding latin-1"
        ) from error
    return text.removeprefix("\ufeff")


def _records(text: str, sign: str, cut: bool) -> list[list[str]]:
    """The first records, whole ones; empty lines are none."""
    found: list[list[str]] = []
    try:
        for record in csv.reader(io.StringIO(text, newline=""), delimiter=sign):
            if record:
                found.append(record)
            if len(found) > _RECORDS:
                break
    except csv.Error:  # a field beyond Python's limit: what came before must do
        return found
    return found[:-1] if len(found) > 1 and (cut or len(found) > _RECORDS) else found


def _sign(text: str, path: str, cut: bool) -> str:
    """The sign that divides most records into as many values as the header has, and that into the most."""
    best, score = ",", (0.0, 0)
    signs = ("\t", ",", ";", "|") if re.search(r"\.(tsv|tab)(\.\w+)?$", path) else tuple(_SIGNS)
    for sign in signs:
        records = _records(text, sign, cut)
        width = len(records[0]) if records else 0
        if width > 1:
            share = sum(len(record) == width for record in records) / len(records)
            if (share, width) > score:
                best, score = sign, (share, width)
    return best


def _decimal(records: list[list[str]], sign: str) -> str:
    """A comma where numbers have one and none has a point."""
    if sign == ",":
        return "."
    cells = [cell for record in records for cell in record if _NUMBER.fullmatch(cell)]
    return "," if any("," in cell for cell in cells) and not any("." in cell for cell in cells) else "."


def _check(piece: Piece, raw: tuple[str, ...], options: Options) -> None:
    names = [name.strip() for name in raw]
    if options.header is None and all(_NUMBER.fullmatch(name) for name in names):
        raise RaeflowError(
            f"{piece.uri}: the first line holds numbers ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}); "
            "say --header if they are names of columns, --no-header if they are a row"
        )
    for at, name in enumerate(names):
        if not name:
            raise RaeflowError(f"{piece.uri}: column {at + 1} of {len(names)} has no name in the header")
        if name in names[:at]:
            raise RaeflowError(
                f"{piece.uri}: columns {names.index(name) + 1} and {at + 1} are both named {name!r}; "
                "--no-header says that the first line is a row"
            )


def ragged(dialect: Dialect, row: int | None, found: int, expected: int) -> RaeflowError:
    """The refusal of a row with another number of values than the header; looks for its line in the file."""
    place, hint, last = f"row {row}", "", 0
    try:
        with opened(dialect.piece) as stream, io.TextIOWrapper(stream, dialect.encoding, newline="") as lines:
            reader = csv.reader(lines, delimiter=dialect.sign)
            for record in reader:
                if record and len(record) != expected:
                    place, found = f"line {last + 1}", len(record)
                    hint = " (is a quote never closed?)" if reader.line_num > last + 1 else ""
                    break
                last = reader.line_num
    except (*ARROW_ERRORS, ValueError, csv.Error):
        pass  # the row's number is what is left to say
    values = f"{found} value{'s' if found != 1 else ''}"
    return RaeflowError(f"{dialect.piece.uri}, {place}: {values} where the first line has {expected}{hint}")


def refuse_open_quote(dialect: Dialect) -> None:
    """Refuse a file whose last value, of several lines, does not end with a quote: one that was opened swallowed the rest."""
    tail = b""
    with opened(dialect.piece) as stream:
        while block := stream.read(_HEAD):
            tail = (tail + block)[-_HEAD:]
    if not tail.decode(dialect.encoding, errors="ignore").rstrip().endswith('"'):
        raise RaeflowError(f"{dialect.piece.uri}: a quote is opened and never closed before the end of the file")
