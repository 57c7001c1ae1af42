"""The loops that the benchmark compares: by hand, of this project, and of its peers. Each trains one job from new.

Each takes a workload and an empty folder, and trains until the job's clock has seen its last step. Peers are imported
where they are first used: the benchmark leaves out those that are not there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from handmade import config_for
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from workloads import LR, SEED, Clock, Workload

sys.path.insert(0, str(Path(__file__).parents[1] / "{{cookiecutter.project_name}}"))

from data_loaders.dataset import InMemoryDataset
from data_loaders.loader import Loader, Loaders
from trainer.trainer import Trainer

Loop = Callable[[Workload, Path], Clock]


def plain_loader(job: Workload) -> DataLoader[Any]:
    """Make the loader that everybody would write."""
    return DataLoader(TensorDataset(*job.tensors), job.batch_size, shuffle=True, pin_memory=job.device == "cuda")


def autocast(job: Workload) -> contextlib.AbstractContextManager[Any]:
    """Run in bf16 where the job wants it."""
    return torch.autocast(job.device, torch.bfloat16) if job.bf16 else contextlib.nullcontext()


def bare(job: Workload, folder: Path) -> Clock:
    """Train by hand with a plain DataLoader, and log nothing."""
    return _by_hand(job, lambda epoch: plain_loader(job))


def in_memory(job: Workload, folder: Path) -> Clock:
    """Train by hand, with batches by one index operation on each tensor."""
    return _by_hand(job, lambda epoch: _batches(job, epoch))


def in_memory_fused(job: Workload, folder: Path) -> Clock:
    """Do the same with AdamW's fused version: the least that a loop can cost."""
    return _by_hand(job, lambda epoch: _batches(job, epoch), fused=True)


def _batches(job: Workload, epoch: int) -> Iterator[tuple[torch.Tensor, ...]]:
    order = torch.randperm(len(job.tensors[0]))
    for rows in order.split(job.batch_size):
        yield tuple(tensor[rows] for tensor in job.tensors)


def _by_hand(job: Workload, batches_of: Callable[[int], Any], **options: Any) -> Clock:
    model = job.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, **options)
    for epoch in range(job.epochs):
        model.train()
        for inputs, targets in batches_of(epoch):
            inputs, targets = inputs.to(job.device, non_blocking=True), targets.to(job.device, non_blocking=True)
            optimizer.zero_grad()
            with autocast(job):
                loss = job.loss(model(inputs), targets)
            loss.backward()
            optimizer.step()
    return model


def project(job: Workload, folder: Path) -> Clock:
    """Train with the project's Trainer as it comes: a metric, TensorBoard, progress, checkpoints, evaluation."""
    return _project(job, folder, [{"type": job.metric}], {"tensorboard": True})


def project_without_metrics(job: Workload, folder: Path) -> Clock:
    """Do the same without the metric, for what the loop itself costs."""
    return _project(job, folder, [], {"tensorboard": True})


def _project(job: Workload, folder: Path, metrics: list[dict[str, Any]], loggers: dict[str, bool]) -> Clock:
    # Without `compile`: a job's network is compiled already, and the clock around it tells the time, which cannot be.
    settings = {"epochs": job.epochs, "save_dir": str(folder), "device": job.device}
    settings["precision"] = "bf16" if job.bf16 else "fp32"
    config = config_for("cross_entropy", settings, lr=LR, metrics=metrics, loggers=loggers)
    model = job.model()
    few = InMemoryDataset(*(tensor[: job.batch_size] for tensor in job.tensors))
    loaders = Loaders(
        train=Loader(InMemoryDataset(*job.tensors), job.batch_size, seed=SEED, shuffle=True),
        valid=Loader(few, job.batch_size),
        test=Loader(few, job.batch_size),
    )
    (folder / "checkpoints").mkdir()
    trainer = Trainer(config, model, loaders)
    trainer.open_run(folder)
    trainer.train()
    return model


