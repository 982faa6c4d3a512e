"""On a terminal: a progress view, a real Ctrl-C, and a daemon that belongs to no terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
from pathlib import Path

import pytest
from conftest import FOREBAY, PATIENCE_S, Gate, Lab, ends


class Terminal:
    """A command in a terminal of its own, as the leader of its session."""

    def __init__(self, lab: Lab, *args: str | Path, **environment: str) -> None:
        self.process, self.screen = pty.fork()
        if self.process == 0:
            os.chdir(lab.folder)
            os.execve(FOREBAY, [FOREBAY, *map(str, args)], {**lab.environment, "TERM": "xterm-256color", **environment})

    def type(self, keys: bytes) -> None:
        """Types."""
        os.write(self.screen, keys)

    def wait(self) -> tuple[int, str]:
        """The exit code, and all that was on the screen."""
        shown = b""
        while select.select([self.screen], [], [], PATIENCE_S)[0]:
            try:
                more = os.read(self.screen, 65536)
            except OSError:
                break
            if not more:
                break
            shown += more
        code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        os.close(self.screen)
        return code, shown.decode(errors="replace")


def stored(gate: Gate | None = None) -> str:
    """A model, maybe one that waits."""
    wait = f"    {gate.code}\n" if gate else ""
    return f'@forebay.model(materialization_strategy="REPLACE")\ndef t():\n    print("hello")\n{wait}    return {{"x": [1]}}\n'


def test_progress_is_drawn(lab: Lab) -> None:
    lab.environment.pop("NO_COLOR")
    lab.environment.pop("CI", None)
    code, shown = Terminal(lab, "run", "-p", lab.project(stored())).wait()
    assert code == 0 and "\x1b[" in shown and "hello" in shown and "done" in shown


@pytest.mark.parametrize("quiet", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colours_when_not_wanted(lab: Lab, quiet: dict[str, str]) -> None:
    lab.environment.pop("NO_COLOR")
    code, shown = Terminal(lab, "branch", "ls", **quiet).wait()
    assert code == 0 and "\x1b[3" not in shown and "\x1b[1m" not in shown


def test_control_c_on_a_terminal_spares_the_daemon(lab: Lab) -> None:
    """The key reaches everything that belongs to the terminal. The daemon, started by this very command, does not."""
    gate = lab.gate()
    terminal = Terminal(lab, "run", "-p", lab.project(stored(gate)))
    gate.wait()
    daemon = lab.daemon()
    terminal.type(b"\x03")
    code, shown = terminal.wait()
    assert code == 1 and "cancelled" in shown
    assert lab.daemon() == daemon and lab.functions() == [] and lab.tables() == []


def test_a_terminal_that_goes_away_cancels_the_run_and_spares_the_daemon(lab: Lab) -> None:
    gate = lab.gate()
    terminal = Terminal(lab, "run", "-p", lab.project(stored(gate)))
    [function] = gate.wait()
    daemon = lab.daemon()
    os.close(terminal.screen)
    os.waitpid(terminal.process, 0)
    assert ends(function)
    assert lab.daemon() == daemon and lab.tables() == []


def test_a_closed_stdout_ends_quietly(lab: Lab) -> None:
    sql = "SELECT value FROM generate_series(1, 200000)"
    command = [FOREBAY, "query", sql, "--all-rows"]
    popen = subprocess.Popen(command, env=lab.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert popen.stdout and popen.stderr
    popen.stdout.readline()
    popen.stdout.close()
    assert b"panicked" not in popen.stderr.read()
    assert popen.wait(PATIENCE_S) in (0, 1, -13)
