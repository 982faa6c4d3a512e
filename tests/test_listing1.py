"""Listing 1 of the paper: only the import is changed and the bodies are filled in."""

from __future__ import annotations

import datetime
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import Lab, node

LISTING = '''
import forebay as bauplan

@bauplan.model()
@bauplan.python("3.11", pip={"pandas": "2.0"})
# the table name is the name of the function producing it
def euro_selection(
   # its parent node is referenced as the input
   data=bauplan.Model(
      "transactions",
      # columns and filters are expressed for
      # pushdown to object storage
      columns=["id", "usd", "country"],
      filter="eventTime BETWEEN 2023-01-01 AND 2023-02-01"
   )
):
  import pandas, sys
  print("selection", pandas.__version__, sys.version_info[:2])
  _df = data.to_pandas()
  _df = _df[_df.country.isin(["DE", "IT"])]
  # do pre-processing here and return the
  # cleaned dataframe directly
  return _df
# specify that the output needs to be written back to S3
@bauplan.model(materialize=True)
@bauplan.python("3.10", pip={"pandas": "1.5.3"})
def usd_by_country(
  data=bauplan.Model("euro_selection")
):
  import pandas, sys
  print("aggregation", pandas.__version__, sys.version_info[:2])
  _df = data.to_pandas().groupby("country", as_index=False).usd.sum()
  # aggregation code here - return as usual a dataframe
  return _df
'''


def has_python(version: str) -> bool:
    """Whether a real interpreter of this version is there, on the path or from pyenv or uv."""
    homes = [Path.home() / ".pyenv/versions", Path.home() / ".local/share/uv/python"]
    if any(home.glob(f"*{version}.*/bin/python{version}") for home in homes if any(home.glob(f"*{version}.*/bin/python{version}"))):
        return True
    found = shutil.which(f"python{version}")
    return bool(found) and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0


def transactions() -> pa.Table:
    """One row a day from November 2022, countries in turn."""
    start = datetime.datetime(2022, 11, 1, 12)
    days = [start + datetime.timedelta(days=n) for n in range(200)]
    countries = ["DE", "IT", "US"]
    return pa.table(
        {
            "id": list(range(200)),
            "usd": [float(n) for n in range(200)],
            "country": [countries[n % 3] for n in range(200)],
            "eventTime": pa.array(days, pa.timestamp("us", "UTC")),
            "unused": ["x"] * 200,
        }
    )


@pytest.mark.skipif(not has_python("3.10"), reason="no Python 3.10 interpreter on this machine")
@pytest.mark.skipif(not (has_python("3.11") or sys.version_info[:2] == (3, 11)), reason="no Python 3.11 interpreter on this machine")
def test_listing_1(lab: Lab) -> None:
    table = transactions()
    lab.load("transactions", table)
    done = lab.run(lab.project({"dag.py": LISTING})).ok()
    last = datetime.datetime(2023, 2, 1, tzinfo=datetime.timezone.utc)
    first = datetime.datetime(2023, 1, 1, tzinfo=datetime.timezone.utc)
    chosen = [row for row in table.to_pylist() if first <= row["eventTime"] <= last]
    wanted = {
        country: sum(row["usd"] for row in chosen if row["country"] == country) for country in ("DE", "IT")
    }
    assert {row["country"]: row["usd"] for row in lab.rows("SELECT * FROM usd_by_country")} == wanted
    [scan] = [one for one in done.json["nodes"] if one["kind"] == "scan"]
    assert scan["rows"] == len(chosen), "the filter was pushed down"
    assert node(done.json, "euro_selection")["rows"] < len(chosen)
    logs = lab.forebay("job", "logs", done.json["job_id"]).ok().out
    assert "selection 2.0.3 (3, 11)" in logs and "aggregation 1.5.3 (3, 10)" in logs
    assert lab.tables() == ["default.transactions", "default.usd_by_country"]


def test_listing_1_plans(lab: Lab) -> None:
    """Planning needs none of the interpreters."""
    lab.load("transactions", transactions())
    plan = lab.json("plan", "-p", lab.project({"dag.py": LISTING}))
    assert "eventTime" in str(plan["physical"]) and "usd_by_country" in plan["drawing"]


def test_the_other_dialects_project_file_is_read(lab: Lab) -> None:
    models = "import forebay as bauplan\n\n@bauplan.model(materialization_strategy='REPLACE')\ndef t():\n    return {'x': [1]}\n"
    project = "project:\n  id: 1b6f2a4e-0000-4000-8000-000000000000\n  name: moved\n"
    for ending in ("yml", "yaml"):
        lab.run(lab.project({"models.py": models, f"bauplan_project.{ending}": project})).ok()
        assert lab.rows("SELECT x FROM t") == [{"x": 1}]
