"""Hostile functions, run for real: what they may not do fails, what they break is theirs alone. As root, and as an ordinary user.

Tests of an ordinary user run when the tests themselves are root's, which is the only way to be both.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import CACHE, END_S, FOREBAY, ROOT, Lab, descendants, ends, is_launcher, node, parents

STORED = '@forebay.model(materialization_strategy="REPLACE")\n'
IS_ROOT = os.geteuid() == 0
#: Somebody who owns nothing.
NOBODY = 65534
AS_NOBODY = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]


class NobodysLab(Lab):
    """A lab whose commands run as an ordinary user."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        cache = Path(f"{CACHE}-of-nobody")
        cache.mkdir(parents=True, exist_ok=True)
        for place in (folder, cache):
            os.chown(place, NOBODY, NOBODY)
        self.environment.update(
            FOREBAY_CACHE=str(cache), UV_CACHE_DIR=str(cache / "uv"), HOME=str(folder), FOREBAY_PYTHONS="/usr/bin"
        )

    def command(self) -> list[str]:
        return [*AS_NOBODY, FOREBAY]

    def sandbox(self, **settings: object) -> None:
        super().sandbox(**settings)
        for path in (self.home, self.home / "config.toml"):
            os.chown(path, NOBODY, NOBODY)


def needs_root() -> None:
    if not IS_ROOT:
        pytest.skip("skipped: only root can be an ordinary user as well")


