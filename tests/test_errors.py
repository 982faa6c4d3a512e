"""The planner's mistakes, as a user meets them: exit code, code, place, suggestion; nothing is run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest
from conftest import Lab

PARENT = """import forebay


@forebay.model()
def parent():
    return {"x": [1], "day": ["a"]}


"""


@dataclass
class Mistake:
    """Files of a project, and what must be told of it."""

    files: dict[str, str]
    at: str | None
    words: list[str]
    exit: int = 1
    args: list[str] = field(default_factory=list)


def models(text: str, at: str | None, *words: str, exit: int = 1, args: list[str] | None = None) -> Mistake:
    """A mistake in a `models.py` that begins with `PARENT` (8 lines)."""
    return Mistake({"models.py": PARENT + text}, at and f"models.py:{at}", list(words), exit, args or [])


def model(decorator: str = "@forebay.model()", inputs: str = 'data=forebay.Model("parent")') -> str:
    """A model whose decorator is on line 9 and whose inputs are on line 10."""
    return f"{decorator}\ndef child({inputs}):\n    return data\n"


MISTAKES: dict[str, Mistake] = {
    "unknown argument": models(model("@forebay.model(colums=['x'])"), "9:16", "colums", "columns"),
    "non-literal argument": models(model("@forebay.model(name=NAME)"), "9:21", "literal"),
    "unknown decorator": models(model("@forebay.modle()"), "9:", "modle", "model"),
    "bad strategy": models(model('@forebay.model(materialization_strategy="REPLACED")'), "9:", "REPLACED", "REPLACE"),
    "bad Python version": models(model('@forebay.model()\n@forebay.python("3.1")'), "10:17", "3.1"),
    "bad package version": models(model('@forebay.model()\n@forebay.python("3.11", pip={"pandas": "two"})'), "10:", "pandas"),
    "missing input": models(model(inputs='data=forebay.Model("parnet")'), "10:", "parnet", "parent"),
    "unknown column": models(model(inputs='data=forebay.Model("lake", columns=["numbr"])'), "10:", "numbr", "number"),
    "filter that does not parse": models(model(inputs='data=forebay.Model("lake", filter="number >")'), "10:", "number >"),
    "filter with an unknown column": models(model(inputs='data=forebay.Model("lake", filter="numbr > 1")'), "10:", "numbr"),
    "filter of the wrong type": models(model(inputs='data=forebay.Model("lake", filter="number")'), "10:", "number"),
    "filter that cannot compare": models(model(inputs='data=forebay.Model("lake", filter="number > \'soon\'")'), "10:", "soon"),
    "unknown parameter": models(model(inputs='data=forebay.Model("parent"), x=forebay.Parameter("nothing")'), "10:", "nothing", exit=2),
    "parameter given but not declared": models(model(), None, "nothing", exit=2, args=["--param", "nothing=1"]),
    "cycle": models(
        '@forebay.model()\ndef a(data=forebay.Model("b")):\n    return data\n\n\n'
        '@forebay.model()\ndef b(data=forebay.Model("a")):\n    return data\n',
        "", "cycle", "a", "b",
    ),
    "model that reads itself": models('@forebay.model()\ndef lake(data=forebay.Model("lake")):\n    return data\n', "10:", "cycle"),
    "duplicate model": models('@forebay.model(name="parent")\ndef other():\n    return {"x": [1]}\n', "", "parent", "twice"),
    "input without default": models("@forebay.model()\ndef child(data):\n    return data\n", "10:11", "child"),
    "syntax error": models("def broken(:\n", "9:", "Python"),
    "expectation without input": models("@forebay.expectation()\ndef check():\n    return True\n", "", "check"),
    "no model": Mistake({"models.py": "x = 1\n"}, None, ["model"], exit=2),
    "no project file": Mistake({"forebay.toml.off": "", "models.py": PARENT}, None, ["forebay.toml", "forebay init"], exit=2),
    "two project files": Mistake(
        {"forebay.toml": '[project]\nname = "x"\n', "bauplan_project.yml": "project:\n  name: x\n", "models.py": PARENT},
        None, ["forebay.toml", "bauplan_project.yml"], exit=2,
    ),
    "project file with a typo": Mistake(
        {"forebay.toml": '[project]\nnam = "x"\n', "models.py": PARENT}, "forebay.toml:2:1", ["nam", "name"], exit=2
    ),
    "SQL that does not parse": Mistake({"m.sql": "SELECT 1\nFORM parent\n"}, "m.sql:2:", ["SQL"]),
    "SQL with two statements": Mistake({"m.sql": "SELECT 1 AS x; SELECT 2 AS x\n"}, "m.sql:1:", ["one SELECT"]),
    "SQL that is no SELECT": Mistake({"m.sql": "DELETE FROM lake\n"}, "m.sql:1:", ["one SELECT"]),
    "SQL with an unknown table": Mistake({"m.sql": "SELECT *\nFROM lkae\n"}, "m.sql:2:6", ["lkae", "lake"]),
    "SQL with an unknown column": Mistake({"m.sql": "SELECT\n  numbr FROM lake\n"}, "m.sql:", ["numbr"]),
    "SQL with an unknown directive": Mistake({"m.sql": "-- forebay: nmae=x\nSELECT 1 AS x\n"}, "m.sql:1:", ["nmae", "name"]),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, reaper: None) -> Any:
    """One lake for all: no mistake changes it."""
    lab = Lab(tmp_path_factory.mktemp("errors"))
    lab.load("lake", pa.table({"number": [1], "day": ["a"]}))
    yield lab
    lab.forebay("daemon", "stop").ok()


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_pointed_at(lab: Lab, mistake: Mistake) -> None:
    project = lab.project(mistake.files)
    if "forebay.toml.off" in mistake.files:
        (project / "forebay.toml").unlink(missing_ok=True)
    before = lab.head()
    for command in ("plan", "run"):
        failed = lab.forebay(command, "-p", project, "-o", "json", *mistake.args).failed(mistake.exit)
        error = failed.json["error"]
        assert error["code"].startswith("PLN") and f"error[{error['code']}]" in failed.err
        for word in mistake.words:
            assert word in failed.err, str(failed)
        if mistake.at is not None:
            assert error["at"], str(failed)
            place = "{file}:{line}:{column}".format(**error["at"])
            assert place.startswith(mistake.at) and f"--> {place}" in failed.err, str(failed)
    assert lab.head() == before and lab.functions() == []


def test_all_mistakes_are_told_at_once(lab: Lab) -> None:
    text = model("@forebay.model(colums=['x'])", 'data=forebay.Model("parent", fliter="x > 1")')
    failed = lab.forebay("plan", "-p", lab.project({"models.py": PARENT + text})).failed(1)
    assert "colums" in failed.err and "fliter" in failed.err and "2 errors" in failed.err


def test_a_project_that_is_not_there(lab: Lab) -> None:
    failed = lab.forebay("run", "-p", lab.folder / "nowhere")
    assert failed.code in (1, 2) and "nowhere" in failed.err


def test_a_branch_that_is_not_there(lab: Lab) -> None:
    project = lab.project({"models.py": PARENT})
    failed = lab.forebay("run", "-p", project, "-r", "mian", "-o", "json").failed(1)
    assert failed.json["error"]["code"] == "CTL0015" and "`main`" in failed.err


def test_only_branches_can_be_run_on(lab: Lab) -> None:
    project = lab.project({"models.py": PARENT.replace("model()", 'model(materialization_strategy="REPLACE")')})
    lab.forebay("tag", "create", "v1", "--if-not-exists").ok()
    for ref in ("v1", f"@{lab.head()}"):
        failed = lab.forebay("run", "-p", project, "-r", ref)
        assert failed.code in (1, 2) and "branch" in failed.err
        lab.forebay("run", "-p", project, "-r", ref, "--dry-run").ok()


def test_packages_that_do_not_exist(lab: Lab) -> None:
    body = '@forebay.model()\n@forebay.python("3.11", pip={"pandas": "==0.0.0.1"})\ndef t():\n    return {"x": [1]}\n'
    failed = lab.run(lab.project(body)).failed(1)
    assert failed.json["error"]["code"].startswith("ENV") and "pandas" in failed.err


def test_a_python_that_is_not_installed(lab: Lab) -> None:
    lab.environment["FOREBAY_PYTHONS"] = "/nonexistent"
    body = '@forebay.model()\n@forebay.python("3.14")\ndef t():\n    return {"x": [1]}\n'
    done = lab.run(lab.project(body))
    if done.code == 0:
        pytest.skip("this machine has a Python 3.14")
    assert done.failed(1).json["error"]["code"].startswith("ENV") and "3.14" in done.err


def test_plans_are_shown(lab: Lab) -> None:
    project = lab.project({"models.py": PARENT + model(inputs='data=forebay.Model("lake", columns=["number"], filter="number > 1")')})
    plan = lab.json("plan", "-p", project)
    assert plan["schema"] == 1 and set(plan) >= {"logical", "physical", "drawing"}
    assert "child" in plan["drawing"] and "lake" in plan["drawing"]
    drawn = lab.forebay("plan", "-p", project).ok().out
    assert "child" in drawn and "number > 1" in drawn
    assert lab.json("plan", "-p", project) == plan, "the same project at the same commit has the same plan"


def test_init_makes_a_project_that_runs(lab: Lab) -> None:
    lab.forebay("init", lab.folder / "mine", "--name", "mine").ok()
    lab.run(lab.folder / "mine").ok()
    assert "default.station_means" in lab.tables()
