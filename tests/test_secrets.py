"""Secrets: a function gets the value, and nothing else does: no file, no log, no error, no record, no other process."""

from __future__ import annotations

import base64
import json
import os
import textwrap
import urllib.parse
from pathlib import Path

import pytest
from conftest import FOREBAY, HEADER, Lab

SECRET = "Q7zr-forebay'Secret/9+x=\u00e4 end"

DECLARED = '[parameters.token]\ntype = "secret"\nfrom = "{source}"\nrequired = true\n'

#: Tells the value in every way that happens by accident, and then fails with it.
LEAKY = """
    import base64, json, sys, urllib.parse, warnings

    def tell(token):
        raw = token.encode()
        basic = base64.b64encode(b"ann:" + raw).decode()
        print(token, repr(token), [token], {"token": token}, json.dumps(token), json.dumps({"t": token}, ensure_ascii=False))
        print(raw, raw.hex(), raw.hex(" "), raw.hex().upper(), base64.b64encode(raw), base64.urlsafe_b64encode(raw), basic)
        print(urllib.parse.quote(token), urllib.parse.quote_plus(token), urllib.parse.quote(token, safe=""), token[::-1], token.upper())
        half = len(token) // 2
        print(token[:half]); print(token[half:]); print("before", token, "after", file=sys.stderr)
        print("x" * 65530 + token)
        for part in (token[:half], token[half:]): sys.stdout.write(part); sys.stdout.flush()
        warnings.warn(token)

    @forebay.model()
    def shown(token=forebay.Parameter("token")):
        tell(token)
        return pa.table({"seen": [token], "length": [len(token)]})

    @forebay.model(materialization_strategy="REPLACE")
    def told(data=forebay.Model("shown"), token=forebay.Parameter("token")):
        assert data["seen"][0].as_py() == token, "another value"
        return pa.table({"length": data["length"], "first": [token[0]]})
"""


