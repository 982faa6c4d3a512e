"""A lake in a bucket of a real S3 server: everything a lake on a disk can do, races, a server that dies, and who gets the keys."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import Lab
from s3_server import READER, S3Server

NUMBERS = """
@forebay.model(materialization_strategy="REPLACE")
def doubled(numbers=forebay.Model("numbers", filter="x < 900")):
    table = numbers.combine_chunks()
    return pa.table({"x": [2 * x for x in table["x"].to_pylist()], "name": table["name"]})
"""


def numbers(start: int, stop: int) -> pa.Table:
    """Rows whose values can be told from their number."""
    return pa.table({"x": pa.array(range(start, stop), pa.int64()), "name": [f"n{x}" for x in range(start, stop)]})


def prefix(lab: Lab) -> str:
    """`bucket/prefix` of the lake."""
    return lab.environment["FOREBAY_LAKE"].removeprefix("s3://")


def test_import_run_query_branch_merge_and_history(far: Lab, s3: S3Server) -> None:
    """All of a day's work, with nothing of the lake on the disk."""
    far.load("numbers", numbers(0, 1000))
    project = far.project(NUMBERS)
    done = far.run(project).ok().json
    assert done["status"] == "SUCCESS", done
    assert far.rows("SELECT count(*) AS n, sum(x) AS s, max(name) AS m FROM doubled") == [
        {"n": 900, "s": 899 * 900, "m": "n99"}
    ]
    far.forebay("branch", "create", "dev").ok()
    far.load("numbers", numbers(0, 10), branch="dev")
    assert far.rows("SELECT count(*) AS n FROM numbers", "dev") == [{"n": 10}]
    assert far.rows("SELECT count(*) AS n FROM numbers") == [{"n": 1000}]
    far.forebay("branch", "merge", "dev", "--into", "main").ok()
    assert far.rows("SELECT count(*) AS n FROM numbers") == [{"n": 10}]
    assert far.rows("SELECT count(*) AS n FROM numbers", "main~2") == [{"n": 1000}]
    messages = [commit["message"] for commit in far.json("commit", "main")["commits"]]
    assert any("Import" in message for message in messages), messages
    far.forebay("tag", "create", "v1").ok()
    far.forebay("branch", "delete", "dev").ok()
    assert "dev" not in [branch["name"] for branch in far.json("branch", "ls")["branches"]]
    assert far.metadata("numbers").startswith(far.environment["FOREBAY_LAKE"] + "/tables/default/numbers-")
    keys = list(s3.keys(prefix(far)))
    assert any("/catalog/refs/branches/main" in key for key in keys) and any(key.endswith(".parquet") for key in keys)
    assert not far.lake.exists()


def test_a_failed_run_leaves_no_table(far: Lab) -> None:
    """What a model raises ends the run, and `main` stays where it was."""
    far.load("numbers", numbers(0, 10))
    before = far.head()
    project = far.project("""
        @forebay.model(materialization_strategy="REPLACE")
        def good(numbers=forebay.Model("numbers")):
            return numbers

        @forebay.model(materialization_strategy="REPLACE")
        def bad(good=forebay.Model("good")):
            raise ValueError("no")
    """)
    assert far.run(project).failed().json["status"] == "FAILED"
    assert (far.head(), far.tables()) == (before, ["default.numbers"])


def test_large_tables_go_in_parts_and_come_back_by_ranges(far: Lab, tmp_path: Path) -> None:
    """Files larger than one part; a query reads the columns and row groups it needs."""
    import numpy

    rows = 1_500_000
    random = numpy.random.default_rng(1)
    table = pa.table({"id": numpy.arange(rows), "a": random.random(rows), "b": random.random(rows), "c": random.random(rows)})
    far.load("large", table)
    found = far.rows("SELECT sum(id) AS s, count(*) AS n FROM large WHERE id >= 1400000")[0]
    assert found == {"n": 100_000, "s": sum(range(1_400_000, rows))}
    total = far.rows("SELECT sum(a) AS a FROM large")[0]["a"]
    assert total == pytest.approx(float(table["a"].to_numpy().sum()))


def test_writers_in_a_race_lose_nothing(far: Lab) -> None:
    """Eight writers, each with its own table; then all appending to one."""
    sources = []
    for number in range(8):
        path = far.folder / f"w{number}.parquet"
        pa.parquet.write_table(numbers(number * 10, number * 10 + 10), path)
        sources.append(path)
    far.daemon()
    started = [far.start("table", "create", f"t{n}", "--search-uri", path) for n, path in enumerate(sources)]
    for command in started:
        command.wait().ok()
    assert far.tables() == [f"default.t{n}" for n in range(8)]
    started = [far.start("table", "import", "t0", "--search-uri", path) for path in sources]
    for command in started:
        command.wait().ok()
    assert far.rows("SELECT count(*) AS n, count(DISTINCT x) AS d FROM t0") == [{"n": 80, "d": 80}]


def test_two_daemons_on_one_lake(far: Lab, tmp_path: Path) -> None:
    """Machines share nothing but the bucket."""
    other = Lab(tmp_path / "other")
    other.folder.mkdir()
    other.environment.update({name: value for name, value in far.environment.items() if name.startswith("AWS_")})
    other.environment["FOREBAY_LAKE"] = far.environment["FOREBAY_LAKE"]
    try:
        far.load("numbers", numbers(0, 5))
        assert other.rows("SELECT count(*) AS n FROM numbers") == [{"n": 5}]
        started = [lab.start("branch", "create", f"{name}{n}") for n in range(10) for name, lab in (("a", far), ("b", other))]
        for command in started:
            command.wait().ok()
        assert len(far.json("branch", "ls")["branches"]) == 21
        same = [lab.start("branch", "create", "same") for lab in (far, other)]
        assert sorted(command.wait().code for command in same) == [0, 1]
    finally:
        other.forebay("daemon", "stop")


