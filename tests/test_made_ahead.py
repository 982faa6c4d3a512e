"""Environments that are made before it is known that they are wanted, and the range of interpreters."""

from __future__ import annotations

import pytest
import wheels
from conftest import Lab
from test_environments import TELL, private, pythons, told

def test_the_index_has_the_last_word_over_what_is_made_ahead(lab: Lab) -> None:
    """While it is asked, what it said before is made; a newer version that it tells of is what is used."""
    private(lab)
    lab.environment["UV_CACHE_DIR"] = str(lab.folder / "uv-cache")
    files = lab.folder / "files"
    files.mkdir()
    wheels.wheel(files, "fbt_one", {"fbt_one.py": "WORD = 1"})
    wheels.wheel(files, "fbt_two", {"fbt_two.py": "WORD = 2"})
    with wheels.Index(files, "ann", "s3cret-word") as port:
        lab.environment["UV_INDEX"] = f"http://ann:s3cret-word@127.0.0.1:{port}/simple"
        have = []
        # All that is wanted is in uv's cache from the second on; at the last the index knows more than the cache.
        for one in ("", ">=0.5", ">=0.6", ">=0.7"):
            if one == ">=0.7":
                wheels.wheel(files, "fbt_one", {"fbt_one.py": "WORD = 3"}, version="2.0")
            packages = f'{{"numpy": "", "fbt_one": "{one}", "fbt_two": ""}}'
            lab.run(lab.project({"models.py": TELL.format(decorator=f"@forebay.python(pip={packages})")})).ok()
            have.append(told(lab)[1]["fbt_one"])
    assert have == ["1.0", "1.0", "1.0", "2.0"]


VERSIONS = """
import sys
import forebay
import pyarrow as pa

HERE = "%d.%d" % sys.version_info[:2]

@forebay.model()
@forebay.python("3.9")
def first():
    return pa.table({"version": [HERE]})

@forebay.model(materialization_strategy="REPLACE")
@forebay.python("NEWEST")
def second(data=forebay.Model("first")):
    return pa.table({"version": data["version"].to_pylist() + [HERE]})
"""


def test_the_oldest_and_the_newest_python_in_one_run(lab: Lab) -> None:
    newest = max(pythons(), key=lambda version: int(version.split(".")[1]))
    if "3.9" not in pythons() or newest == "3.9":
        pytest.skip("skipped: Python 3.9 and another one are not here")
    lab.run(lab.project({"models.py": VERSIONS.replace("NEWEST", newest)})).ok()
    assert [row["version"] for row in lab.rows("SELECT version FROM second")] == ["3.9", newest]
