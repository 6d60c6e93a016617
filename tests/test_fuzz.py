"""A short form of tests/fuzz: whole files are read, and damaged ones are read or refused."""

from __future__ import annotations

import warnings
from random import Random

import pytest
from fuzz.damage import damaged
from fuzz.readers import READERS

from relaydet import weights
from relaydet.errors import RelayError

FILES = 40


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused_in_a_sentence(name, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "unsafe_pickles", weights.unsafe_pickles)  # put back at the end
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seeds, read = READERS[name](tmp_path)
        for seed in seeds:
            read(seed)
        random = Random(name)
        for _ in range(FILES):
            try:
                read(damaged(seeds, random))
            except RelayError as error:
                told = str(error)
                assert "\n" not in told, told
