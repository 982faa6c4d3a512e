"""From a producer's `return` to a consumer holding its table, and to the consumer's first full scan.

Forebay (a run of a project of two models) against (a) an Arrow IPC file on /dev/shm that the consumer maps, (b) Arrow IPC
through a socket, (c) Parquet on disk, (d) Ray's object store. Interleaved in one run; medians; memory is measured in rounds
of its own, so that sampling costs nobody time. See README.md beside this file for what is fair about it and what each column means.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import _tables
from _lab import BENCH, GIB, Idle, Lab, Memory, Run, available, facts, kill, median, ms, options, record, show, size, touch, uv

SYSTEMS = {"forebay": "Forebay", "ipc-file": "(a) IPC file, mapped", "ipc-socket": "(b) IPC, socket", "parquet": "(c) Parquet", "ray": "(d) Ray"}
RAY = "ray==2.60.0"
#: How often a hand-over of a round is tried until it is not disturbed.
TRIES = 6

MODELS = """
import forebay


@forebay.model()
def producer():
    import sys, time
    from shared import tables
    import pyarrow

    print("note python", sys.executable)
    print("note pyarrow", pyarrow.__version__)
    table = tables.build({kind!r}, {rows})
    print("note bytes", table.nbytes)
    print("stamp returned", time.monotonic_ns())
    return table


@forebay.model()
def consumer(data=forebay.Model("producer")):
    import time
    held = time.monotonic_ns()
    from shared import tables
    begin = time.monotonic_ns()
    total = tables.scan(data)
    end = time.monotonic_ns()
    print("stamp held", held)
    print("stamp begin", begin)
    print("stamp end", end)
    print("note total", total)
    return {{"total": [total]}}
