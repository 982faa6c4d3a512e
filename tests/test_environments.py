"""Environments end to end: what a project asks for is what its functions have, and a known environment costs nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
import wheels
from conftest import FOREBAY, Lab, until

#: For each library that can make tables on its own: a model in an environment of it alone, and its rows.
LEAN = {
    "polars": (
        """
        import polars as pl
        @forebay.model(materialization_strategy="REPLACE")
        @forebay.python("3.11", pip={"polars": ""})
        def out(data: pl.DataFrame = forebay.Model("source")):
            return data.with_columns(y=pl.col("x") * 2)
        """,
        [{"x": 1, "y": 2}, {"x": 2, "y": 4}],
    ),
    "duckdb": (
        """
        import duckdb
        @forebay.model(materialization_strategy="REPLACE")
        @forebay.python("3.11", pip={"duckdb": ""})
        def out(data: duckdb.DuckDBPyRelation = forebay.Model("source")):
            return data.project("x, x * 2 AS y")
        """,
        [{"x": 1, "y": 2}, {"x": 2, "y": 4}],
    ),
    "numpy": (
        """
        @forebay.model(materialization_strategy="REPLACE")
        @forebay.python("3.11", pip={"numpy": ""})
        def out():
            import datetime
            import numpy as np
            day = datetime.date(2024, 2, 29)
            return {"x": np.array([1, 2]), "y": np.array([True, False]), "s": ["a", None], "d": [day, None], "f": [1, 2.5],
                    "t": np.array(["2024-02-29T12:00", "NaT"], "M8[us]"), "b": [b"x", b""], "n": np.array([1, 2], ">f4")}
        """,
        [
            {"x": 1, "y": True, "s": "a", "d": "2024-02-29", "f": 1.0, "t": "2024-02-29 12:00:00", "b": "b'x'", "n": 1.0},
            {"x": 2, "y": False, "s": None, "d": None, "f": 2.5, "t": None, "b": "b''", "n": 2.0},
        ],
    ),
}

SOURCE = """
import forebay

@forebay.model(name="source")
def source():
    return [{"x": 1}, {"x": 2}]
"""

#: A model that says what its environment holds.
TELL = """
import forebay, sys
from importlib import metadata

@forebay.model(materialization_strategy="REPLACE")
{decorator}
def out():
    have = {{d.metadata["Name"].lower(): d.version for d in metadata.distributions()}}
    return [{{"python": "%d.%d" % sys.version_info[:2], "packages": str(sorted(have.items()))}}]
