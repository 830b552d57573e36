"""Many texts made of some: copies with words edited, and new texts of two with half of the words
replaced. Who is whose near duplicate is not known from how it was made: exact_join.py says it."""

from __future__ import annotations

import itertools
import random
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SEED = 20
ROWS_PER_FILE = 10_000
ORIGINALS = 6  # every so many rows a text is as it was, while they last
COPIES = 0.2  # of the other rows
EDITED = (0.0, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3)  # share of a copy's words
SENTENCE = re.compile(r"(?<=[.!?\n])\s+")


def made_up_texts(count: int, seed: int) -> list[str]:
    """Sentences of made-up words that are as unevenly common as a language's, 20 to some hundred
    words a text."""
    draw = random.Random(seed)
    syllables = [first + last for first in "bcdfghklmnprstvwz" for last in "aeiou"]
    vocabulary = list(dict.fromkeys(_word(draw, syllables) for _ in range(20_000)))
    common = list(itertools.accumulate(1 / (place + 3) for place in range(len(vocabulary))))
    texts = []
    for _ in range(count):
        left = int(draw.lognormvariate(4.2, 0.6)) + 5
        sentences = []
        while left > 0:
            said = draw.choices(vocabulary, cum_weights=common, k=min(left, draw.randint(4, 25)))
            left -= len(said)
            sentences.append(" ".join(said).capitalize() + ".")
        texts.append(" ".join(sentences))
    return texts


def _word(draw: random.Random, syllables: list[str]) -> str:
    return "".join(draw.choices(syllables, k=draw.choice((1, 2, 2, 3, 3, 4))))


class Corpus:
    """As many rows as are asked for, of the same texts: file by file, each by its own seed."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts
        draw = random.Random(SEED)
        some = draw.sample(texts, min(2000, len(texts)))
        self._vocabulary = [word for text in some for word in text.split()]

    def rows(self, file: int, count: int) -> list[str]:
        """The texts of a file."""
        draw = random.Random(f"{SEED}/{file}")
        first = file * ROWS_PER_FILE
        return [self._row(row, draw) for row in range(first, first + count)]

    def first(self, count: int) -> list[str]:
        """The texts of as many files as have so many rows."""
        texts: list[str] = []
        for file, first in enumerate(range(0, count, ROWS_PER_FILE)):
            texts += self.rows(file, min(ROWS_PER_FILE, count - first))
        return texts

    def _row(self, row: int, draw: random.Random) -> str:
        number, is_other = divmod(row, ORIGINALS)
        if not is_other and number < len(self._texts):
            return self._texts[number]
        text = draw.choice(self._texts)
        if draw.random() < COPIES:
            return self._edited(text, draw.choice(EDITED), draw)
        sentences = SENTENCE.split(text) + SENTENCE.split(draw.choice(self._texts))
        draw.shuffle(sentences)
        mixture = " ".join(sentences[: max(2, len(sentences) // 2)])
        return self._edited(mixture, 0.5, draw)

    def _edited(self, text: str, share: float, draw: random.Random) -> str:
        """Each edit takes a word out, or puts another in its place or behind it."""
        words = text.split(" ")
        for place in draw.choices(range(len(words)), k=round(share * len(words))):
            other = draw.choice(self._vocabulary)
            words[place] = draw.choice(("", other, f"{words[place]} {other}"))
        return " ".join(words)


def write_corpus(corpus: Corpus, rows: int, folder: Path) -> list[Path]:
    """`rows` texts as Parquet files of 10,000; those that are there are not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for file, first in enumerate(range(0, rows, ROWS_PER_FILE)):
        path = folder / f"{file:05d}.parquet"
        if not path.exists():
            texts = corpus.rows(file, min(ROWS_PER_FILE, rows - first))
            pq.write_table(pa.table({"text": texts}), path, compression="zstd")
        paths.append(path)
    return paths
