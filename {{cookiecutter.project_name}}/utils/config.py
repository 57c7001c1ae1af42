"""Every key that a config may hold, with its type, range, default and a description.

To add a key, add a field to its section; to add a section, write a class and add one field to `Config`.
Checking, `config.schema.json` and `python train.py --keys` follow from these classes.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt


class Section(BaseModel):
    """A part of a config: unknown keys are refused, and `"20"` is not taken for a number."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Component(Section):
    """Something that is looked up by name and built with arguments."""

    type: str = Field(description="Name of the class or function, looked up where this section may look.")
    args: dict[str, Any] = Field(
        default={}, description="Its arguments, by name; what is left out keeps the default of its signature."
    )


class Metric(Component):
    """Something that is measured."""

    name: str | None = Field(
        default=None,
        pattern=r"^[a-z]\w*$",
        max_length=60,
        description="What it is called in logs and in trainer.monitor; null takes its type, `F1Score` as `f1_score`.",
    )


class LRScheduler(Component):
    """A learning-rate scheduler and when it steps."""

    interval: Literal["epoch", "step"] = Field(
        default="epoch", description="When the scheduler steps: after each epoch or after each training step."
    )


Pattern = Annotated[str, Field(pattern=r"^!?[\w.*?\[\]-]+$")]
Patterns = list[Pattern]


class ParameterGroup(Section):
    """Parameters with a learning rate or weight decay of their own."""

    params: Patterns = Field(min_length=1, description="Patterns over the names of modules and parameters.")
    lr: PositiveFloat | None = Field(default=None, description="Their learning rate; null keeps the optimizer's.")
    weight_decay: NonNegativeFloat | None = Field(
        default=None, description="Their weight decay; null keeps the optimizer's."
    )


class OptimizerSection(Component):
    """The optimizer, and which parameters it treats apart."""

    groups: list[ParameterGroup] = Field(
        default=[], description="Parameters treated apart; the first group that matches a parameter has it."
    )
    decay_bias_and_norm: bool = Field(
        default=True, description="Whether weight decay also acts on biases and normalisation layers."
    )


class Thaw(Section):
    """Frozen parts that are trained from some epoch on."""

    epoch: int = Field(ge=2, description="The first epoch, counted from 1, in which they are trained.")
    modules: Patterns = Field(min_length=1, description="Patterns over the names of modules and parameters.")
    lr: PositiveFloat | None = Field(
        default=None,
        description="Their learning rate, to which the schedule applies; null keeps the optimizer's.",
    )


class InitWeights(Component):
    """Starting values of some parameters, by a function of torch.nn.init."""

    type: str = Field(description="A function of torch.nn.init, as in `kaiming_normal_`.")
    params: Patterns = Field(min_length=1, description="Patterns over parameter names, as in `head.*.weight`.")


class InitFrom(Section):
    """Where trained weights come from, and which of them are taken."""

    path: str = Field(
        min_length=1,
        description="A run's folder, a folder of runs (the newest counts), a checkpoint, a file with a state_dict, "
        "or a .safetensors file.",
    )
    rename: dict[str, str] = Field(
        default={},
        description="Beginnings of names in the file and what they are called here, as in `{backbone.: features.}`.",
    )
    skip: Patterns = Field(default=[], description="What is not taken over, as in `head.*`.")


