"""Settings in environment variables."""

from __future__ import annotations

import pytest
from conftest import Lab

WRONG = {"FOREBAY_DAEMON_IDLE_SECONDS": "soon", "FOREBAY_WARM_MAX": "lots", "FOREBAY_ENVIRONMENTS_MAX": "-5G"}


@pytest.mark.parametrize("name", WRONG)
def test_a_setting_that_makes_no_sense(lab: Lab, name: str) -> None:
    """It is told by whatever would start the background process, and by what makes environments itself; nothing is started."""
    lab.environment[name] = WRONG[name]
    for command in (["daemon", "start"], ["table", "ls"], ["env", "ls"]):
        failed = lab.forebay(*command).failed(2)
        assert all(word in failed.err for word in ("CTL0023", name, WRONG[name])), failed.err
    lab.environment[name] = ""
    assert "not running" in lab.forebay("daemon", "status").out
    lab.forebay("table", "ls").ok()