def test_a_server_that_dies(lab: Lab, tmp_path: Path) -> None:
    """Killed while a run works: the run fails and says why; what was acknowledged is there when the server is back."""
    server = S3Server(tmp_path / "s3").start()
    try:
        server.bucket("mortal")
        lab.environment.update(server.variables(), FOREBAY_LAKE="s3://mortal/wh")
        lab.load("numbers", numbers(0, 100))
        before = lab.head()
        gate = lab.gate()
        project = lab.project(f"""
            @forebay.model(materialization_strategy="REPLACE")
            def waits(numbers=forebay.Model("numbers")):
                {gate.code}
                return numbers
        """)
        run = lab.start_run(project)
        gate.wait()
        server.kill()
        gate.open()
        done = run.wait().failed(3)
        assert "LAK0083" in done.err + done.out, str(done)
        assert lab.forebay("branch", "ls").code == 3
        server.start()
        assert lab.head() == before
        assert lab.rows("SELECT count(*) AS n FROM numbers") == [{"n": 100}]
    finally:
        server.kill()


def test_what_is_missing_is_said(far: Lab, s3: S3Server) -> None:
    """Each with a code of its own, at once, and without a secret."""

    def code(**variables: str | None) -> str:
        kept = dict(far.environment)
        for name, value in variables.items():
            far.environment.pop(name, None)
            if value is not None:
                far.environment[name] = value
        done = far.forebay("branch", "ls", "-o", "json")
        far.environment = kept
        assert done.code != 0 and "secret-of" not in done.out + done.err, str(done)
        return done.json["error"]["code"]

    nobody = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, "AWS_METADATA_ENDPOINT": "http://127.0.0.1:1", "HOME": str(far.folder)}
    assert code(**nobody) == "LAK0080"
    assert code(FOREBAY_LAKE="s3://no-such-bucket-here/wh") == "LAK0081"
    assert code(AWS_SECRET_ACCESS_KEY="secret-of-somebody-else") == "LAK0082"
    assert code(AWS_ENDPOINT_URL="http://127.0.0.1:1") == "LAK0083"
    assert code(FOREBAY_LAKE="ftp://host/lake") == "CTL0023"
    assert code(AWS_PROFILE="nobody", AWS_ACCESS_KEY_ID=None) == "CTL0023"


def test_who_may_only_read(far: Lab, s3: S3Server) -> None:
    """Reads, and is told so when it would write."""
    far.load("numbers", numbers(0, 10))
    far.environment.update(s3.variables(READER))
    assert far.rows("SELECT count(*) AS n FROM numbers") == [{"n": 10}]
    done = far.forebay("branch", "create", "mine", "-o", "json").failed(3)
    assert done.json["error"]["code"] == "CAT0012", str(done)


def test_keys_come_from_files_and_profiles(far: Lab, s3: S3Server) -> None:
    """AWS's own files by AWS_PROFILE, and the profile of Forebay's configuration."""
    variables = s3.variables()
    for name in variables:
        far.environment.pop(name)
    (far.folder / "keys").write_text(
        f"[work]\naws_access_key_id = {variables['AWS_ACCESS_KEY_ID']}\naws_secret_access_key = {variables['AWS_SECRET_ACCESS_KEY']}\n"
    )
    (far.folder / "config").write_text(f"[profile work]\nregion = us-east-1\nendpoint_url = {s3.endpoint}\n")
    far.environment.update(
        AWS_PROFILE="work", AWS_SHARED_CREDENTIALS_FILE=str(far.folder / "keys"), AWS_CONFIG_FILE=str(far.folder / "config")
    )
    far.load("numbers", numbers(0, 10))
    for name in ("AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        far.environment.pop(name)
    far.environment["HOME"] = str(far.folder)
    lines = [f"{name.lower()} = {value!r}" for name, value in variables.items()]
    (far.home / "config.toml").write_text("[profiles.minio.storage]\n" + "\n".join(lines) + "\n")
    far.environment["FOREBAY_PROFILE"] = "minio"
    assert far.rows("SELECT count(*) AS n FROM numbers") == [{"n": 10}]
    (far.home / "config.toml").write_text("[profiles.minio.storage]\naws_acess_key = 'x'\n")
    assert far.forebay("branch", "ls", "-o", "json").failed(2).json["error"]["code"] == "CTL0002"


def test_user_code_gets_no_keys(far: Lab) -> None:
    """Neither in its environment, nor in what its process was told, nor in the records of the run."""
    far.load("numbers", numbers(0, 10))
    project = far.project("""
        import os

        @forebay.model(materialization_strategy="REPLACE")
        def spy(numbers=forebay.Model("numbers")):
            import gc
            told = [repr(one) for one in gc.get_objects() if isinstance(one, (dict, str, bytes))]
            secret = "secret-of" + "-the-tests"
            names = [name for name in os.environ if name.startswith("AWS")]
            return pa.table({"found": [sum(secret in one for one in told)], "names": [len(names)]})
    """)
    far.run(project).ok()
    assert far.rows("SELECT * FROM spy") == [{"found": 0, "names": 0}]
    far.forebay("daemon", "stop").ok()
    secret = far.environment["AWS_SECRET_ACCESS_KEY"].encode()
    for path in far.home.rglob("*"):
        if path.is_file():
            assert secret not in path.read_bytes(), path