"""


def told(lab: Lab) -> tuple[str, dict[str, str]]:
    """What `TELL` told."""
    row = lab.rows("SELECT * FROM out")[0]
    return row["python"], dict(eval(row["packages"]))


def private(lab: Lab) -> Path:
    """From now on the lab has a cache of its own. Gives its folder."""
    cache = lab.folder / "cache"
    lab.environment["FOREBAY_CACHE"] = str(cache)
    return cache


@pytest.fixture
def index(lab: Lab) -> Path:
    """A folder that packages are taken from before any index."""
    folder = lab.folder / "index"
    folder.mkdir()
    lab.environment["UV_FIND_LINKS"] = str(folder)
    lab.environment["UV_CACHE_DIR"] = str(lab.folder / "uv-cache")
    private(lab)
    return folder


def pythons() -> set[str]:
    """Minor versions that runs find here."""
    environment = {name: value for name, value in os.environ.items() if name != "FOREBAY_HOME"}
    done = subprocess.run([FOREBAY, "doctor", "-o", "json"], capture_output=True, text=True, env=environment)
    found = next(check["found"] for check in json.loads(done.stdout)["checks"] if check["name"] == "Python")
    return {".".join(line.split()[0].split(".")[:2]) for line in found.splitlines()}


@pytest.mark.parametrize("library", LEAN)
def test_an_environment_without_pyarrow_makes_tables(lab: Lab, library: str) -> None:
    text, expect = LEAN[library]
    project = lab.project({"a.py": SOURCE, "models.py": "import forebay\n" + textwrap.dedent(text)})
    result = lab.run(project).ok().json
    assert [one for one in result["environments"] if library in one["packages"] and "pyarrow" not in one["packages"]]
    assert json.loads(json.dumps(lab.rows("SELECT * FROM out ORDER BY x"), default=str)) == expect


def test_what_only_pyarrow_knows_is_told(lab: Lab) -> None:
    text = """
    @forebay.model(materialization_strategy="REPLACE")
    @forebay.python("3.11", pip={"numpy": ""})
    def out():
        return [{"x": {"nested": 1}}]
    """
    failed = lab.run(lab.project({"models.py": "import forebay\n" + textwrap.dedent(text)})).failed()
    assert failed.json["error"]["code"] == "RUN0103" and "`dict`" in failed.err and "pyarrow" in failed.err


def test_requirements_of_the_project_are_honoured(lab: Lab) -> None:
    files = {
        "models.py": TELL.format(decorator='@forebay.python(pip={"numpy": "", "idna": "3.6"})'),
        "requirements.txt": "-r requirements-more.txt\nidna==3.4  # the model's own wins\ntzdata ; sys_platform == 'win32'\n",
        "requirements-more.txt": "six>=1.15,<1.16\n",
        "pyproject.toml": '[project]\nname = "x"\nrequires-python = ">=3.9"\ndependencies = ["packaging==23.2"]\n',
    }
    lab.run(lab.project(files)).ok()
    python, have = told(lab)
    assert python == "3.11"
    assert (have["six"], have["idna"], have["packaging"]) == ("1.15.0", "3.6", "23.2")
    assert "tzdata" not in have and "pyarrow" not in have


def test_requires_python_chooses_the_interpreter(lab: Lab) -> None:
    wanted = next((minor for minor in ("3.12", "3.13", "3.10") if minor in pythons()), None)
    if wanted is None:
        pytest.skip("only one Python is here")
    range_ = f"=={wanted}.*"
    files = {"models.py": TELL.format(decorator='@forebay.python(pip={"numpy": ""})')}
    files["pyproject.toml"] = f'[project]\nname = "x"\nrequires-python = "{range_}"\n'
    lab.run(lab.project(files)).ok()
    assert told(lab)[0] == wanted


@pytest.mark.parametrize(
    "line, code, words",
    [
        ("six @ https://ann:s3cret@host/six.whl", "PLN0013", "URL"),
        ("-e ../elsewhere", "PLN0013", "path"),
        ("-r missing.txt", "PLN0006", "missing.txt"),
        ("six==newest", "PLN0013", "newest"),
    ],
)
def test_requirements_that_cannot_be_had_are_told(lab: Lab, line: str, code: str, words: str) -> None:
    project = lab.project({"models.py": TELL.format(decorator=""), "requirements.txt": f"numpy\n{line}\n"})
    failed = lab.run(project).failed(2 if code == "PLN0006" else 1)
    assert failed.json["error"]["code"] == code and words in failed.err and "requirements.txt:2" in failed.err
    assert "s3cret" not in failed.out + failed.err


def test_two_pandas_on_two_pythons_in_one_run(lab: Lab) -> None:
    here = pythons()
    other = next((minor for minor in ("3.12", "3.11", "3.13") if minor in here), None)
    if "3.10" not in here or other is None:
        pytest.skip("Python 3.10 and another one are not here")
    files = {
        "models.py": textwrap.dedent(
            """
            import forebay, sys

            @forebay.model()
            @forebay.python("3.10", pip={"pandas": "1.5.3"})
            def old():
                import pandas as pd
                return pd.DataFrame({"word": ["a", "b"], "pandas": pd.__version__, "python": sys.version.split()[0]})

            @forebay.model(materialization_strategy="REPLACE")
            @forebay.python("OTHER", pip={"pandas": "2.2.3"})
            def new(data: "pd.DataFrame" = forebay.Model("old")):
                import pandas as pd
                return data.assign(new_pandas=pd.__version__, new_python=sys.version.split()[0])
            """
        ).replace("OTHER", other)
    }
    lab.run(lab.project(files)).ok()
    rows = lab.rows("SELECT * FROM new ORDER BY word")
    assert [row["word"] for row in rows] == ["a", "b"]
    assert rows[0]["pandas"] == "1.5.3" and rows[0]["python"].startswith("3.10.")
    assert rows[0]["new_pandas"] == "2.2.3" and rows[0]["new_python"].startswith(f"{other}.")


def test_a_known_environment_needs_no_uv(lab: Lab) -> None:
    project = lab.project({"models.py": TELL.format(decorator='@forebay.python(pip={"numpy": ""})')})
    first = lab.run(project).ok().json["environments"]
    lab.forebay("daemon", "stop").ok()
    # Any use of uv would fail.
    lab.environment["FOREBAY_UV"] = "/nowhere/uv"
    assert lab.run(project).ok().json["environments"] == first
    assert lab.run(project, "--dry-run").ok().json["environments"] == first


def test_a_lock_pins_and_says_when_it_is_stale(lab: Lab) -> None:
    decorator = '@forebay.python(pip={"numpy": "", "six": "VERSION"})'
    project = lab.project({"models.py": TELL.format(decorator=decorator.replace("VERSION", "1.15"))})
    failed = lab.forebay("env", "lock", "--check", "-p", project, "-o", "json").failed()
    assert failed.json["error"]["code"] == "ENV0013" and "there is no `forebay.lock`" in failed.err
    lab.forebay("env", "lock", "-p", project).ok()
    text = (project / "forebay.lock").read_text()
    assert 'requirements = ["numpy", "six==1.15.*"]' in text and "six==1.15.0 \\\n    --hash=sha256:" in text
    lab.forebay("env", "lock", "--check", "-p", project).ok()
    # What the lock says is taken, whatever would be newest.
    version = next(line for line in text.splitlines() if line.startswith("numpy==")).split()[0].split("==")[1]
    done = lab.run(project).ok()
    assert "stale" not in done.err
    assert done.json["environments"][0]["pinned"] and done.json["environments"][0]["packages"]["numpy"] == version
    kept = lab.home / "state/jobs" / done.json["job_id"] / "environments" / f"{done.json['environments'][0]['hash']}.lock"
    assert "--hash=sha256:" in kept.read_text() and "six==1.15.0" in kept.read_text()
    # Other requirements: the lock is stale, and locking again keeps what still fits.
    (project / "models.py").write_text(TELL.format(decorator=decorator.replace("VERSION", "1.16")))
    done = lab.run(project).ok()
    assert "`forebay.lock` is stale" in done.err and not done.json["environments"][0]["pinned"]
    changed = lab.json("env", "lock", "-p", project)
    assert (changed["changed"], changed["environments"]) == (True, 1)
    text = (project / "forebay.lock").read_text()
    assert f"numpy=={version} " in text and "six==1.16.0 " in text and "1.15" not in text
    assert lab.json("env", "lock", "-p", project)["changed"] is False
    (project / "forebay.lock").write_text("version = 1\n[[environment]]\n")
    assert lab.run(project).failed().json["error"]["code"] == "ENV0011"


def test_errors_name_what_is_wrong(lab: Lab) -> None:
    def fails(pip: str, python: str = "3.11") -> Any:
        decorator = f"@forebay.python('{python}', pip={pip})"
        failed = lab.run(lab.project({"models.py": TELL.format(decorator=decorator)})).failed()
        return failed.json["error"]["code"], failed.err

    code, err = fails('{"numpy": "", "forebay-no-such-package": "1.0.0"}')
    assert code == "ENV0003" and "forebay-no-such-package" in err
    # Incompatible on purpose: the pins are the user's, and the import tells.
    code, err = fails('{"pandas": "2.0.3", "numpy": "2.1.0"}')
    assert code == "ENV0005" and "`pandas` 2.0.3" in err and "numpy 2.1.0" in err and "numpy.dtype size changed" in err
    missing = next((minor for minor in ("3.14", "3.9", "3.13") if minor not in pythons()), None)
    if missing is not None:
        lab.forebay("daemon", "stop").ok()
        lab.environment["FOREBAY_OFFLINE"] = "1"
        code, err = fails('{"numpy": ""}', missing)
        assert code == "ENV0002" and "found: 3." in err and f"uv python install {missing}" in err


def test_old_pandas_gets_what_it_needs(lab: Lab) -> None:
    lab.run(lab.project({"models.py": TELL.format(decorator='@forebay.python("3.11", pip={"pandas": "2.0.3"})')})).ok()
    have = told(lab)[1]
    assert have["pandas"] == "2.0.3" and have["numpy"].startswith("1.") and int(have["pyarrow"].split(".")[0]) < 26


def test_credentials_of_an_index_are_never_told(lab: Lab) -> None:
    cache = private(lab)
    lab.environment["UV_CACHE_DIR"] = str(lab.folder / "uv-cache")
    lab.environment["UV_DEFAULT_INDEX"] = "http://ann:s3cret@127.0.0.1:9/simple?key=s3cret"
    lab.environment["UV_HTTP_RETRIES"] = "0"
    project = lab.project({"models.py": TELL.format(decorator='@forebay.python(pip={"numpy": "", "my-own": "1"})')})
    failed = lab.run(project).failed()
    assert failed.json["error"]["code"] == "ENV0003"
    everything = [failed.out, failed.err, lab.forebay("env", "build", "-p", project).err]
    for folder in (lab.home, cache):
        everything += [path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()]
    assert not [text for text in everything if "s3cret" in text]


def test_wheels_with_all_that_wheels_may_hold(lab: Lab, index: Path) -> None:
    one = {
        "space/one.py": "ONE = 1",
        "same.py": "WHO = 'one'",
        "one.pth": "import os; os.environ['ONE_PTH'] = 'ran'\n",
        "{d}/data/share/one/words.txt": "shared",
        "{d}/headers/one.h": "#define ONE",
        "{d}/scripts/one-script": "#!python\nprint('script')\n",
    }
    two = {
        "space/two.py": "TWO = 2",
        "same.py": "WHO = 'two'",
        "space/one_tool.py": "def main(): print('tool')",
        "{d}/purelib/with, comma.py": "x",
    }
    wheels.wheel(index, "fbt_one", one, scripts="one-tool = space.one_tool:main")
    wheels.wheel(index, "fbt_two", two)
    body = """
    import forebay

    @forebay.model(materialization_strategy="REPLACE")
    @forebay.python("3.11", pip={"numpy": "", "fbt_one": "", "fbt_two": ""})
    def out():
        import os, subprocess, sys
        from pathlib import Path
        import same
        from space import one, two
        bin = Path(sys.prefix, "bin")
        run = lambda name: subprocess.run([bin / name], capture_output=True, text=True).stdout.strip()
        return [{"sum": one.ONE + two.TWO, "who": same.WHO, "pth": os.environ.get("ONE_PTH"), "tool": run("one-tool"),
                 "script": run("one-script"), "share": Path(sys.prefix, "share/one/words.txt").read_text(),
                 "comma": Path(sys.prefix, 'lib/python3.11/site-packages/with, comma.py').is_file()}]
    """
    result = lab.run(lab.project({"models.py": textwrap.dedent(body)})).ok().json
    expect = {"sum": 3, "who": "one", "pth": "ran", "tool": "tool", "script": "script", "share": "shared", "comma": True}
    assert lab.rows("SELECT * FROM out") == [expect]
    shown = lab.json("env", "show", result["environments"][0]["hash"])
    clashes = [(clash["path"].split("/")[-1], clash["taken_from"], clash["also_in"]) for clash in shown["clashes"]]
    assert clashes == [("same.py", "fbt-one", "fbt-two")]


def test_sources_are_built_or_the_failure_is_told(lab: Lab, index: Path) -> None:
    wheels.source(index, "fbt_builds")
    wheels.source(index, "fbt_fails", "raise SystemExit('no compiler here')")
    text = 'import forebay\n\n@forebay.model(materialization_strategy="REPLACE")\n'
    text += '@forebay.python("3.11", pip={"numpy": "", "NAME": ""})\n'
    text += "def out():\n    import fbt_builds\n    return [{'words': fbt_builds.WORDS}]\n"
    lab.run(lab.project({"models.py": text.replace("NAME", "fbt_builds")})).ok()
    assert lab.rows("SELECT * FROM out") == [{"words": "built here"}]
    failed = lab.run(lab.project({"models.py": text.replace("NAME", "fbt_fails")})).failed()
    assert failed.json["error"]["code"] == "ENV0009" and "fails" in failed.err and "no compiler here" in failed.err


BUILT = """
import forebay

