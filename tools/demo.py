"""Bake a project, train it on handwritten digits, evaluate it, and say what came out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from clean_copy import ROOT, clean_copy

TARGET = ROOT / "build" / "demo"


def run(*words: str, cwd: Path) -> None:
    """Run a Python command in the foreground; its failure is the demo's."""
    # Run from a Makefile, the project would inherit settings that are meant for the template's own folder.
    kept_out = {"PYTHONDONTWRITEBYTECODE", "MYPY_CACHE_DIR", "RUFF_CACHE_DIR"}
    environment = {name: value for name, value in os.environ.items() if name not in kept_out}
    print(f"$ python {' '.join(words)}", flush=True)
    status = subprocess.run([sys.executable, *words], cwd=cwd, env=environment).returncode
    if status:
        sys.exit(status)


def bake() -> Path:
    """Bake a project with the default answers into an empty folder, and return its own."""
    shutil.rmtree(TARGET, ignore_errors=True)
    TARGET.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        template = clean_copy(Path(scratch) / "template")
        # A person's own cookiecutter settings may hold other default answers.
        settings = Path(scratch) / "settings.yaml"
        folders = {"cookiecutters_dir": f"{scratch}/templates", "replay_dir": f"{scratch}/replay"}
        settings.write_text(json.dumps(folders), encoding="utf-8")
        words = ("--no-input", "--config-file", str(settings), "--output-dir", str(TARGET))
        subprocess.run(
            [sys.executable, "-m", "cookiecutter", str(template), *words],
            stdout=subprocess.DEVNULL,  # the next steps, which the demo takes itself
            check=True,
        )
    return next(TARGET.iterdir())


def shown(path: Path) -> str:
    """Return a path as one would type it in the folder where `make` was called."""
    return os.path.relpath(path, Path.cwd())


def main() -> None:
    """Run the demo."""
    start = perf_counter()
    project = bake()
    print(f"baked {shown(project)} in {perf_counter() - start:.1f} s", flush=True)

    start = perf_counter()
    run("train.py", "-c", "config.json", cwd=project)
    seconds = perf_counter() - start
    run_folder = next((project / "saved").glob("*/*/checkpoints")).parent
    run_name = run_folder.relative_to(project).as_posix()
    run("test.py", "-r", run_name, cwd=project)

    report = json.loads((run_folder / "checkpoints" / "best.test.json").read_text(encoding="utf-8"))
    accuracy = report["metrics"]["test_accuracy"]
    tools = Path(os.path.relpath(Path(sys.executable).parent, project))
    python, tensorboard = tools / "python", tools / "tensorboard"
    print(f"""
Test accuracy {accuracy:.4f} on digits that training never saw, after {seconds:.0f} s of training.
The project lies in {shown(project)}; go there to use its run:  cd {shown(project)}
  resume    {python} train.py -r {run_name} trainer.epochs=30
  evaluate  {python} test.py -r {run_name}
  look      {tensorboard} --logdir saved""")


if __name__ == "__main__":
    main()
