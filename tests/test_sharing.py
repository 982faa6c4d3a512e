"""Tables pass by reference: children of one parent share one copy, and what passes through is not rewritten."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pyarrow as pa
from conftest import Lab, node

ROWS = 4_000_000
BYTES = ROWS * 8

PARENT = f"""
@forebay.model()
def parent():
    return pa.table({{"x": pa.array(range({ROWS}), pa.int64())}})
"""


def child(name: str, body: str) -> str:
    """A child of `parent`."""
    return f'\n@forebay.model()\ndef {name}(data=forebay.Model("parent")):\n    {body}\n'


def test_three_children_share_one_copy(lab: Lab) -> None:
    sums = "".join(child(f"child_{n}", "return {'rows': [data.num_rows]}") for n in range(3))
    result = lab.run(lab.project(PARENT + sums)).ok().json
    parent = node(result, "parent")
    assert parent["rows"] == ROWS and parent["bytes"] >= BYTES
    assert parent["bytes_copied"] <= parent["bytes"] < BYTES * 1.1
    for n in range(3):
        one = node(result, f"child_{n}")
        assert one["bytes_copied"] + one["bytes_inline"] + one["bytes_reshared"] < 10_000
    assert sum(one["bytes_copied"] for one in result["nodes"]) < BYTES * 1.1, "three children cost one copy, not three"


def test_the_children_map_the_same_memory(lab: Lab) -> None:
    gate = lab.gate()
    touch = f"import pyarrow.compute as pc; total = pc.sum(data['x']); {gate.code}; return {{'total': [total.as_py()]}}"
    run = lab.start_run(lab.project(PARENT + "".join(child(f"child_{n}", touch) for n in range(3))), "--no-strict")
    # As many as the worker runs at once: two share as three do.
    arrived = gate.wait(2)
    shared = [large_mappings(process) for process in arrived]
    assert shared[0] and all(inodes == shared[0] for inodes in shared), shared
    gate.open(3)
    if len(arrived) < 3:
        gate.wait(3 - len(arrived))
    run.wait().ok()


def large_mappings(process: int) -> set[tuple[str, str]]:
    """Device and inode of the memory files of at least the table's size that a process maps, all read-only; its own arena, which
    reserves hundreds of gigabytes of addresses, left out."""
    found = set()
    for line in Path(f"/proc/{process}/maps").read_text().splitlines():
        fields = line.split()
        start, end = (int(part, 16) for part in fields[0].split("-"))
        if re.search(r"memfd:|/dev/shm", line) and BYTES // 2 <= end - start < 64 << 30:
            assert fields[1].startswith("r-"), f"an input is writable: {line}"
            found.add((fields[3], fields[4]))
    return found


def test_what_passes_through_is_shared_again(lab: Lab) -> None:
    models = PARENT + child("same", "return data") + child("part", "return data.slice(1000, 2_000_000)")
    models += child("more", "return data.append_column('y', pa.array([1] * data.num_rows, pa.int8()))")
    models += child("renamed", "return data.rename_columns(['z'])")
    result = lab.run(lab.project(models)).ok().json
    for name in ("same", "part", "renamed"):
        one = node(result, name)
        assert one["bytes_copied"] < 10_000, one
        assert one["bytes_reshared"] >= BYTES // 2 - 10_000, one
    more = node(result, "more")
    assert more["bytes_reshared"] >= BYTES and more["bytes_copied"] <= ROWS * 1.1, more


def test_a_scan_is_read_once_for_all_children(lab: Lab) -> None:
    lab.load("source", pa.table({"x": list(range(1000)), "y": ["a"] * 1000}))
    models = "".join(
        f'\n@forebay.model()\ndef m{n}(data=forebay.Model("source", columns=["{column}"])):\n'
        f'    assert data.column_names == ["{column}"]\n    return data\n'
        for n, column in enumerate(["x", "y", "x"])
    )
    result = lab.run(lab.project(models)).ok().json
    assert [one["kind"] for one in result["nodes"]].count("scan") == 1


def test_memory_is_given_back(lab: Lab) -> None:
    """After a run the daemon holds no segment."""
    lab.run(lab.project(PARENT + child("last", "return {'n': [1]}"))).ok()
    daemon = lab.daemon()
    held = []
    for entry in os.scandir(f"/proc/{daemon}/fd"):
        try:
            if "memfd:" in os.readlink(entry.path):
                held.append(os.stat(entry.path).st_blocks * 512)
        except OSError:
            pass
    assert sum(held) < BYTES // 2
