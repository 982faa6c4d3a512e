"""A function process of the platform, spoken to directly: what it answers to a call that no supervisor would make."""

from __future__ import annotations

import json
import socket
import subprocess
from typing import Any

import pyarrow as pa
from conftest import FOREBAY, Lab

from forebay import _native


def answer(call: dict[str, Any]) -> dict[str, Any]:
    """The reply of `forebay function` to one call."""
    ours, theirs = socket.socketpair()
    with subprocess.Popen([FOREBAY, "function"], stdin=theirs):
        theirs.close()
        with _native.Channel.from_fd(ours.detach()) as channel:
            channel.send(json.dumps(call))
            frame = channel.receive()
    assert frame is not None
    return json.loads(frame.header)


def test_a_call_that_is_none() -> None:
    reply = answer({})
    assert (reply["reply"], reply["code"], reply["fault"]) == ("failed", "RUN0020", "platform")


def test_a_table_without_columns(lab: Lab) -> None:
    lab.load("t", pa.table({"x": [1]}))
    table = lab.forebay("table", "get", "t", "-o", "json").ok().json["table"]
    scan = {"kind": "scan", "metadata_location": table["metadata_location"], "snapshot_id": table["current_snapshot_id"], "columns": [], "filter": None}
    reply = answer({"node": "scan:t", "segments": [], "inputs": [], "work": scan, "output_segment": 1, "preview": None})
    assert (reply["reply"], reply["code"]) == ("failed", "RUN0019")