"""


class Bench:
    """The systems, and what they need of each other: the interpreter and package versions of Forebay's environment."""

    def __init__(self, lab: Lab, idle: Idle) -> None:
        self.lab = lab
        self.idle = idle
        self.daemon = lab.daemon()
        project = self.project("numbers", 1000)
        self.notes = lab.run(project).notes  # builds the environment
        self.python = self.notes["python"]
        self.without: dict[str, str] = {}
        self.ray_is_there = False

    def project(self, kind: str, rows: int) -> Path:
        """The project of two models."""
        tables = (BENCH / "_tables.py").read_text()
        return self.lab.project({"models.py": MODELS.format(kind=kind, rows=rows), "shared/tables.py": tables})

    def forebay(self, kind: str, rows: int, bytes_: int, memory: bool) -> dict[str, Any]:
        """One run."""
        project = self.project(kind, rows)
        touch(int(bytes_ * 1.1))
        peak = Memory([self.daemon], self.lab.shm)
        run = measured(peak, memory, lambda: self.lab.run(project))
        stamps, producer, consumer = run.stamps, run.node("producer"), run.node("consumer")
        scan = stamps["end"] - stamps["begin"]
        ways = {way: run.bytes(way, ["producer"]) for way in ("referenced", "reshared", "copied", "inline")}
        return {
            "publish": producer.get("publish_seconds"),
            "receive": consumer.get("receive_seconds"),
            "hold": (stamps["held"] - stamps["returned"]) / 1e9,
            "scan": scan / 1e9,
            "total": (stamps["held"] - stamps["returned"] + scan) / 1e9,
            "sum": total_of(run),
            "bytes": int(run.notes["bytes"]),
            "copied": ways["copied"],
            "ways": ways,
            **peaks(peak, memory),
        }

    def pair(self, system: str, kind: str, rows: int, bytes_: int, memory: bool) -> dict[str, Any]:
        """One hand-over between two plain processes."""
        path = (self.lab.folder if system == "parquet" else self.lab.shm) / "table"
        ends = socket.socketpair()
        touch(int(bytes_ * 1.1))
        command = [self.python, "-u", str(BENCH / "_peers.py")]
        peers = []
        for role, end in zip(("consume", "produce"), ends):
            arguments = [role, system, kind, str(rows), str(path), str(end.fileno())]
            peers.append(subprocess.Popen([*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[end.fileno()]))
        for end in ends:
            end.close()
        peak = Memory([peer.pid for peer in peers], self.lab.shm)

        def hand_over() -> tuple[dict[str, Any], dict[str, Any]]:
            heard(peers[0]), heard(peers[1])
            touch(int(bytes_ * 1.1))
            tell(peers[1])
            return heard(peers[1]), heard(peers[0])

        try:
            put, got = measured(peak, memory, hand_over)
        finally:
            for peer in peers:
                tell(peer)
                peer.wait()
            written = path.stat().st_size if path.exists() else bytes_
            path.unlink(missing_ok=True)
        return {
            "publish": (put["published"] - put["returned"]) / 1e9,
            "receive": (got["held"] - got["begun"]) / 1e9,
            **since(put, got),
            # Into the file or the socket; a socket and Parquet are copied out again.
            "copied": written if system == "ipc-file" else 2 * bytes_ if system == "ipc-socket" else written + bytes_,
            **peaks(peak, memory),
        }

    def ray(self, kind: str, rows: int, bytes_: int, memory: bool) -> dict[str, Any]:
        """One hand-over through Ray, in an environment of its own with the same Python and pyarrow."""
        program = uv()
        if program is None:
            raise Missing("there is no uv to install Ray with")
        packages = ["--with", RAY, "--with", f"pyarrow=={self.notes['pyarrow']}"]
        command = [program, "run", "--no-project", "--isolated", "--python", self.python, *packages, "python"]
        if not self.ray_is_there and subprocess.run([*command, "-c", "import ray"], capture_output=True).returncode:
            raise Missing(f"could not install {RAY}")
        self.ray_is_there = True
        touch(int(bytes_ * 1.1))
        arguments = [str(BENCH / "_peers.py"), "ray", str(bytes_), kind, str(rows)]
        environment = dict(os.environ, PYTHONPATH=str(BENCH), RAY_ENABLE_UV_RUN_RUNTIME_ENV="0", RAY_USAGE_STATS_ENABLED="0")
        driver = subprocess.Popen([*command, *arguments], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        peak = Memory([driver.pid], self.lab.shm)

        def hand_over() -> dict[str, Any]:
            heard(driver)
            touch(int(bytes_ * 1.1))
            tell(driver)
            return heard(driver)

        try:
            got = measured(peak, memory, hand_over)
        finally:
            tell(driver)
            driver.communicate()
        return {**since(got, got), "copied": bytes_, **peaks(peak, memory)}

    def hand_over(self, system: str, kind: str, rows: int, bytes_: int, memory: bool) -> dict[str, Any]:
        """One hand-over through any of them."""
        if system == "forebay":
            return self.forebay(kind, rows, bytes_, memory)
        if system == "ray":
            return self.ray(kind, rows, bytes_, memory)
        return self.pair(system, kind, rows, bytes_, memory)


class Missing(Exception):
    """A baseline that cannot be had here."""


def since(put: dict[str, Any], got: dict[str, Any]) -> dict[str, Any]:
    """The times of a baseline that both sides have stamped."""
    return {
        "hold": (got["held"] - put["returned"]) / 1e9,
        "scan": (got["scanned"] - got["held"]) / 1e9,
        "total": (got["scanned"] - put["returned"]) / 1e9,
        "sum": got["total"],
    }


def measured(peak: Memory, memory: bool, work: Any) -> Any:
    """Does it, sampled or not."""
    if not memory:
        return work()
    with peak:
        return work()


def peaks(peak: Memory, memory: bool) -> dict[str, int]:
    """What was sampled."""
    return {"peak": peak.peak} if memory else {}


def total_of(run: Run) -> float:
    """The scan's sum as the consumer said it; compared with the baselines'."""
    return float(run.notes["total"])


def heard(peer: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line of a process."""
    assert peer.stdout
    line = peer.stdout.readline()
    if not line:
        kill(peer.pid)
        sys.exit(f"a baseline ended early: {peer.args}\n{peer.stderr.read() if peer.stderr else ''}")
    return json.loads(line)


def tell(peer: subprocess.Popen[str]) -> None:
    """Lets a process go on."""
    assert peer.stdin
    try:
        peer.stdin.write("\n")
        peer.stdin.flush()
    except BrokenPipeError:
        pass


def compare(bench: Bench, kind: str, bytes_: int, systems: list[str], rounds: int) -> dict[str, dict[str, Any]]:
    """All systems in turn, `rounds` times with a clock and once with a look at memory; medians."""
    rows = _tables.rows_of(kind, bytes_)
    found: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
    for number in range(rounds + 1):
        for place in range(len(systems)):
            system = systems[(place + number) % len(systems)]
            if system in bench.without:
                continue
            try:
                for _ in range(TRIES):
                    bench.idle.became_slow()
                    one = bench.hand_over(system, kind, rows, bytes_, memory=number == rounds)
                    one["disturbed"] = number < rounds and bench.idle.became_slow()
                    found[system].append(one)
                    if not one["disturbed"]:
                        break
            except Missing as why:
                bench.without[system] = str(why)
                print(f"{SYSTEMS[system]} is left out: {why}")
    result = {}
    for system, hand_overs in found.items():
        if not hand_overs:
            continue
        timed, last = undisturbed(system, hand_overs[:-1]), hand_overs[-1]
        sums = {round(one["sum"] / hand_overs[0]["sum"], 9) for one in hand_overs}
        assert sums == {1.0}, f"{system} handed over another table: {sums}"
        result[system] = {name: median(one.get(name) for one in timed) for name in ("publish", "receive", "hold", "scan", "total")}
        result[system].update(sum=last["sum"], copied=last["copied"], peak=last["peak"], ways=last.get("ways"), bytes=last.get("bytes"))
    return result


def undisturbed(system: str, timed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those while which memory did not become slow (see `Idle`), unless it did in all; what the others took is printed."""
    apart = [one for one in timed if one["disturbed"]]
    if apart:
        times = "   ".join(f"{name} {ms(median(one.get(name) for one in apart))}" for name in ("publish", "receive", "hold", "scan"))
        kept = "are left out" if len(apart) < len(timed) else "count all the same"
        print(f"{SYSTEMS[system]}: {len(apart)} of {len(timed)} hand-overs, while which the machine's memory became slow, {kept}: {times}")
    return [one for one in timed if not one["disturbed"]] or timed


def report(kind: str, bytes_: int, result: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Prints one comparison and gives its line of the history."""
    real = result["forebay"]["bytes"] if "forebay" in result else bytes_
    base = result.get("ipc-file", {})
    print(f"{kind}, {size(real)}, ten columns (milliseconds)")
    rows = []
    for system, one in result.items():
        def times(name: str) -> str | None:
            return f"{base[name] / one[name]:.2f}" if base.get(name) and one.get(name) else None

        rows.append([SYSTEMS[system], ms(one["publish"]), ms(one["receive"]), ms(one["hold"]), times("hold"), ms(one["scan"]), ms(one["total"]), times("total"),
                     f"{one['peak'] / real:.2f}", size(one["copied"])])
    show(["", "publish", "receive", "hold", "(a)/this", "scan", "hold+scan", "(a)/this", "peak/table", "copied"], rows)
    line = {"kind": kind, "bytes": real, "seconds": {system: {name: one[name] for name in ("publish", "receive", "hold", "scan", "total")} for system, one in result.items()},
            "peak_bytes": {system: one["peak"] for system, one in result.items()}, "bytes_copied": {system: one["copied"] for system, one in result.items()}}
    if "forebay" in result:
        ours = result["forebay"]
        line["ways"] = ours["ways"]
        share = f"publish / IPC write {ours['publish'] / base['publish']:.2%}   " if ours["publish"] and base.get("publish") else ""
        print(f"Forebay: {share}" + "   ".join(f"{way} {size(count)}" for way, count in ours["ways"].items()) + "\n", flush=True)
    return line


def main() -> None:
    """Every kind at every size."""
    parser = options(
        __doc__,
        sizes={"help": "GiB, comma separated; 0.1,1,4,6 unless told"},
        kinds={"default": ",".join(_tables.KINDS)},
        systems={"help": f"of {','.join(SYSTEMS)}; all unless told"},
        rounds={"type": int, "help": "3 unless told"},
    )
    asked = parser.parse_args()
    sizes = [float(text) for text in (asked.sizes or ("0.05" if asked.quick else "0.1,1,4,6")).split(",")]
    rounds = asked.rounds or (1 if asked.quick else 3)
    wanted = (asked.systems or ",".join(system for system in SYSTEMS if system != "ray" or not asked.quick)).split(",")
    systems = [system for system in SYSTEMS if system in wanted]
    with Lab("handoff") as lab, Idle() as idle:
        bench = Bench(lab, idle)
        machine = facts({"pyarrow": bench.notes["pyarrow"]})
        print(json.dumps(machine))
        lines = []
        for kind in asked.kinds.split(","):
            for gib in sizes:
                # The table, what a baseline copies of it, and what building it takes for a moment.
                needed = int(gib * GIB * 2.5) + GIB // 2
                if needed > available():
                    print(f"{kind}, {gib} GiB: left out, it needs {size(needed)} of free memory and {size(available())} are free\n")
                    continue
                lines.append(report(kind, int(gib * GIB), compare(bench, kind, int(gib * GIB), systems, rounds)))
    record("handoff", asked.quick, machine, rounds=rounds, results=lines)


if __name__ == "__main__":
    main()