@forebay.model(materialization_strategy="REPLACE")
@forebay.python("3.11", pip={"numpy": "", "NAME": ""})
def out():
    import NAME
    return [{"words": NAME.WORDS}]
"""


def test_what_builds_is_kept_in(lab: Lab, index: Path) -> None:
    """The code of a package of sources sees neither the user's files nor their variables, and can leave no links."""
    private_file = lab.folder / "private.txt"
    private_file.write_text("mine")
    nosy = f"""
here = [process for process in os.listdir("/proc") if process.isdigit()]
seen = {{
    "file": os.path.exists({str(private_file)!r}), "home": os.path.exists({str(lab.home)!r}), "uid": os.getuid() != 1000,
    "lake": os.path.exists({str(lab.lake)!r}), "processes": len(here) > 20, "variables": "MINE" in os.environ,
}}
if any(seen.values()): raise SystemExit(f"it saw {{seen}}")
"""
    wheels.source(index, "fbt_nosy", nosy)
    lab.environment["MINE"] = "hands off"
    lab.run(lab.project({"models.py": BUILT.replace("NAME", "fbt_nosy")})).ok()
    assert lab.rows("SELECT * FROM out") == [{"words": "built here"}]
    link = """
site = os.path.join(os.path.dirname(os.environ["HOME"]), "site/lib/python3.11/site-packages")
if os.path.isdir(site) and not os.path.lexists(site + "/evil"): os.symlink("/etc", site + "/evil")
"""
    wheels.source(index, "fbt_link", link)
    failed = lab.run(lab.project({"models.py": BUILT.replace("NAME", "fbt_link")})).failed()
    assert failed.json["error"]["code"] == "ENV0009" and "no file" in failed.err


