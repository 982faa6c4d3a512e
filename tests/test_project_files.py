"""The files of a project are there for its functions, at their places, as they were when the run began."""

from __future__ import annotations

from pathlib import Path

from conftest import HEADER, Lab

READ = (
    HEADER
    + """
import os
from pathlib import Path

HERE = Path(__file__).parent

@forebay.model(materialization_strategy="REPLACE")
def t():
    found = {"relative": open("data/words.txt").read(), "beside": (HERE / "data" / "words.txt").read_text()}
    found["hidden"] = str([name for name in ("local.csv", ".env", "link", "lake") if os.path.lexists(name)])
    try:
        open("data/words.txt", "a").write("x")
        found["changed"] = "yes"
    except OSError:
        found["changed"] = "no"
    return pa.table({key: [value] for key, value in found.items()})
"""
)


def project(lab: Lab) -> Path:
    folder = lab.project({"models.py": READ, ".gitignore": "local.csv\n", "local.csv": "mine", ".env": "PASSWORD=x"})
    (folder / "data").mkdir()
    (folder / "data" / "words.txt").write_text("one")
    outside = lab.folder / "outside.txt"
    outside.write_text("not of the project")
    (folder / "link").symlink_to(outside)
    return folder


def test_data_beside_the_code_is_read_where_it_lies(lab: Lab) -> None:
    folder = project(lab)
    lab.run(folder).ok()
    assert lab.rows("SELECT * FROM t") == [{"relative": "one", "beside": "one", "hidden": "[]", "changed": "no"}]
    (folder / "data" / "words.txt").write_text("two")
    lab.run(folder).ok()
    assert lab.rows("SELECT relative FROM t") == [{"relative": "two"}]


def test_a_lake_in_the_project_is_no_part_of_it(lab: Lab) -> None:
    folder = project(lab)
    lab.environment["FOREBAY_LAKE"] = f"file://{folder}/lake"
    lab.run(folder).ok()
    lab.run(folder).ok()
    assert lab.rows("SELECT hidden FROM t") == [{"hidden": "[]"}]
    # The lake has grown, the project has not changed.
    assert len(list((lab.home / "state/projects").iterdir())) == 1


def test_a_run_keeps_the_files_it_began_with(lab: Lab) -> None:
    gate = lab.gate()
    code = f"@forebay.model(materialization_strategy='REPLACE')\ndef t():\n    {gate.code}\n    return pa.table({{'x': [open('words.txt').read()]}})\n"
    folder = lab.project(code)
    (folder / "words.txt").write_text("before")
    run = lab.start_run(folder)
    gate.wait()
    (folder / "words.txt").write_text("after")
    gate.open()
    run.wait().ok()
    assert lab.rows("SELECT x FROM t") == [{"x": "before"}]


def test_too_much_data_is_told(lab: Lab) -> None:
    folder = project(lab)
    with open(folder / "data" / "huge.bin", "wb") as file:
        file.truncate(200 << 20)
    failed = lab.run(folder).failed(2)
    assert failed.json["error"]["code"] == "CTL0012" and "data/huge.bin" in failed.err and ".gitignore" in failed.err
    (folder / ".gitignore").write_text("local.csv\n*.bin\n")
    lab.run(folder).ok()
