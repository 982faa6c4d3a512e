"""How long until a function runs: environments that are new, changed or known, and runs that do nothing.

Environments (A: `forebay run` of one function that imports the packages; B: `uv run --with …` of a script with the same imports):

- *cold*: pandas + pyarrow, nothing unpacked anywhere; both download.
- *changed*: pandas + pyarrow are known, `prophet` is added; its wheels are downloaded. *changed, cached*: they are in uv's cache.
  What lies between the two is the download.
- *known*: the same project again; how often uv was started is counted, by a program in its place.

Runs: chains of 1, 5 and 20 functions that pass one tiny table on, and 50 that depend on nothing, through the command line, with a warm
background process; one function with pandas imported, from the moment it is started to its first instruction (`dispatch`), as it is found waiting and as it is
forked on demand; and Ray tasks that import pandas from a runtime environment, each in a process of its own, where Ray can be installed. Published numbers of other systems are printed beside as what they are:
other machines, other work.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

import _lab

#: Seconds until a DAG runs again after `prophet` was added to its packages: Tagliabue, Caraza-Harter, Greco, "Bauplan: zero-copy,
#: scale-up FaaS for data pipelines", 2024, table 2.
PUBLISHED = {"AWS Lambda": "130 s (80 + 50)", "Snowpark": "35 s", "Bauplan": "5 s, from its cache 0 s"}

MODELS = """
import forebay

@forebay.model()
@forebay.python("{python}", pip={{{pip}}})
def out():
    import {imports}
    return {imports_first}.DataFrame({{"x": [1]}})
"""
STEP = """
@forebay.model()
def step_{n}({argument}):
    return {value}
"""


class Place:
    """A cache of Forebay's and one of uv's, both empty, and a uv that counts how often it is started."""

    def __init__(self, lab: _lab.Lab, name: str) -> None:
        self.folder = lab.folder / name
        self.folder.mkdir()
        self.calls = self.folder / "calls"
        counter = self.folder / "uv"
        counter.write_text(f'#!/bin/sh\necho "$1 $2" >> {self.calls}\nexec {real_uv()} "$@"\n')
        counter.chmod(0o755)
        self.lab = lab
        self.environment = dict(
            lab.environment,
            FOREBAY_HOME=str(self.folder / "home"),
            FOREBAY_CACHE=str(self.folder / "cache"),
            FOREBAY_UV=str(counter),
            UV_CACHE_DIR=str(self.folder / "uv-cache"),
        )

    def uses_of_uv(self) -> int:
        """How often uv was started since the last question."""
        count = len(self.calls.read_text().splitlines()) if self.calls.exists() else 0
        self.calls.unlink(missing_ok=True)
        return count

    def stop(self) -> None:
        """Ends the daemon."""
        subprocess.run([_lab.FOREBAY, "daemon", "stop"], env=self.environment, capture_output=True)


def real_uv() -> str:
    """The uv that Forebay would take."""
    return _lab.uv() or sys.exit("no uv on the PATH")


def timed(command: list[str], environment: dict[str, str]) -> float:
    """Wall-clock seconds of one command that must succeed."""
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - start


def project(place: Place, packages: list[str]) -> list[str]:
    """The command that runs one function which imports the packages."""
    imports = ", ".join(packages)
    pip = ", ".join(f'"{name}": ""' for name in packages)
    text = MODELS.format(python=_lab.PYTHON, pip=pip, imports=imports, imports_first=packages[0])
    folder = place.lab.project({"models.py": text}, f"project-{place.folder.name}-{len(packages)}")
    return [_lab.FOREBAY, "run", "--dry-run", "-p", str(folder)]


def script(packages: list[str]) -> list[str]:
    """The same as a script of uv's."""
    with_ = [word for name in packages for word in ("--with", name)]
    return [real_uv(), "run", "--no-project", "--python", sys.executable, *with_, "python", "-c", f"import {', '.join(packages)}"]