def test_without_a_sandbox_sources_are_built_only_if_they_are_trusted(lab: Lab, index: Path) -> None:
    wheels.source(index, "fbt_plain", "print('building')")
    project = lab.project({"models.py": BUILT.replace("NAME", "fbt_plain")})
    lab.environment["FOREBAY_BUILDS"] = "trusted"
    lab.forebay("env", "build", "-p", project).ok()
    lab.run(project).ok()
    assert lab.rows("SELECT * FROM out") == [{"words": "built here"}]


@pytest.mark.parametrize("kind", ["wheel", "sources"])
@pytest.mark.parametrize("how", ["url", "variables"])
def test_a_private_index_is_used_and_its_password_is_not_told(lab: Lab, kind: str, how: str) -> None:
    cache = private(lab)
    lab.environment["UV_CACHE_DIR"] = str(lab.folder / "uv-cache")
    files = lab.folder / "files"
    files.mkdir()
    make = wheels.source if kind == "sources" else lambda folder, name: wheels.wheel(folder, name, {f"{name}.py": "WORDS = 'built here'"})
    make(files, "fbt_private")
    with wheels.Index(files, "ann", "s3cret-word") as port:
        if how == "url":
            lab.environment["UV_INDEX"] = f"http://ann:s3cret-word@127.0.0.1:{port}/simple"
        else:
            lab.environment["UV_INDEX"] = f"mine=http://127.0.0.1:{port}/simple"
            lab.environment["UV_INDEX_MINE_USERNAME"] = "ann"
            lab.environment["UV_INDEX_MINE_PASSWORD"] = "s3cret-word"
        project = lab.project({"models.py": BUILT.replace("NAME", "fbt_private")})
        done = [lab.run(project).ok(), lab.forebay("env", "lock", "-p", project)]
        failing = lab.project({"models.py": BUILT.replace("NAME", "fbt_not_there")}, "failing")
        done.append(lab.run(failing).failed())
    assert lab.rows("SELECT * FROM out") == [{"words": "built here"}]
    everything = [one.out + one.err for one in done]
    for folder in (lab.home, lab.lake, cache, project):
        everything += [path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()]
    assert not [text for text in everything if "s3cret-word" in text]


