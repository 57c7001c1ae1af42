"""Several processes of one training: started one by one, or by one or more torchruns that can be robbed of some."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path

from baking import ENVIRONMENT
from runs import Lab, Process, Result

Agent = subprocess.Popen[bytes]


def free_port() -> str:
    """Return a port at which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def start(
    lab: Lab, words: list[str], processes: int, chaos: str = "", script: str = "train.py", **env: str
) -> list[Process]:
    """Start the processes of one training as torchrun does, which says in the environment who is who."""
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [
        lab.start(*words, chaos=chaos, script=script, **shared, **env, RANK=str(n), LOCAL_RANK=str(n))
        for n in range(processes)
    ]


def train(lab: Lab, words: list[str], processes: int, chaos: str = "") -> list[Result]:
    """Start them, and wait for the end of all."""
    return [lab.wait(process) for process in start(lab, words, processes, chaos)]


def succeed(lab: Lab, words: list[str], processes: int) -> list[Result]:
    """Do so, and see that they end well."""
    results = train(lab, words, processes)
    assert [result.code for result in results] == [0] * processes, "\n".join(result.err for result in results)
    return results


class Launch:
    """Torchruns that make up one training, as if each were on a machine of its own; what they print is one stream."""

    def __init__(self, project: Path, **env: str) -> None:
        """Prepare to start them in a project's folder."""
        self.project = project
        self.name = uuid.uuid4().hex
        self.env = {**ENVIRONMENT, "LAUNCH": self.name, **env}
        self.agents: list[Agent] = []
        self.said = ""
        self._read, self._write = os.pipe()
        self._lines = open(self._read, encoding="utf-8", errors="replace")  # noqa: SIM115 - closed by `end`

    def start(self, *words: str) -> Agent:
        """Start a torchrun."""
        agent = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *words],
            cwd=self.project,
            env=self.env,
            stdout=self._write,
            stderr=self._write,
        )
        self.agents.append(agent)
        return agent

    def start_two(self, options: list[str], *words: str, addresses: tuple[str, ...] = ()) -> tuple[Agent, Agent]:
        """Start two that know of each other; the first one keeps what they have to agree on.

        Args:
            options: for both.
            words: the script and its command line.
            addresses: how each is called; ranks follow from their order.
        """
        meeting = f"localhost:{free_port()}"
        common = ["--rdzv-backend=c10d", f"--rdzv-endpoint={meeting}", f"--rdzv-id={meeting}", *options]
        own = [f"--rdzv-conf=last_call_timeout=1,is_host={int(number == 0)}" for number in (0, 1)]
        names = [[f"--local-addr={address}"] for address in addresses] or [[], []]
        host, guest = (self.start(*common, own[number], *names[number], *words) for number in (0, 1))
        return host, guest

    @staticmethod
    def words_of(agent: Agent) -> list[str]:
        """Return what a torchrun was started with, to start another like it."""
        assert isinstance(agent.args, list)
        return [str(word) for word in agent.args[3:]]

    def wait_for(self, pattern: str) -> str:
        """Wait until a line is printed that begins in a certain way, and return it."""
        for line in self._lines:
            self.said += line
            if re.match(pattern, line):
                return line
        raise AssertionError(f"never printed: {pattern}\n{self.said}")

    def processes(self) -> dict[int, tuple[int, int]]:
        """Return the number of each process, and that of its torchrun, by rank."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "environ").read_text(encoding="utf-8", errors="replace").split("\0")
                parent = int((folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended, or is none of ours
            ranks = [int(word[5:]) for word in words if word.startswith("RANK=")]
            if ranks and f"LAUNCH={self.name}" in words and parent in [agent.pid for agent in self.agents]:
                found[ranks[0]] = int(folder.name), parent
        return found

    def kill(self, rank: int) -> None:
        """Kill a process."""
        os.kill(self.processes()[rank][0], signal.SIGKILL)

    def lose(self, agent: Agent) -> None:
        """Kill a torchrun and its processes, as if their machine had lost its power."""
        pids = [pid for pid, parent in self.processes().values() if parent == agent.pid]
        for pid in (agent.pid, *pids):
            os.kill(pid, signal.SIGKILL)
        agent.wait()
        self.agents.remove(agent)

    def end(self) -> list[int]:
        """Wait for the end of all, and return their exit codes."""
        os.close(self._write)
        self.said += self._lines.read()
        self._lines.close()
        return [agent.wait() for agent in self.agents]