def environments(lab: _lab.Lab, round_: int) -> dict[str, float]:
    """One round over cold, changed and known environments, of both."""
    few, more = ["pandas", "pyarrow"], ["pandas", "pyarrow", "prophet"]
    taken: dict[str, float] = {}
    ours, theirs = Place(lab, f"forebay-{round_}"), Place(lab, f"uv-{round_}")
    sides: list[tuple[str, Callable[[list[str]], float]]] = [
        ("forebay", lambda packages: timed(project(ours, packages), ours.environment)),
        ("uv run", lambda packages: timed(script(packages), theirs.environment)),
    ]
    for name, run in sides[:: 1 if round_ % 2 else -1]:
        taken[f"{name}: cold"] = run(few)
        ours.uses_of_uv()
        taken[f"{name}: changed"] = run(more)
        if name == "forebay":
            taken["uses of uv: changed"] = ours.uses_of_uv()
        taken[f"{name}: known"] = run(more)
        if name == "forebay":
            taken["uses of uv: known"] = ours.uses_of_uv()
            # The same change with everything in uv's cache: what is left is not the download. The store is another one; to remove the
            # first would hold this up, since ext4 does not take freed inodes again for minutes, and looks at each.
            ours.stop()
            ours.environment["FOREBAY_CACHE"] = str(ours.folder / "cache-of-the-second")
            run(few)
            taken["forebay: changed, cached"] = run(more)
            ours.stop()
    return taken


def chain(lab: _lab.Lab, nodes: int) -> list[str]:
    """The command that runs so many functions in a row."""
    steps = [STEP.format(n=0, argument="", value='pa.table({"x": [1]})')]
    steps += [STEP.format(n=n, argument=f'data=forebay.Model("step_{n - 1}")', value="data") for n in range(1, nodes)]
    folder = lab.project({"models.py": "import forebay\nimport pyarrow as pa\n" + "".join(steps)}, f"chain-{nodes}")
    return [_lab.FOREBAY, "run", "--dry-run", "-p", str(folder)]


def fifty(lab: _lab.Lab) -> list[str]:
    """The command that runs 50 functions which depend on nothing."""
    steps = [STEP.format(n=n, argument="", value='pa.table({"x": [1]})') for n in range(50)]
    folder = lab.project({"models.py": "import forebay\nimport pyarrow as pa\n" + "".join(steps)}, "fifty")
    return [_lab.FOREBAY, "run", "--dry-run", "-p", str(folder)]


PANDAS = """
import time
entered = time.monotonic_ns()
import forebay
import pandas as pd

@forebay.model()
@forebay.python("{python}", pip={{"pandas": "", "pyarrow": ""}}){limit}
def out():
    print("entered", entered, "imported", time.monotonic_ns())
    return pd.DataFrame({{"x": [1]}})
"""


#: Seconds between starts that are timed one by one.
REST_S = 0.3
#: Tells projects of `dispatch` apart.
NUMBERS = itertools.count()