def test_two_builders_at_once_and_one_that_is_killed(lab: Lab, index: Path) -> None:
    modules = {f"slow/m{n}.py": f"x = {n}\n" for n in range(300)}
    wheels.wheel(index, "fbt_slow", {**modules, "slow/__init__.py": "for n in range(300): __import__(f'slow.m{n}')\n"})
    project = lab.project({"models.py": TELL.format(decorator='@forebay.python(pip={"numpy": "", "fbt_slow": ""})')})
    # Killed somewhere, again and again: nothing half-made is ever taken for an environment.
    lab.forebay("env", "build", "-p", project).ok()
    for name in ("envs", "store"):
        shutil.rmtree(lab.folder / "cache" / name)
    for said in ("resolving", "fetching", "trying", "compiling"):
        builder = lab.start("env", "build", "-p", project)
        while line := builder.line():
            if said in line:
                builder.kill()
        builder.wait()
    first, second = (lab.start("env", "build", "-p", project, "-o", "json") for _ in range(2))
    built = [started.wait().ok().json["environments"][0] for started in (first, second)]
    assert built[0] == built[1]
    lab.forebay("env", "gc").ok()
    left = [path.name for path in (lab.folder / "cache/envs").iterdir() if "building" in path.name]
    assert left == []
    lab.run(project).ok()
    assert told(lab)[1]["fbt_slow"] == "1.0"


