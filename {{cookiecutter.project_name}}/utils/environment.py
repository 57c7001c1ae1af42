"""What a run ran on: enough to repeat it a year later."""

import json
import platform
import subprocess
import sys
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "numpy", "pydantic", "PyYAML", "tensorboard", "torchmetrics", "scikit-learn", "matplotlib")


def record_environment(run_dir: Path, device: torch.device, seed: int) -> None:
    """Add this start of the run to `environment.json`: one entry for the first start and for each resume."""
    path = run_dir / "environment.json"
    starts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    starts.append(describe_environment(device, seed))
    # Under another name first: a kill in the middle must not leave half a file for the next start to read.
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(starts, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)


def describe_environment(device: torch.device, seed: int) -> dict[str, Any]:
    """Collect versions, hardware, command line, seed, and the git commit with its uncommitted changes.

    Files that git does not know are listed by name alone.
    """
    return {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": [Path(sys.executable).name, *sys.argv],
        "seed": seed,
        "host": platform.node(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "git": {"commit": _git("rev-parse", "HEAD"), "diff": _git("diff", "HEAD"), "untracked": _untracked()},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _untracked() -> list[str] | None:
    names = _git("ls-files", "-z", "--others", "--exclude-standard", "--directory", "--full-name", ":/")
    return None if names is None else [name for name in names.split("\0") if name]


def _git(*arguments: str) -> str | None:
    """Ask git about the project's folder; None where there is no git, or no repository."""
    folder = Path(__file__).resolve().parent
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, encoding="utf-8", errors="replace", timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode != 0:
        return None
    # A diff is kept to the last blank, so that `git apply` takes it.
    return answer.stdout if arguments[0] == "diff" else answer.stdout.strip()
