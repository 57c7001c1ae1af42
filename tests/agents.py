"""Trainings that torchrun starts, on one machine or on several that are all this one, and a way to kill their parts."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path

from baking import ENVIRONMENT


def free_port() -> str:
    """Return a port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def meeting_point() -> list[str]:
    """Return the options by which several torchruns find each other."""
    port = free_port()
    return ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", f"--rdzv-id=test-{port}"]


class Launch:
    """One or more torchruns that make up one training; what all of them print is one stream."""

    def __init__(self, project: Path, **env: str) -> None:
        """Prepare to start them in a project's folder."""
        self.project = project
        self.name = uuid.uuid4().hex
        self.env = {**ENVIRONMENT, "LAUNCH": self.name, **env}
        self.agents: list[subprocess.Popen[bytes]] = []
        self.said = ""
        read, self._write = os.pipe()
        self._stream = io.open(read, encoding="utf-8", errors="replace")

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a torchrun."""
        command = [sys.executable, "-m", "torch.distributed.run", *words]
        agent = subprocess.Popen(command, cwd=self.project, env=self.env, stdout=self._write, stderr=self._write)
        self.agents.append(agent)
        return agent

    def wait_for(self, pattern: str) -> str:
        """Wait until a line is printed that begins in a certain way, and return it."""
        for line in self._stream:
            self.said += line
            if re.match(pattern, line):
                return line
        raise AssertionError(f"never printed: {pattern}\n{self.said}")

    def processes(self, agent: subprocess.Popen[bytes] | None = None) -> dict[int, int]:
        """Return the processes of the training, or those of one torchrun, by their ranks."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "environ").read_text(encoding="utf-8", errors="replace").split("\0")
                parent = int((folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            except OSError:
                continue
            rank = [word.removeprefix("RANK=") for word in words if word.startswith("RANK=")]
            if rank and f"LAUNCH={self.name}" in words and parent in [a.pid for a in [agent] if a] + [a.pid for a in self.agents if not agent]:
                found[int(rank[0])] = int(folder.name)
        return found

    def kill(self, rank: int) -> None:
        """Kill one process."""
        os.kill(self.processes()[rank], signal.SIGKILL)

    def lose(self, agent: subprocess.Popen[bytes]) -> None:
        """Kill a torchrun together with its processes, as if its machine had lost its power."""
        self.agents.remove(agent)
        workers = self.processes(agent).values()
        for pid in (agent.pid, *workers):
            os.kill(pid, signal.SIGKILL)
        agent.wait()

    def end(self) -> list[int]:
        """Wait for the end, and return the exit codes."""
        os.close(self._write)
        self.said += self._stream.read()
        self._stream.close()
        return [agent.wait() for agent in self.agents]
