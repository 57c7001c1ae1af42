"""What the tests share: this project's own config made short, and a tiny regression that needs no file of it."""

import gc
import glob
import json
import multiprocessing
import os
import runpy
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn

from data_loaders.dataset import InMemoryDataset
from data_loaders.loader import Loader, Loaders
from logger.console import log
from trainer.run_folder import find_checkpoint
from trainer.trainer import Trainer
from utils.config import Config
from utils.config_files import load_config
from utils.distributed import process_group, rank, world_size
from utils.seeding import seed_everything

ROOT = Path(__file__).parents[1]

# Data sets are read from local files; `datasets` would ask the Hub about them, and wait where there is none.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Waiting threads cost more than they save where the work is this small, above all on a machine that is busy.
torch.set_num_threads(1)

CONFIGS = [*ROOT.glob("config.json")] or sorted(ROOT.glob("configs/*.json"))


@pytest.fixture(scope="session", params=CONFIGS, ids=lambda file: file.stem)
def config_file(request: pytest.FixtureRequest) -> Path:
    """The project's config."""
    file: Path = request.param
    return file


# Loaders whose data take long, and the word that gives them less.
FEWER = {"ProseLoaders": "data_loader.args.files=" + json.dumps([glob.escape(str(ROOT / "trainer" / "trainer.py"))])}


def short(config_file: Path, save_dir: Path) -> list[str]:
    """Words that make a run of the config short: two epochs on the CPU."""
    text = config_file.read_text(encoding="utf-8")
    return [
        *(word for loaders, word in FEWER.items() if loaders in text),
        "trainer.epochs=2",
        "trainer.device=cpu",
        f"trainer.save_dir={save_dir}",
        "trainer.log_every=5",
        "lr_scheduler=null",
    ]


@pytest.fixture
def config(config_file: Path, tmp_path: Path) -> Config:
    """The project's config, made short, and without trackers."""
    return load_config([config_file], short(config_file, tmp_path)).model_copy(update={"loggers": {}})


@pytest.fixture(scope="session")
def finished_run(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run of `train.py`. Tests only read it, or add to it."""
    save_dir = tmp_path_factory.mktemp("saved")
    assert run_script("train.py", "-c", config_file, *short(config_file, save_dir)) == 0
    (folder,) = save_dir.glob("*/*")
    return folder


@pytest.fixture
def script() -> Callable[..., int]:
    """Runs a script of the project in this process, which is faster than a new one."""
    return run_script


def run_script(name: str, *words: object) -> int:
    """Run a script with words as its command line, and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *map(str, words)])
        try:
            runpy.run_path(str(ROOT / name), run_name="__main__")
        except SystemExit as exit_:
            return int(exit_.code or 0)
        finally:
            gc.unfreeze()  # what `run` has taken for the imports of a script
            gc.enable()
            for handler in log.handlers:
                handler.close()
            log.handlers.clear()
    raise AssertionError(f"{name} did not end with sys.exit")


@pytest.fixture
def in_processes() -> Callable[..., None]:
    """Calls a function in several processes that train together; its first argument makes trainers."""
    return run_in_processes


def run_in_processes(count: int, function: Callable[..., None], *args: Any) -> None:
    """Call a function of a test file in so many processes, and fail if it fails in one of them."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    # Forks of a process that has imported torch and done nothing else: this one has threads, which no fork survives.
    context: Any = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        context.set_forkserver_preload(["torch.distributed.fsdp"])
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    own = [{**shared, "RANK": str(number), "LOCAL_RANK": str(number)} for number in range(count)]
    processes = [context.Process(target=_call, args=(environment, function, *args)) for environment in own]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * count


def _call(environment: dict[str, str], function: Callable[..., None], *args: Any) -> None:
    os.environ.update(environment)
    with process_group():
        function(tiny_trainer, *args)


class Line(nn.Module):
    """A linear model with dropout, so that training draws random numbers."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(4, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Turn `(n, 4)` into `(n, 1)`."""
        outputs: torch.Tensor = self.linear(self.dropout(inputs))
        return outputs


def line_dataset(samples: int) -> InMemoryDataset:
    """Points around a plane, the same ones every time."""
    generator = torch.Generator().manual_seed(samples)
    inputs = torch.randn(samples, 4, generator=generator)
    noise = torch.randn(samples, 1, generator=generator) / 10
    return InMemoryDataset(inputs, inputs @ torch.tensor([[1.0], [-2.0], [3.0], [0.0]]) + noise)


def tiny_config(run: Path, **changes: Any) -> Config:
    """The config of the tiny regression; `changes` replace whole sections, those of `trainer` single keys."""
    settings = {"epochs": 3, "save_dir": str(run), "device": "cpu", "log_every": 4} | changes.pop("trainer", {})
    unused = {"type": "unused"}  # the parts are handed to the Trainer as they are
    sections = {
        "name": "tiny",
        "seed": 1,
        "data_loader": unused,
        "model": unused,
        "loss": {"type": "MSELoss"},
        "metrics": [],
        "optimizer": {"type": "AdamW", "args": {"lr": 0.05}},
    }
    return Config.model_validate(sections | changes | {"trainer": settings})


def tiny_trainer(
    folder: Path, *, dropout: float = 0.2, network: Callable[[], nn.Module] | None = None, **changes: Any
) -> Trainer:
    """A trainer of the tiny regression, or of another network for it, whose run's folder is `folder`.

    37 samples in batches of 8: five steps to an epoch, the last of them with 5 samples.
    """
    config = tiny_config(folder.parent, **changes)
    seed_everything(config.seed)
    loaders = Loaders(
        train=Loader(line_dataset(37), 8, seed=config.seed, shuffle=True),
        valid=Loader(line_dataset(21), 8),
        test=Loader(line_dataset(20), 8),
    )
    for loader in (loaders.train, loaders.valid, loaders.test):
        loader.set_share(rank(), world_size())
    trainer = Trainer(config, network() if network else Line(dropout), loaders)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    trainer.open_run(folder)
    return trainer


def saved_states(trainer: Trainer) -> list[dict[str, Any]]:
    """Train to the end, and return what each checkpoint on the way held, on every process."""
    begin_save, states = trainer.saver.begin_save, []

    def keep(*names: str) -> None:
        begin_save(*names)
        trainer.saver.wait()
        if world_size() > 1:
            distributed.barrier()
        states.append(find_checkpoint(trainer.saver.folder / "last.pth", whole=False)[1])

    trainer.saver.begin_save = keep  # type: ignore[method-assign]
    trainer.train()
    return states


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Callable[..., Trainer]]:
    """Makes trainers of the tiny regression, or of another network for it, each with a run folder of its own."""
    made: list[Trainer] = []

    def make(**changes: Any) -> Trainer:
        made.append(tiny_trainer(tmp_path / f"run-{len(made)}", **changes))
        return made[-1]

    yield make
    for trainer in made:
        trainer.observers.close()