@pytest.fixture(params=["as the caller", "as an ordinary user"])
def world(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab of the caller, and one of an ordinary user."""
    if request.param == "as an ordinary user":
        needs_root()
        if not Path("/usr/bin/python3").exists():
            pytest.skip("skipped: no interpreter that every user may run")
        if subprocess.run([*AS_NOBODY, "test", "-r", str(ROOT / "README.md"), "-a", "-x", FOREBAY]).returncode != 0:
            pytest.skip("skipped: this checkout is in a folder that other users may not enter")
    # Below `/tmp` itself: pytest's folders are private to the caller.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        lab = (NobodysLab if request.param == "as an ordinary user" else Lab)(Path(folder))
        yield lab
        lab.forebay("daemon", "stop")
        assert [process for process in descendants(os.getpid()) if not ends(process, END_S)] == []


@pytest.fixture
def outside(world: Lab) -> Iterator[dict[str, object]]:
    """Things of the host that no function may reach."""
    user = world.folder / "user"
    keys = user / ".ssh"
    keys.mkdir(parents=True)
    (keys / "id_rsa").write_text("the key")
    for place in (user, keys, keys / "id_rsa"):
        place.chmod(0o777)
    world.environment["SECRET_TOKEN"] = "the token"
    sockets = {
        "tcp": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
        "udp": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
        "abstract": (socket.AF_UNIX, socket.SOCK_STREAM, f"\0forebay-test-{os.getpid()}"),
        "path": (socket.AF_UNIX, socket.SOCK_STREAM, str(world.folder / "socket")),
    }
    made = {}
    for name, (family, kind, address) in sockets.items():
        made[name] = socket.socket(family, kind)
        made[name].bind(address)
        if kind == socket.SOCK_STREAM:
            made[name].listen()
    os.chmod(world.folder / "socket", 0o777)
    made["udp"].setblocking(False)
    yield {
        "keys": str(keys / "id_rsa"),
        "folder": str(world.folder),
        "test": os.getpid(),
        "udp_socket": made["udp"],
        **{name: one.getsockname() for name, one in made.items() if name != "abstract"},
        "abstract": sockets["abstract"][2],
    }
    for one in made.values():
        one.close()


#: Each is an expression that is true if the attack succeeds. `o` is what is outside, `libc` the C library.
ATTACKS = {
    "TCP to the host": "socket.create_connection(tuple(o['tcp']), 2)",
    "TCP to the world": "socket.create_connection(('1.1.1.1', 443), 2)",
    "names of the world": "socket.getaddrinfo('pypi.org', 443)",
    "UDP to the host": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', tuple(o['udp'])) and False",
    "an abstract socket of the host": "connect(o['abstract'])",
    "a socket of the host by its path": "connect(o['path'])",
    "raw sockets": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "packet sockets": "socket.socket(17, socket.SOCK_RAW, 0)",
    "vsock": "socket.socket(40, socket.SOCK_STREAM, 0)",
    "the user's key": "open(o['keys']).read()",
    "the lake": "os.listdir(o['folder'] + '/lake')",
    "the home of Forebay": "os.listdir(o['folder'] + '/home/run')",
    "password hashes": "open('/etc/shadow').read()",
    "the host's processes": "[p for p in os.listdir('/proc') if p.isdigit() and int(p) > 100]",
    "the test's environment": "b'PATH' in open(f\"/proc/{o['test']}/environ\", 'rb').read()",
    "the first process's memory": "open('/proc/1/mem', 'rb').seek(0) and True",
    "the first process's environment": "open('/proc/1/environ').read()",
    "the first process's descriptors": "os.listdir('/proc/1/fd')",
    "the daemon's token": "os.environ.get('SECRET_TOKEN') or 'the token' in open('/proc/self/environ').read()",
    "killing the first process": "os.kill(1, 9) or not os.path.exists('/proc/1')",
    "killing the test": "os.kill(o['test'], 0) or True",
    "writing the project": "open(os.path.join(os.path.dirname(__file__), 'new.py'), 'w')",
    "rewriting the project": "open(__file__, 'a')",
    "unlocking the project": "os.chmod(os.path.dirname(__file__), 0o777) or True",
    "writing the environment": "open(os.path.join(os.path.dirname(pa.__file__), 'new.py'), 'w')",
    "rewriting the environment": "open(pa.__file__, 'a')",
    "writing our own module": "open(os.path.join(os.path.dirname(sys.modules['forebay._function'].__file__), 'x'), 'w')",
    "writing the interpreter": "open(os.__file__, 'a')",
    "writing the root": "os.mkdir('/new') or True",
    "writing /etc": "open('/etc/passwd', 'a')",
    "becoming root": "os.setuid(0) or True",
    "becoming another": "os.setresuid(1, 1, 1) or True",
    "programs with root's rights": "os.system('su -c true nobody </dev/null >/dev/null 2>&1') == 0",
    "capabilities": "[l for l in open('/proc/self/status') if l.startswith('Cap') and int(l.split()[1], 16)]",
    "new privileges": "[l for l in open('/proc/self/status') if l.startswith('NoNewPrivs') and l.split()[1] != '1']",
    "no seccomp": "[l for l in open('/proc/self/status') if l.startswith('Seccomp:') and l.split()[1] != '2']",
    "mount": "libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None) == 0",
    "remount": "libc.mount(None, b'/', None, 32, None) == 0",
    "umount": "libc.umount2(b'/tmp', 2) == 0",
    "chroot": "os.chroot('/tmp') or True",
    "a user namespace": "libc.unshare(0x10000000) == 0",
    "a user namespace by clone": "libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0) >= 0",
    "another's namespace": "libc.setns(os.open('/proc/1/ns/net', os.O_RDONLY), 0) == 0",
    "ptrace": "libc.ptrace(16, os.getppid(), 0, 0) == 0",
    "another's memory": "libc.process_vm_readv(1, None, 0, None, 0, 0) >= 0",
    "io_uring": "libc.syscall(425, 1, ctypes.create_string_buffer(200)) >= 0",
    "bpf": "libc.syscall(321, 0, None, 0) >= 0 or ctypes.get_errno() != 1",
    "userfaultfd": "libc.syscall(323, 0) >= 0",
    "perf": "libc.syscall(298, None, 0, -1, -1, 0) >= 0 or ctypes.get_errno() != 1",
    "keys of the kernel": "libc.syscall(250, 0, -3, 0) >= 0",
    "files by handle": "libc.syscall(304, -100, None, 0) >= 0 or ctypes.get_errno() != 1",
    "kernel modules": "libc.syscall(313, 0, b'', 0) >= 0 or ctypes.get_errno() != 1",
    "reboot": "libc.syscall(169, 0, 0, 0, 0) >= 0 or ctypes.get_errno() != 1",
    "the clock": "__import__('time').clock_settime(0, 0) or True",
    "a device": "os.mknod('/tmp/disk', 0o60600, os.makedev(254, 0)) or True",
    "the kernel's keyboard": "open('/proc/sysrq-trigger', 'w').write('h')",
    "kernel settings": "open('/proc/sys/kernel/core_pattern', 'w')",
    "living longer than others": "open('/proc/self/oom_score_adj', 'w').write('-1000')",
    "the kernel's log": "libc.klogctl(3, ctypes.create_string_buffer(10), 10) >= 0",
    "/sys": "os.listdir('/sys')",
    "the terminal": "open('/dev/tty')",
    "disks": "[d for d in os.listdir('/dev') if d.startswith(('sd', 'vd', 'nvme', 'kmsg', 'mem'))]",
    "descriptors that were not meant for it": "[f for f in os.listdir('/proc/self/fd') if int(f) > 2 and odd(f)]",
    "raising its limits": "resource.setrlimit(resource.RLIMIT_NPROC, (10**6, 10**6)) or resource.getrlimit(resource.RLIMIT_NPROC)[0] > 4096",
}

ATTACKER = """
import ctypes, json, os, resource, socket, sys
import forebay
import pyarrow as pa

o = json.loads({outside!r})
attacks = json.loads({attacks!r})
libc = ctypes.CDLL(None, use_errno=True)

def connect(address):
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    one.connect(address)
    return True

def odd(name):
    try:
        what = os.readlink("/proc/self/fd/" + name)
    except OSError:
        return False  # The listing itself.
    # Its channel is a socket, its inputs and the arena are memory files; libraries keep what they opened themselves.
    return not what.startswith(("socket:", "/memfd:", "/dev/", "/proc/", "anon_inode:"))

@forebay.model(materialization_strategy="REPLACE")
def attacker():
    names, outcomes = [], []
    for name, code in attacks.items():
        try:
            outcome = "succeeded" if eval(code) else "refused"
        except Exception as error:
            outcome = "refused"
            print(name, "->", type(error).__name__, error)
        names.append(name)
        outcomes.append(outcome)
    return pa.table({{"name": names, "outcome": outcomes}})
"""


def test_attacks_fail(world: Lab, outside: dict[str, object]) -> None:
    """Files, network, other processes, privileges: one function tries all."""
    udp = outside.pop("udp_socket")
    source = ATTACKER.format(outside=json.dumps(outside), attacks=json.dumps(ATTACKS))
    project = world.project({"models.py": source})
    done = world.run(project).ok()
    rows = world.rows("SELECT name, outcome FROM attacker")
    assert len(rows) == len(ATTACKS)
    assert [row["name"] for row in rows if row["outcome"] != "refused"] == [], str(done)
    with pytest.raises(BlockingIOError):
        udp.recv(10)  # type: ignore[attr-defined]
    assert world.functions() == []


def test_the_network_is_there_for_those_who_asked(world: Lab, outside: dict[str, object]) -> None:
    """`internet_access=True` gives the host's network, and nothing else of the host."""
    code = f"""
        @forebay.model(materialization_strategy="REPLACE", internet_access=True)
        def t():
            import os, socket
            socket.create_connection({outside["tcp"]!r}, 5).close()
            seen = os.path.exists({outside["keys"]!r}) or os.listdir("/run")
            return {{"seen": [bool(seen)], "names": [os.path.exists("/etc/resolv.conf")]}}
    """
    world.run(world.project(code)).ok()
    assert world.rows("SELECT seen, names FROM t") == [{"seen": False, "names": True}]


def test_functions_of_a_run_see_nothing_of_each_other(world: Lab) -> None:
    """Two at once: no file, process, shared memory, message queue or socket of one is seen by the other."""
    gate = world.gate()
    code = f"""
        def leave():
            import os, socket
            for folder in ("/tmp", "/dev/shm", "/tmp/home"):
                open(folder + "/mine", "w").write("secret")
            left = socket.socket(socket.AF_UNIX)
            left.bind("\\0meeting")
            left.listen()
            return left

        @forebay.model()
        def first():
            left = leave()
            {gate.code}
            return {{"x": [1]}}

        @forebay.model()
        def second():
            import os, socket
            {gate.code}
            found = [folder for folder in ("/tmp", "/dev/shm", "/tmp/home") if os.path.exists(folder + "/mine")]
            found += [p for p in os.listdir("/proc") if p.isdigit() and p not in ("1", str(os.getpid()))]
            try:
                socket.socket(socket.AF_UNIX).connect("\\0meeting")
                found.append("socket")
            except OSError:
                pass
            return pa.table({{"found": pa.array(found, pa.string())}})

        {STORED.strip()}
        def both(a=forebay.Model("first"), b=forebay.Model("second")):
            return b
    """
    run = world.start_run(world.project(code))
    gate.wait(2)
    gate.open(2)
    run.wait().ok()
    assert world.rows("SELECT found FROM both") == []


def test_one_call_leaves_nothing_for_the_next(world: Lab) -> None:
    code = STORED + "def t():\n    import os\n    seen = os.listdir('/tmp') + os.listdir('/dev/shm')\n" + (
        "    open('/tmp/mine', 'w').close(); open('/dev/shm/mine', 'w').close()\n    return {'seen': [str(sorted(seen))]}\n"
    )
    for _ in range(2):
        world.run(world.project(code)).ok()
        assert "mine" not in world.rows("SELECT seen FROM t")[0]["seen"]


#: Code, and the codes of errors it may end with; `None`: it succeeds.
DISASTERS = {
    "an endless loop": ("while True: pass", "timeout=1", ["RUN0012"]),
    "sleeping for ever": ("os.kill(os.getpid(), signal.SIGSTOP)", "timeout=1", ["RUN0012"]),
    "a fork bomb": ("while True:\n    try: os.fork()\n    except OSError: pass", 'timeout=3, memory="300M"', ["RUN0012", "RUN0031"]),
    "a memory hog": ("hoard = [bytearray(10_000_000) for _ in range(10**6)]", 'memory="300M"', ["RUN0031"]),
    "a hog of shared memory": (
        "f = os.memfd_create('x')\nfor _ in range(10**4): os.write(f, bytes(10**6))",
        'memory="300M", timeout=20',
        ["RUN0031", "RUN0012", None],
    ),
    "filling /tmp": ("f = open('/tmp/x', 'wb')\nwhile True: f.write(bytes(10**6))", 'memory="300M"', ["RUN0120"]),
    "filling /dev/shm": ("f = open('/dev/shm/x', 'wb')\nwhile True: f.write(bytes(10**6))", 'memory="300M"', ["RUN0120"]),
    "10 GB of print": ("line = b'x' * (1 << 20)\nfor _ in range(10_000): os.write(1, line)", "", [None]),
    "a segmentation fault": ("ctypes.string_at(0)", "", ["RUN0011"]),
    "abort": ("os.abort()", "", ["RUN0011"]),
    "os._exit": ("os._exit(0)", "", ["RUN0010"]),
    "no descriptors": ("os.closerange(0, 10_000)", "", ["RUN0010", "RUN0011", "RUN0115", "RUN0015", "IPC0101"]),
    "writing to its channel": (
        "for n in range(3, 64):\n    try: os.write(n, b'garbage' * 1000)\n    except OSError: pass",
        "",
        ["RUN0015", "RUN0010", "RUN0115", None],
    ),
    "killing everybody": ("os.kill(-1, signal.SIGKILL)", "", [None, "RUN0101"]),
    "daemons": (
        "for _ in range(5):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n"
        "            for s in range(1, 32):\n                try: signal.signal(s, signal.SIG_IGN)\n                except (OSError, ValueError): pass\n"
        "            while True: time.sleep(100)\n        os._exit(0)",
        "",
        [None],
    ),
    "threads without end": (
        "threads = []\nwhile True:\n    threads.append(threading.Thread(target=threading.Event().wait, daemon=True))\n    threads[-1].start()",
        "timeout=60",
        ["RUN0121", "RUN0012", "RUN0031"],
    ),
}


def test_disasters_are_the_functions_own(world: Lab) -> None:
    """Through all of them a function of another run waits, and then finds its data as it was; the daemon stays the same."""
    gate = world.gate()
    patient = f"""
        @forebay.model()
        def data():
            return {{"x": list(range(100_000))}}

        {STORED.strip()}
        def patient(data=forebay.Model("data")):
            import pyarrow.compute as pc
            {gate.code}
            return {{"sum": [pc.sum(data["x"]).as_py()]}}
    """
    daemon = world.daemon()
    waiting = world.start_run(world.project(patient, "patient"))
    [process] = gate.wait()
    wrong = []
    for name, (body, limits, codes) in DISASTERS.items():
        limited = f"@forebay.resources({limits})\n" if limits else ""
        source = f"import ctypes, os, signal, threading, time\nimport forebay\n\n{STORED}{limited}def t():\n"
        source += textwrap.indent(body, "    ") + "\n    return {'x': [1]}\n"
        done = world.run(world.project({"models.py": source}, "disaster"))
        code = (done.json["error"] or {}).get("code")
        if code not in codes or done.code != (0 if code is None else 3 if code == "RUN0015" else 1):
            wrong.append(f"{name}: {done.code}, {code}\n{str(done)[-3000:]}")
        assert len(done.err) < 50_000_000, name
        others = [one for one in world.functions() if one != process and world_of(one) != world_of(process)]
        assert others == [], name
        assert world.daemon() == daemon, name
    gate.open()
    waiting.wait().ok()
    assert world.rows("SELECT sum FROM patient") == [{"sum": 4_999_950_000}]
    assert not wrong, "\n\n".join(wrong)


def world_of(process: int) -> str:
    """The process namespace of a process."""
    try:
        return os.readlink(f"/proc/{process}/ns/pid_for_children")
    except OSError:
        return ""


def test_memory_of_all_processes_of_a_function_counts(lab: Lab) -> None:
    """Where control groups are ours: four processes that together use too much."""
    found = [check for check in lab.forebay("doctor", "-o", "json").json["checks"] if check["name"] == "limits"]
    if found[0]["status"] != "ok":
        pytest.skip("skipped: no control groups here")
    code = """
        @forebay.resources(memory="300M", timeout=150)
        @forebay.model()
        def t():
            import multiprocessing
            with multiprocessing.get_context("fork").Pool(4) as pool:
                pool.map(hold, range(4))
            return {"x": [1]}

        def hold(n):
            import time
            kept = b"x" * 150_000_000
            time.sleep(5)
    """
    failed = lab.run(lab.project(code)).failed(1)
    # The kernel picks one of them, and a pool waits for ever for a worker that was killed: all of them end.
    assert failed.json["error"]["code"] == "RUN0031", str(failed)


def test_errors_say_limit_and_peak_and_what_to_do(lab: Lab) -> None:
    body = """
        @forebay.model()
        @forebay.resources(memory="200M")
        def greedy():
            print("before the end")
            hoard = []
            while True:
                hoard.append(b"x" * 1_000_000)
    """
    failed = lab.run(lab.project(body)).failed(1)
    error = failed.json["error"]
    assert error["code"] == "RUN0031" and "200 MiB" in error["message"], str(failed)
    assert "memory=" in error["hint"] and "before the end" in failed.err
    late = '@forebay.resources(timeout=1)\n@forebay.model()\ndef late():\n    print("almost")\n    while True: pass\n'
    failed = lab.run(lab.project(late)).failed(1)
    assert failed.json["error"]["code"] == "RUN0012" and "almost" in str(failed.json["error"]["causes"])


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
def test_a_full_disk_says_limit_and_peak_and_what_to_do(lab: Lab, folder: str) -> None:
    """Also when what filled it is removed on the way, as temporary files are."""
    body = f"""
        @forebay.model()
        @forebay.resources(memory="200MiB")
        def writer():
            import tempfile
            with open("{folder}/kept", "wb") as kept:
                kept.write(bytes(30 << 20))
            with tempfile.TemporaryFile(dir="{folder}") as file:
                while True:
                    file.write(bytes(1 << 20))
    """
    failed = lab.run(lab.project(body)).failed(1)
    error = failed.json["error"]
    assert error["code"] == "RUN0120", str(failed)
    [told] = [cause for cause in error["causes"] if cause.startswith(f"`{folder}`")]
    assert "holds 100 MiB at most; 30 MiB are in use now" in told and 'memory="400MiB"' in error["hint"], str(failed)


def test_limits_of_a_run_stand_above_those_of_its_models(lab: Lab) -> None:
    """The same code on a month and on a year."""
    body = """
        @forebay.model(materialization_strategy="REPLACE")
        @forebay.resources(memory="100M", cpus=1)
        def t():
            import os
            return {"size": [len(b"x" * 150_000_000)], "threads": [os.environ["OMP_NUM_THREADS"]]}
    """
    project = lab.project(body)
    assert lab.run(project).failed(1).json["error"]["code"] == "RUN0031"
    lab.run(project, "--memory", "2GiB", "--cpus", "2").ok()
    assert lab.rows("SELECT size, threads FROM t") == [{"size": 150_000_000, "threads": "2"}]
    assert lab.run(project, "--memory", "much").code == 2
    assert lab.run(project, "--cpus", "0").code == 2


def without_user_namespaces(lab: Lab) -> None:
    """Makes all commands of a lab run on a host that forbids user namespaces, as its administrator would."""
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"'
    lab.command = lambda: ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", FOREBAY]  # type: ignore[method-assign]


def test_a_host_without_user_namespaces(lab: Lab) -> None:
    """It is told, functions still run with what is left, and strict mode refuses."""
    probe = subprocess.run(["unshare", "--user", "--map-root-user", "true"], check=False)
    if probe.returncode:
        pytest.skip("skipped: this host forbids user namespaces to begin with")
    without_user_namespaces(lab)
    checks = {check["name"]: check for check in lab.forebay("doctor", "-o", "json").json["checks"]}
    assert checks["sandbox"]["status"] == "warning", checks
    assert "user namespaces" in checks["sandbox"]["found"] and "max_user_namespaces" in checks["sandbox"]["fix"]
    secret = lab.folder / "secret"
    secret.write_text("the key")
    code = f"""
        {STORED.strip()}
        def t():
            import os, socket, tempfile
            outcomes = []
            for attack in (
                lambda: open({str(secret)!r}).read(),
                lambda: open({str(lab.folder / "new")!r}, "w"),
                lambda: open(__file__, "a"),
                lambda: socket.create_connection(("127.0.0.1", 1), 1),
                lambda: os.kill(os.getppid(), 0) if False else os.unshare(0) if False else open("/etc/shadow").read(),
            ):
                try:
                    attack()
                    outcomes.append("succeeded")
                except (PermissionError, FileNotFoundError) as error:
                    outcomes.append("refused")
            tempfile.TemporaryFile().write(b"x")
            return {{"outcome": outcomes}}
    """
    project = lab.project(code)
    lab.run(project).ok()
    assert {row["outcome"] for row in lab.rows("SELECT outcome FROM t")} == {"refused"}
    lab.sandbox(mode="strict")
    failed = lab.run(project).failed(3)
    assert failed.json["error"]["code"] == "RUN0030" and "user namespaces" in str(failed.json["error"]["causes"])
    assert lab.functions() == []


def test_settings_of_the_sandbox(lab: Lab) -> None:
    """An administrator may let functions see more, or switch the sandbox off."""
    reference = lab.folder / "reference"
    reference.mkdir()
    (reference / "rates.csv").write_text("1")
    reading = f"def t():\n    return {{'x': [open({str(reference / 'rates.csv')!r}).read()]}}\n"
    project = lab.project(STORED + reading)
    assert "FileNotFoundError" in lab.run(project).failed(1).err
    for part in (lab.folder, *lab.folder.parents):
        if part.stat().st_uid == os.geteuid() and part != Path("/"):
            part.chmod(part.stat().st_mode | 0o011)
    lab.sandbox(read=[str(reference)])
    lab.run(project).ok()
    writing = STORED + f"def t():\n    open({str(reference / 'rates.csv')!r}, 'w')\n    return {{'x': [1]}}\n"
    lab.run(lab.project(writing, "writing")).failed(1)
    lab.sandbox(mode="off")
    lab.run(lab.project(writing, "writing")).ok()
    lab.sandbox(mode="on")
    failed = lab.run(project)
    assert failed.code == 2 and "`auto`" in failed.err, str(failed)


def test_the_parent_of_all_functions_may_die(lab: Lab) -> None:
    """The launcher is started again; what it had started goes on."""
    gate = lab.gate()
    project = lab.project(f"{STORED}def t():\n    {gate.code}\n    return {{'x': [1]}}\n")
    run = lab.start_run(project)
    gate.wait()
    daemon = lab.daemon()
    [launcher] = [one for one in descendants(daemon) if parents().get(one) == daemon and is_launcher(one)]
    os.kill(launcher, 9)
    gate.open()
    run.wait().ok()
    lab.run(lab.project(STORED + "def u():\n    return {'x': [1]}\n", "other")).ok()