def test_imports_are_tried_where_functions_run_and_once(lab: Lab, index: Path) -> None:
    """What a run's functions import is imported in their sandbox alone; what else is declared, by an interpreter of its own."""
    (lab.folder / "of-the-host").touch()
    sandboxed = f"import os\nassert not os.path.exists({str(lab.folder / 'of-the-host')!r}), 'the host is in sight'\n"
    wheels.wheel(index, "fbt_shy", {"shy/__init__.py": sandboxed + "from .words import WORD\n", "shy/words.py": "WORD = 'shy'\n"})
    wheels.wheel(index, "fbt_idle", {"idle.py": "raise ValueError('nobody imports me')\n"})
    body = "import forebay\n\n@forebay.model(materialization_strategy='REPLACE')\n@forebay.python(pip=PIP)\n"
    body += "def out():\n    import shy\n    return [{'word': shy.WORD}]\n"
    project = lab.project({"models.py": body.replace("PIP", "{'numpy': '', 'fbt_shy': ''}")})
    lab.run(project).ok()
    assert lab.rows("SELECT * FROM out") == [{"word": "shy"}]
    # Its byte code was written nevertheless, by who executes nothing.
    until(lambda: [*(lab.folder / "cache/store").glob("*/tree/lib/python3*/site-packages/shy/__pycache__/words.*.pyc")])
    failed = lab.run(lab.project({"models.py": body.replace("PIP", "{'numpy': '', 'fbt_shy': '', 'fbt_idle': ''}")})).failed()
    assert failed.json["error"]["code"] == "ENV0005" and "`fbt-idle` 1.0" in failed.err and "nobody imports me" in failed.err


def test_a_run_is_cancelled_while_imports_are_tried(lab: Lab, index: Path) -> None:
    """Nothing is tried any more, no environment is left, and the next run begins anew."""
    wheels.wheel(index, "fbt_waits", {"waits.py": "import threading\nthreading.Event().wait()\n"})
    body = "import forebay\n\n@forebay.model(materialization_strategy='REPLACE')\n@forebay.python(pip={'numpy': '', 'fbt_waits': ''})\n"
    project = lab.project({"models.py": body + "def out():\n    import numpy, waits\n    return [{'x': 1}]\n"})
    for _ in range(2):
        run = lab.start_run(project)
        while "trying the imports" not in (line := run.line()):
            assert line
        run.interrupt()
        failed = run.wait().failed()
        assert failed.json["status"] == "CANCELLED" and "trying the imports" not in failed.err, failed.err
        assert not [path for path in (lab.folder / "cache/envs").iterdir() if (path / "forebay.json").exists()]


def test_a_changed_file_is_noticed_and_made_again(lab: Lab, index: Path) -> None:
    wheels.wheel(index, "fbt_fine", {"fine.py": "WORD = 'good'"})
    text = TELL.format(decorator='@forebay.python(pip={"numpy": "", "fbt_fine": ""})')
    text += "\nimport fine\nassert fine.WORD == 'good'\n"
    project = lab.project({"models.py": text})
    lab.run(project).ok()
    lab.forebay("daemon", "stop").ok()
    [stored] = (lab.folder / "cache/store").glob("*/tree/lib/python3.11/site-packages/fine.py")
    assert stored.stat().st_mode & 0o222 == 0 and stored.stat().st_nlink > 1
    stored.chmod(0o644)
    stored.write_text("WORD = 'evil'")
    lab.run(project).ok()
    lab.forebay("daemon", "stop").ok()
    # Gone from the environment alone: it is linked again.
    [linked] = (lab.folder / "cache/envs").glob("*/lib/python3.11/site-packages/fine.py")
    linked.unlink()
    lab.run(project).ok()