def dispatch(lab: _lab.Lab, on_demand: bool) -> tuple[float, float]:
    """Milliseconds from the word that the function runs to the first instruction of its file, and to the first after `import pandas`.
    The word takes its time to get here, so on a busy machine a child that waits can seem to be there before it.
    Children wait for functions with the limits of the last run; one with another limit is forked on demand.
    Those that wait are made after a run: that is over first."""
    time.sleep(REST_S)
    limit = f'\n@forebay.resources(memory="{2048 + next(NUMBERS)}MiB")' if on_demand else ""
    text = PANDAS.format(python=_lab.PYTHON, limit=limit)
    folder = lab.project({"models.py": text}, "on-demand" if on_demand else "waiting")
    command = [_lab.FOREBAY, "run", "--dry-run", "-p", str(folder)]
    with subprocess.Popen(command, env=lab.environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as run:
        assert run.stderr is not None
        running, words = 0, [""]
        for line in run.stderr:
            if line.startswith("running"):
                running = time.monotonic_ns()
            if "entered" in line:
                words = line.split()
        if run.wait() or not running:
            sys.exit(f"{command} failed")
    at = {word: int(words[words.index(word) + 1]) for word in ("entered", "imported")}
    return (at["entered"] - running) / 1e6, (at["imported"] - running) / 1e6


RAY = """
import sys, time
import ray
ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)

def seconds(packages):
    @ray.remote(max_calls=1, runtime_env={"pip": packages})
    def task(x):
        import pandas
        return x
    start = time.perf_counter()
    ray.get(task.remote(1), timeout=240)
    return time.perf_counter() - start

# A worker serves one call, as a function of Forebay's does: otherwise the second task would find the first one's memory.
print("cold", seconds(["pandas"]))
print("known", *sorted(seconds(["pandas"]) for _ in range(3)))
"""
#: What Ray needs to make environments of its own.
RAY_PACKAGES = ("ray[default]", "virtualenv", "pip", "setuptools")


def ray(lab: _lab.Lab) -> dict[str, list[float]]:
    """Seconds of tasks that import pandas from a runtime environment: one that is new, and one that is known. Says why not, where
    Ray cannot be had."""
    place = lab.folder / "ray"
    uv = [real_uv(), "--quiet"]
    made = subprocess.run([*uv, "venv", "--python", sys.executable, str(place)], capture_output=True, text=True)
    python = place / "bin/python"
    if made.returncode == 0:
        made = subprocess.run([*uv, "pip", "install", "--python", str(python), *RAY_PACKAGES], capture_output=True, text=True)
    if made.returncode:
        print(f"Ray: skipped: {made.stderr.strip().splitlines()[-1:]}")
        return {}
    environment = dict(os.environ, RAY_USAGE_STATS_ENABLED="0", VIRTUAL_ENV=str(place), PATH=f"{place}/bin:{os.environ['PATH']}")
    try:
        done = subprocess.run([str(python), "-c", RAY], env=environment, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        print("Ray: skipped: no answer within 300 s")
        return {}
    if done.returncode:
        print(f"Ray: skipped: {done.stderr.strip().splitlines()[-1:]}")
        return {}
    told = {line.split()[0]: [float(word) for word in line.split()[1:]] for line in done.stdout.splitlines() if line.startswith(("cold", "known"))}
    return {f"ray task, pandas: {name}": values for name, values in told.items()}


def main() -> None:
    """Prints medians; appends them to the history."""
    options = _lab.options(__doc__).parse_args()
    machine = _lab.facts()
    rounds, repeats = (1, 3) if options.quick else (2, 9)
    with _lab.Lab("start") as lab:
        found: dict[str, list[float]] = {}
        for round_ in range(rounds):
            for name, value in environments(lab, round_).items():
                found.setdefault(name, []).append(value)
        for nodes in (1, 5, 20):
            run = chain(lab, nodes)
            timed(run, lab.environment)
            timed(run, lab.environment)
            found[f"run of {nodes} no-op functions"] = [timed(run, lab.environment) for _ in range(repeats)]
        run = fifty(lab)
        timed(run, lab.environment)
        found["run of 50 functions at once"] = [timed(run, lab.environment) for _ in range(repeats)]
        for on_demand, how in ((True, "forked on demand"), (False, "waiting")):
            dispatch(lab, on_demand)
            dispatch(lab, on_demand)
            times = [dispatch(lab, on_demand) for _ in range(repeats * 3)]
            found[f"first instruction, {how}"] = [entered / 1000 for entered, _ in times]
            found[f"pandas imported, {how}"] = [imported / 1000 for _, imported in times]
        found |= ray(lab)
    medians = {name: statistics.median(values) for name, values in found.items()}
    for name, values in found.items():
        unit = "  " if name.startswith("uses") else "s "
        print(f"{name:32} {medians[name]:8.3f} {unit}  min {min(values):8.3f}  of {len(values)}")
    print(f"changed, without the download: {medians['forebay: changed, cached']:.2f} s (target: at most 3 s on a quiet machine)")
    print(f"per further function: {(medians['run of 20 no-op functions'] - medians['run of 5 no-op functions']) / 15 * 1000:.0f} ms")
    print("targets: run of 5 at most 0.250 s, 25 ms per further function; pandas imported 10 ms on demand, 2 ms waiting")
    for name, told in PUBLISHED.items():
        print(f"published, another machine: {name:12} {told}")
    _lab.record("start", options.quick, machine, seconds={name: round(value, 4) for name, value in medians.items()})


if __name__ == "__main__":
    main()