def lightning(job: Workload, folder: Path) -> Clock:
    """Train with Lightning: TensorBoard, progress bar and checkpoints, as by default."""
    import lightning as L
    from lightning.pytorch.loggers import TensorBoardLogger

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)

    class Module(L.LightningModule):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            inputs, targets = batch
            loss = job.loss(self.network(inputs), targets)
            self.log("train_loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=LR)

    model = job.model()
    trainer = L.Trainer(
        max_epochs=job.epochs,
        accelerator="gpu" if job.device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if job.bf16 else "32-true",
        logger=TensorBoardLogger(str(folder)),
        default_root_dir=str(folder),
        enable_model_summary=False,
    )
    trainer.fit(Module(model), plain_loader(job))
    return model


def accelerate(job: Workload, folder: Path) -> Clock:
    """Train with Accelerate: TensorBoard every 50 steps, and a progress bar."""
    from accelerate import Accelerator
    from tqdm.auto import tqdm

    accelerator = Accelerator(
        cpu=job.device == "cpu",
        mixed_precision="bf16" if job.bf16 else "no",
        log_with="tensorboard",
        project_dir=str(folder),
    )
    accelerator.init_trackers("speed")
    clock = job.model()
    optimizer = torch.optim.AdamW(clock.parameters(), lr=LR)
    model, optimizer, loader = accelerator.prepare(clock, optimizer, plain_loader(job))
    step = 0
    for _ in range(job.epochs):
        model.train()
        for inputs, targets in tqdm(loader):
            with accelerator.accumulate(model):
                optimizer.zero_grad()
                loss = job.loss(model(inputs), targets)
                accelerator.backward(loss)
                optimizer.step()
            step += 1
            if step % 50 == 0:
                accelerator.log({"train_loss": loss.item()}, step=step)
    accelerator.end_training()
    return clock


def ignite(job: Workload, folder: Path) -> Clock:
    """Train with PyTorch-Ignite: a running average, and TensorBoard every 50 steps."""
    from ignite.engine import Events, create_supervised_trainer
    from ignite.handlers import TensorboardLogger
    from ignite.metrics import RunningAverage

    model = job.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    if job.bf16:
        from ignite.engine import Engine

        def step(engine: Engine, batch: Any) -> float:
            model.train()
            inputs, targets = (tensor.to(job.device, non_blocking=True) for tensor in batch)
            optimizer.zero_grad()
            with autocast(job):
                loss = job.loss(model(inputs), targets)
            loss.backward()
            optimizer.step()
            return loss.item()

        trainer = Engine(step)
    else:
        trainer = create_supervised_trainer(model, optimizer, job.loss, device=job.device)
    RunningAverage(output_transform=lambda loss: loss).attach(trainer, "loss")
    logger = TensorboardLogger(log_dir=str(folder))
    logger.attach_output_handler(
        trainer, event_name=Events.ITERATION_COMPLETED(every=50), tag="training", metric_names=["loss"]
    )
    trainer.run(plain_loader(job), max_epochs=job.epochs)
    logger.close()
    return model


def hugging_face(job: Workload, folder: Path) -> Clock:
    """Train with the Trainer of transformers: TensorBoard every 50 steps, the rest as by default."""
    import transformers

    transformers.logging.set_verbosity_error()

    class Model(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            scores = self.network(inputs)
            return {"loss": job.loss(scores, labels), "logits": scores}

    class Samples(Dataset[Any]):
        def __len__(self) -> int:
            return len(job.tensors[0])

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {"inputs": job.tensors[0][index], "labels": job.tensors[1][index]}

    clock = job.model()
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=job.batch_size,
        num_train_epochs=job.epochs,
        learning_rate=LR,
        use_cpu=job.device == "cpu",
        bf16=job.bf16,
        report_to="tensorboard",
        logging_steps=50,
    )
    transformers.Trainer(Model(clock), arguments, train_dataset=Samples()).train()
    return clock


LOOPS: dict[str, Loop] = {
    "bare loop": bare,
    "by hand, batches in memory": in_memory,
    "by hand, in memory, fused": in_memory_fused,
    "this project": project,
    "this project, no metric": project_without_metrics,
    "Ignite": ignite,
    "Accelerate": accelerate,
    "Hugging Face": hugging_face,
    "Lightning": lightning,
}


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Send what loops print, to the terminal's files too, nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    kept = [os.dup(1), os.dup(2)]
    try:
        os.dup2(null, 1)
        os.dup2(null, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(null)