def test_environments_are_listed_and_collected_but_not_under_a_run(lab: Lab, index: Path) -> None:
    wheels.wheel(index, "fbt_big", {"big.py": "x = 1", "big.txt": "x" * 100_000})
    gate = lab.gate()
    text = f"""
    import forebay

    @forebay.model(materialization_strategy="REPLACE")
    @forebay.python(pip={{"numpy": "", "fbt_big": ""}})
    def out():
        {gate.code}
        import big
        return [{{"x": big.x}}]
    """
    used = lab.project({"models.py": textwrap.dedent(text)}, "used")
    idle = lab.project({"models.py": TELL.format(decorator='@forebay.python(pip={"numpy": ""})')}, "idle")
    lab.run(idle).ok()
    run = lab.start_run(used)
    gate.wait()
    # It is in use until its byte code is there, too.
    until(lambda: not lab.json("env", "ls")["environments"][1]["in_use"])
    listed = lab.json("env", "ls")["environments"]
    assert [(one["in_use"], "fbt-big" in json.dumps(one["packages"])) for one in listed] == [(True, True), (False, False)]
    assert lab.forebay("env", "ls").ok().out.splitlines()[0].split() == ["HASH", "PYTHON", "PACKAGES", "SIZE", "USED"]
    planned = lab.json("env", "gc", "--max-size", "0", "--dry-run")
    assert len(lab.json("env", "ls")["environments"]) == 2
    done = lab.json("env", "gc", "--max-size", "0")
    assert done["environments"] == planned["environments"] == [listed[1]["hash"]] and done["in_use"] == 1
    gate.open()
    run.wait().ok()
    assert lab.rows("SELECT * FROM out") == [{"x": 1}]
    # Now nothing uses it; what was removed is made again when it is wanted.
    done = lab.json("env", "gc", "--max-size", "0")
    assert (done["environments"], done["left_bytes"]) == ([listed[0]["hash"]], 0) and done["freed_bytes"] > 100_000
    assert lab.json("env", "ls")["environments"] == [] and not list((lab.folder / "cache/store").glob("*/tree"))
    lab.run(idle).ok()
    missing = lab.forebay("env", "show", "00", "-o", "json").failed()
    assert missing.json["error"]["code"] == "ENV0012"


def test_code_of_the_project_is_there_with_its_packages(lab: Lab) -> None:
    folder = lab.project(
        {
            "models.py": "import forebay\nimport helper\nfrom lib.deep import value\n\n"
            '@forebay.model(materialization_strategy="REPLACE")\ndef out():\n'
            "    import os\n"
            "    ignored = os.path.exists(os.path.join(os.path.dirname(__file__), 'local.py'))\n"
            "    return [{'x': helper.X + value.Y, 'ignored': ignored,"
            " 'mode': os.stat(__file__).st_mode & 0o777}]\n",
            "helper.py": "X = 1\n",
            "local.py": "raise SystemExit\n",
            ".gitignore": "local.py\n",
        }
    )
    (folder / "lib/deep").mkdir(parents=True)
    (folder / "lib/__init__.py").write_text("")
    (folder / "lib/deep/__init__.py").write_text("")
    (folder / "lib/deep/value.py").write_text("from .. import deep\nfrom . import more\nY = more.Z\n")
    (folder / "lib/deep/more.py").write_text("Z = 41\n")
    lab.run(folder).ok()
    assert lab.rows("SELECT * FROM out") == [{"x": 42, "ignored": False, "mode": 0o444}]
    # A change of a helper is a change.
    (folder / "lib/deep/more.py").write_text("Z = 1\n")
    lab.run(folder).ok()
    assert lab.rows("SELECT x FROM out") == [{"x": 2}]
