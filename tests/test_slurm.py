"""The Slurm script, on two machines that are both this one: srun, scontrol and scancel are stand-ins."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from baking import ENVIRONMENT, SOURCE
from processes import succeed
from runs import DIGITS, Experiment, Lab, differences, shared_lab, traces_of

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the script is one for bash")

STAND_INS = {
    "srun": """#!/bin/bash
        while [[ $1 == --* ]]; do shift; done
        for node in 0 1; do SLURM_NODEID=$node "$@" & pids+=($!); done
        echo "${pids[@]}" > step
        for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
        exit "${code:-0}"
    """,
    "scontrol": """#!/bin/bash
        if [[ $1 == requeue ]]; then echo "$2" >> requeued; else echo localhost; echo localhost; fi
    """,
    "scancel": """#!/bin/bash
        [[ $1 == --signal=TERM ]] && kill -TERM $(cat step)
    """,
    # A training that is stopped once, and then has little left to do.
    "torchrun": """#!/bin/bash
        echo "torchrun $*"
        run=saved/4711/digits/run/checkpoints
        if [[ " $* " == *" -r ${run%/checkpoints} "* ]]; then exit 0; fi
        trap 'mkdir -p "$run"; touch "$run/last.pth"; exit 1' TERM
        echo waiting
        while true; do sleep 0.01; done
    """,
}


class Job:
    """The script, as Slurm would run it on the first of two machines."""

    def __init__(self, project: Path, stand_ins: Path, *words: str, **env: str) -> None:
        """Start it."""
        slurm = {"SLURM_JOB_ID": "4711", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "n[1-2]", **env}
        self._process = subprocess.Popen(
            ["bash", str(SOURCE / "cluster" / "slurm.sh"), *words],
            cwd=project,
            env={**ENVIRONMENT, "PATH": f"{stand_ins}:{os.environ['PATH']}", **slurm},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        self.said = ""

    def wait_for(self, pattern: str) -> None:
        """Wait until a line is printed that begins in a certain way."""
        assert self._process.stdout
        for line in self._process.stdout:
            self.said += line
            if re.match(pattern, line):
                return
        raise AssertionError(self.said)

    def warn(self) -> None:
        """Say that the time is nearly up."""
        self._process.send_signal(signal.SIGUSR1)

    def end(self) -> int:
        """Wait for the end, and return the exit code."""
        assert self._process.stdout
        self.said += self._process.stdout.read()
        return self._process.wait()


def stand_ins(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_text(STAND_INS[name], encoding="utf-8")
        (folder / name).chmod(0o755)
    return folder


def test_a_job_stops_before_its_time_is_up_and_goes_on_in_the_queue(tmp_path: Path) -> None:
    tools = stand_ins(tmp_path / "bin", *STAND_INS)
    words = ("-c", "my config.json", "seed=7")
    job = Job(tmp_path, tools, *words)
    job.wait_for("waiting")
    job.wait_for("waiting")
    job.warn()
    assert job.end() != 0
    assert (tmp_path / "requeued").read_text(encoding="utf-8") == "4711\n"
    options = "--nnodes=2 --nproc-per-node=1 --max-restarts=3 --rdzv-backend=c10d --rdzv-endpoint=localhost:24711"
    rest = "-c my config.json seed=7 trainer.save_dir=saved/4711\n"
    for number in (0, 1):
        assert f"torchrun {options} --rdzv-id=4711 --rdzv-conf=is_host={number} train.py {rest}" in job.said

    job = Job(tmp_path, tools, *words)
    assert job.end() == 0, job.said
    assert job.said.count(f"train.py -r saved/4711/digits/run {rest}") == 2
    assert (tmp_path / "requeued").read_text(encoding="utf-8") == "4711\n", "it was not warned"


@pytest.mark.skipif(not os.environ.get("SOAK"), reason="takes a minute: make soak")
def test_a_job_of_two_torchruns_at_length(full: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    lab: Lab = shared_lab(full, tmp_path_factory.getbasetemp() / "lab")
    tools = stand_ins(tmp_path / "bin", "srun", "scontrol", "scancel")
    (tools / "torchrun").write_text(f'#!/bin/bash\nexec {sys.executable} -m torch.distributed.run "$@"\n')
    (tools / "torchrun").chmod(0o755)
    words = [*DIGITS, "trainer.epochs=30", "lr_scheduler=null", "loggers={chaos: true}"]
    runs = {"RUNS": str(tmp_path / "runs")}
    for line in ("epoch  3/", "epoch +15/", ""):
        job = Job(lab.project, tools, "-c", "config.json", *words, **runs)
        if line:
            job.wait_for(line)
            job.warn()
        assert (job.end() == 0) == (line == ""), job.said
    assert (lab.project / "requeued").read_text(encoding="utf-8") == "4711\n" * 2
    (run,) = (tmp_path / "runs" / "4711").glob("*/*")
    reference = Experiment(lab, tmp_path / "reference", words)
    succeed(lab, reference.arguments(), 2)
    assert differences(traces_of(run), traces_of(reference.run)) == []