def shapes(value: str) -> set[bytes]:
    """What must be found nowhere."""
    raw = value.encode()
    texts = {value, repr(value), json.dumps(value)[1:-1], urllib.parse.quote(value), raw.hex(), value[: len(value) // 2], value[::-1]}
    encoded = {base64.b64encode(raw)[:-4], base64.b64encode(b"ann:" + raw)[8:-4], base64.urlsafe_b64encode(raw)[:-4]}
    return {text.encode() for text in texts} | encoded


def leaks(folder: Path, value: str, but: tuple[Path, ...] = ()) -> list[str]:
    """Files below a folder that hold the value in some shape."""
    wanted, found = shapes(value), []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if Path(place, name) not in but]
        for path in (Path(place, name) for name in files):
            if path in but or not path.is_file():
                continue
            data = path.read_bytes()
            found += [f"{path}: {shape!r}" for shape in wanted if shape in data]
    return found


def said(text: str, value: str) -> list[bytes]:
    """Shapes of the value in a text."""
    return [shape for shape in shapes(value) if shape in text.encode()]


def secret_project(lab: Lab, code: str, source: str = "env:TOKEN", name: str = "project") -> Path:
    return lab.project(code, name=name, settings=DECLARED.format(source=source))


def test_a_secret_is_seen_by_its_function_alone(lab: Lab) -> None:
    project = secret_project(lab, LEAKY)
    lab.environment["TOKEN"] = SECRET
    lab.environment["FOREBAY_SECRET_OTHER"] = SECRET
    lab.environment["FOREBAY_CACHE"] = str(lab.folder / "cache")
    done = lab.run(project, "--preview", "head").ok()
    outputs = [done, lab.forebay("run", "-p", project, "--preview", "tail").ok(), lab.forebay("plan", "-p", project, "-o", "json").ok()]
    assert lab.rows("SELECT length FROM told") == [{"length": len(SECRET)}]
    failing = secret_project(lab, LEAKY + "\n    @forebay.model()\n    def bad(token=forebay.Parameter('token')):\n        raise ValueError(token, {'a': token})\n", name="failing")
    outputs.append(lab.run(failing).failed())
    odd = secret_project(lab, "    @forebay.expectation()\n    def odd(data=forebay.Model('m'), token=forebay.Parameter('token')):\n        assert False, token\n    @forebay.model()\n    def m(token=forebay.Parameter('token')):\n        import os; os.write(1, token.encode()); os._exit(3) if token == 'x' else None\n        return pa.table({'x': [1]})\n", name="odd")
    outputs.append(lab.run(odd).failed())
    jobs = lab.json("job", "ls")["jobs"]
    for job in jobs:
        outputs += [lab.forebay("job", "get", job["id"], "-o", "json"), lab.forebay("job", "logs", job["id"])]
    outputs += [lab.forebay("commit", "main", "-o", "json").ok(), lab.forebay("daemon", "logs")]
    for output in outputs:
        assert not said(output.out + output.err, SECRET), output.args
    assert "***" in "".join(output.out + output.err for output in outputs)
    daemon = lab.daemon()
    assert SECRET.encode() not in Path(f"/proc/{daemon}/environ").read_bytes()
    assert not leaks(lab.folder, SECRET)


def test_a_secret_comes_from_where_the_project_or_the_run_says(lab: Lab) -> None:
    code = """
        @forebay.model(materialization_strategy="REPLACE")
        def t(token=forebay.Parameter("token")):
            import hashlib
            return pa.table({"hash": [hashlib.sha256(token.encode()).hexdigest()]})
    """
    import hashlib

    def is_used(value: str) -> None:
        assert lab.rows("SELECT hash FROM t") == [{"hash": hashlib.sha256(value.encode()).hexdigest()}]

    project = secret_project(lab, textwrap.dedent(code), "file:keys/token.txt")
    (project / "keys").mkdir()
    (project / "keys" / "token.txt").write_text("from the file\n")
    lab.run(project).ok()
    is_used("from the file")
    # A file that a secret is read from is no part of the project that is kept.
    assert not leaks(lab.home, "from the file")
    lab.environment["ELSEWHERE"] = "from a variable"
    lab.run(project, "--param", "token=env:ELSEWHERE").ok()
    is_used("from a variable")
    programs = lab.folder / "programs"
    programs.mkdir()
    tool = programs / "secret-tool"
    tool.write_text('#!/bin/sh\n[ "$*" = "lookup service bank username ann" ] || exit 1\nprintf "from the keyring"\n')
    tool.chmod(0o755)
    lab.environment["PATH"] = f"{programs}:{lab.environment['PATH']}"
    lab.run(project, "--param", "token=keyring:bank/ann").ok()
    is_used("from the keyring")
    assert not leaks(lab.home, "from the keyring") + leaks(lab.lake, "from the keyring")


def test_a_secret_that_cannot_be_had_is_told_and_not_told_about(lab: Lab) -> None:
    code = HEADER + "@forebay.model()\ndef t(token=forebay.Parameter('token')):\n    return pa.table({'x': [str(token)]})\n"
    project = secret_project(lab, {"models.py": code}, "env:NO_SUCH_TOKEN")
    failed = lab.run(project).failed(2)
    assert failed.json["error"]["code"] == "CLI0020" and "env:NO_SUCH_TOKEN" in failed.err
    failed = lab.run(project, "--param", f"token={SECRET}").failed(2)
    assert failed.json["error"]["code"] == "CLI0021" and not said(failed.out + failed.err, SECRET)
    failed = lab.run(project, "--param", "token=keyring:no-such-service/nobody").failed(2)
    assert failed.json["error"]["code"] == "CLI0020"
    # Not required: the function gets None.
    (project / "forebay.toml").write_text((project / "forebay.toml").read_text().replace("required = true", ""))
    lab.run(project).ok()


def test_a_secret_is_in_no_query(lab: Lab) -> None:
    project = secret_project(lab, {"m.sql": "SELECT 1 AS x WHERE 'a' = $token"})
    lab.environment["TOKEN"] = SECRET
    assert lab.run(project).failed().json["error"]["code"] == "PLN0038"


def test_detached_runs_have_their_secrets(lab: Lab) -> None:
    project = secret_project(lab, "    @forebay.model(materialization_strategy='REPLACE')\n    def t(token=forebay.Parameter('token')):\n        print(token)\n        return pa.table({'n': [len(token)]})\n")
    lab.environment["TOKEN"] = SECRET
    job = lab.run(project, "--detach").ok().json["job_id"]
    logs = lab.forebay("job", "logs", job, "--follow") if "--follow" in lab.forebay("job", "logs", "--help").out else None
    while lab.json("job", "get", job)["job"]["status"] == "RUNNING":
        pass
    assert lab.rows("SELECT n FROM t") == [{"n": len(SECRET)}]
    assert not leaks(lab.home, SECRET) and (logs is None or not said(logs.out, SECRET))


def test_the_python_client_seals_secrets(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    import forebay

    project = secret_project(lab, "    @forebay.model(materialization_strategy='REPLACE')\n    def t(token=forebay.Parameter('token')):\n        print(token)\n        return pa.table({'n': [len(token)]})\n")
    for name, value in lab.environment.items():
        if name.startswith("FOREBAY_") or name == "USER":
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("FOREBAY_BIN", FOREBAY)
    monkeypatch.delenv("FOREBAY_PROFILE", raising=False)
    monkeypatch.setenv("TOKEN", SECRET)
    client = forebay.Client()
    state = client.run(project, ref="main")
    state.raise_for_status()
    assert state.user_logs == ["t | ***"]
    monkeypatch.setenv("OTHER", SECRET[1:])
    assert client.run(project, ref="main", parameters={"token": "env:OTHER"}).job_status == "SUCCESS"
    assert lab.rows("SELECT n FROM t") == [{"n": len(SECRET) - 1}]
    with pytest.raises(forebay.ForebayError) as raised:
        client.run(project, ref="main", parameters={"token": SECRET})
    assert not said(str(raised.value), SECRET)
    client.plan(project, ref="main")
    assert not leaks(lab.home, SECRET)
