"""The near-duplicate pass of benchmarks/curation: the same by one process and by two, and equal to
what the functions find without files."""

import numpy as np
import pyarrow as pa

from benchmarks.curation.corpus import Corpus, made_up_texts, write_corpus
from benchmarks.curation.passes import JACCARD, Pass, candidates, decide, sign_all, verified
from engine.backends.spread import spread_for
from engine.curation.minhash import band_keys
from engine.curation.near_duplicates import candidate_pairs, jaccards, twins, united
from engine.curation.shingles import shingles_of

ROWS = 25_000


def test_files_by_one_and_by_two_processes_are_the_functions(tmp_path):
    corpus = Corpus(made_up_texts(2000, seed=3))
    found = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        write_corpus(corpus, ROWS, folder / "texts")
        with spread_for(workers, 20) as spread:
            over = Pass(folder, spread)
            counts = sign_all(over)
            pairs = candidates(over)
            similar = verified(over, pairs, counts)
        found.append((pairs, similar, decide(pairs, similar)))
    shingles = shingles_of(pa.array(corpus.first(ROWS)))
    rank = np.arange(ROWS)
    wanted = united(candidate_pairs(keys, rank) for keys in band_keys(shingles).T)
    exact = jaccards(wanted, shingles)
    for pairs, similar, outcome in found:
        assert np.array_equal(pairs, wanted)
        assert np.array_equal(similar, exact)
        assert outcome.twins == len(twins(wanted, exact, rank, JACCARD).rows) > 1000
        assert outcome.twins <= outcome.beside_components