class TrainerSection(Section):
    """How long to train, on what, and what to keep."""

    type: str = Field(
        default="trainer.Trainer",
        description="The training loop: `file.Class` in the folder trainer/, Trainer or a subclass.",
    )
    epochs: int = Field(ge=1, description="Passes over the training data.")
    save_dir: str = Field(
        default="saved",
        pattern=r"^[^\x00-\x1f]+$",
        description="Folder that receives one folder per run, relative to where you start the command.",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$",
        description="Where to train: auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:1 or mps.",
    )
    monitor: str | None = Field(
        default="min val_loss",
        pattern=r"^(min|max) [A-Za-z]\w*$",
        description="What best.pth is best in: `min` or `max` and a metric, as in `max val_accuracy`; "
        "null keeps no best checkpoint.",
    )
    early_stop: PositiveInt | None = Field(
        default=None,
        description="Evaluations without improvement of monitor after which to stop; null never stops early.",
    )
    strategy: Literal["ddp", "fsdp"] = Field(
        default="ddp",
        description="What several processes (torchrun) hold: ddp a copy of the model each, fsdp a share of it.",
    )
    sharded_checkpoints: bool = Field(
        default=False,
        description="Whether each process writes its own share, with fsdp; else the main one writes a file for all.",
    )
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = Field(
        default="fp32", description="Number format: fp32, tf32 (on GPUs), or 16 bits where they do, bf16 or fp16."
    )
    accumulate: PositiveInt = Field(
        default=1,
        description="Pieces in which a batch goes through the model, one after the other, to save memory; their "
        "gradients add up to that of the whole batch.",
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="Decay, as in 0.999, of a moving average of the weights that is evaluated and saved in their "
        "place; null keeps none.",
    )
    compile: bool | Literal["dynamic"] = Field(
        default=False,
        description="Whether torch.compile makes the model faster, after a first step that takes long: true for each "
        "shape of a batch, dynamic for all shapes at once, where lengths vary.",
    )
    channels_last: bool = Field(
        default=False, description="Whether images lie in memory channel by channel for each pixel, as GPUs like it."
    )
    deterministic: bool = Field(
        default=False, description="Whether to refuse operations whose bits differ from run to run on a GPU."
    )
    clip_grad_norm: PositiveFloat | None = Field(
        default=None, description="Scale gradients down to at most this total norm; null leaves them alone."
    )
    log_every: PositiveInt = Field(default=50, description="Steps between two log entries of a running epoch.")
    save_every_epochs: PositiveInt | None = Field(
        default=1, description="Epochs between two regular checkpoints, epoch_XXXX.pth; null writes none."
    )
    save_every_steps: PositiveInt | None = Field(
        default=None, description="Steps between two writes of last.pth within an epoch; null writes none."
    )
    save_every_minutes: PositiveFloat | None = Field(
        default=None, description="Minutes between two writes of last.pth within an epoch; null writes none."
    )
    keep_last: int = Field(
        default=1,
        ge=0,
        description="How many of the newest epoch_XXXX.pth to keep besides last.pth and best.pth.",
    )


LoggerSetting = Annotated[
    bool | Literal["if_present"] | dict[str, Any],
    Field(
        description="true (default arguments), false (off), a mapping of arguments, or if_present: true if the "
        "file has not been deleted."
    ),
]


class Config(Section):
    """Every knob of a run."""

    schema_: str | None = Field(
        default=None,
        alias="$schema",
        description="Where an editor finds the schema of this file; not used in a run.",
    )
    name: str = Field(
        pattern=r"^\w([\w.-]*\w)?$",
        max_length=60,
        description="Name of the experiment, and of the folder of its runs in save_dir: "
        "letters, digits and `_`, between them also `-` and `.`.",
    )
    seed: int = Field(ge=0, lt=2**63, description="Seed of everything random: weights, split, order, augmentation.")
    data_loader: Component = Field(description="The data: `file.Class` in the folder data_loaders/.")
    model: Component = Field(description="The network: `file.Class` or `file.function` in the folder model/.")
    loss: Component = Field(description="The loss: a function in model/loss.py or a loss class of torch.nn.")
    metrics: list[Metric] = Field(
        description="What evaluation measures: functions in model/metric.py or classes of torchmetrics."
    )
    optimizer: OptimizerSection = Field(description="The optimizer: a class in trainer/optimizer.py or of torch.optim.")
    lr_scheduler: LRScheduler | None = Field(
        default=None,
        description="The learning-rate schedule: a class in trainer/lr_scheduler.py or of "
        "torch.optim.lr_scheduler; null keeps the learning rate.",
    )
    freeze: Patterns = Field(
        default=[],
        description="What is not trained: patterns over the names of modules, parameters and buffers, as in "
        "`features.*`; `!` in front makes an exception.",
    )
    unfreeze: list[Thaw] = Field(default=[], description="What of it is trained from a later epoch on.")
    init_weights: list[InitWeights] = Field(
        default=[],
        description="Other starting values than the layers' own; later entries overwrite earlier ones.",
    )
    init_from: InitFrom | None = Field(
        default=None, description="Trained weights to start from, in epoch 0 and with a fresh optimizer."
    )
    trainer: TrainerSection = Field(description="The training loop: how long, on what device, what to keep.")
    loggers: dict[str, LoggerSetting] = Field(
        default={},
        description="Where the run is recorded besides console and files: files of the folder logger/.",
    )
