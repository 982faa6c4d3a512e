"""A disk that fills up in the middle of a run: a clear error, nothing lost, nothing left behind that keeps it full."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from conftest import Lab

MODEL = """
@forebay.model(materialization_strategy="REPLACE")
def noise():
    import os
    return pa.table({{"x": [os.urandom(1000) for _ in range({rows})]}})
"""


@pytest.fixture
def small(lab: Lab) -> Iterator[Lab]:
    """A lab whose lake has room for six megabytes."""
    lab.lake.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(lab.lake)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    yield lab
    lab.forebay("daemon", "stop")
    subprocess.run(["umount", "--lazy", str(lab.lake)], check=True)


def test_a_full_disk(small: Lab) -> None:
    small.run(small.project(MODEL.format(rows=20))).ok()
    before = small.head()
    failed = small.run(small.project(MODEL.format(rows=20_000))).failed(3)
    assert "No space left" in failed.err and failed.json["error"]["code"].startswith("LAK"), str(failed)
    assert small.head() == before
    assert small.rows("SELECT count(*) AS n FROM noise") == [{"n": 20}]
    small.run(small.project(MODEL.format(rows=30))).ok()
    assert small.rows("SELECT count(*) AS n FROM noise") == [{"n": 30}]
