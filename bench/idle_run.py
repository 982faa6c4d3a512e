"""What a run costs that does nothing: `forebay run` of five trivial Python models in a chain, warm.

A: `forebay run` (plan, five processes, five hand-offs, no lake table). B: the same five functions as one plain Python
script that imports pyarrow once. C: the same as five plain interpreter starts with `import pyarrow`, one after the other:
what process isolation costs without Forebay. Prints seconds, ratios and bytes copied; appends a line to history.jsonl.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 7
FOREBAY = os.environ.get("FOREBAY_BIN", "forebay")

FIRST = '''
@forebay.model()
@forebay.python("{python}")
def step_1():
    return pa.table({{"x": [1, 2, 3]}})
'''
NEXT = '''
@forebay.model()
@forebay.python("{python}")
def step_{n}(data=forebay.Model("step_{previous}")):
    return data
'''
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def project(folder: Path) -> None:
    """Writes the five-model project."""
    steps = [FIRST.format(python=PYTHON)] + [NEXT.format(python=PYTHON, n=n, previous=n - 1) for n in range(2, 6)]
    (folder / "forebay.toml").write_text('[project]\nname = "idle"\n')
    (folder / "models.py").write_text("import forebay\nimport pyarrow as pa\n" + "".join(steps))


def seconds(command: list[str], environment: dict[str, str]) -> tuple[float, str]:
    """Wall-clock seconds of one command, and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - start, done.stdout


def main() -> None:
    """Runs A, B and C in turn and prints their medians."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = dict(os.environ, FOREBAY_HOME=str(folder / "home"))
        if cache := os.environ.get("FOREBAY_TEST_CACHE"):
            environment["FOREBAY_CACHE"] = cache
        (folder / "project").mkdir()
        project(folder / "project")
        run = [FOREBAY, "run", "-o", "json", "-p", str(folder / "project")]
        script = "import pyarrow as pa\nt = pa.table({'x': [1, 2, 3]})\nfor _ in range(4):\n    t = (lambda t: t)(t)\n"
        five = [sys.executable, "-I", "-c", "import pyarrow"]
        times: dict[str, list[float]] = {"A forebay run": [], "B one script": [], "C five interpreters": []}
        result = {}
        try:
            seconds(run, environment)  # builds the environment, starts the daemon
            for _ in range(ROUNDS):
                taken, output = seconds(run, environment)
                times["A forebay run"].append(taken)
                result = json.loads(output)
                times["B one script"].append(seconds([sys.executable, "-I", "-c", script], environment)[0])
                times["C five interpreters"].append(sum(seconds(five, environment)[0] for _ in range(5)))
        finally:
            subprocess.run([FOREBAY, "daemon", "stop"], env=environment, capture_output=True)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    for name, taken in times.items():
        print(f"{name:22} median {medians[name]:6.3f} s   min {min(taken):6.3f}   max {max(taken):6.3f}")
    copied = sum(node["bytes_copied"] for node in result["nodes"])
    print(f"A / B {medians['A forebay run'] / medians['B one script']:.2f}   A / C {medians['A forebay run'] / medians['C five interpreters']:.2f}   "
          f"bytes copied {copied}   nodes {len(result['nodes'])}")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    line = {"bench": "idle_run", "commit": commit, "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "seconds": {name: round(value, 4) for name, value in medians.items()}, "bytes_copied": copied}
    with open(Path(__file__).parent / "history.jsonl", "a") as history:
        history.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
