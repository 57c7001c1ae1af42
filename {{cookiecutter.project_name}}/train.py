"""Train a model.

python train.py -c config.json                      a new run
python train.py -c config.json seed=7               the same with another value
python train.py -c config.json -c more.yaml         files are laid over one another, later ones on top
python train.py -c config.json --check              run every part once, without training
python train.py -r saved/digits/<run>               continue a run: from its newest checkpoint, or from a file
python train.py -r auto -c config.json              continue the newest unfinished run of this name, or start one
python train.py --keys                              list every key of a config
"""

import gc
import signal

if __name__ == "__main__":
    gc.disable()  # to look for garbage among all that is imported takes up to 0.2 s; `run` enables it again
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # While the imports below take their seconds, Ctrl-C ends the process without a traceback out of one of them.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import shutil
import sys
from pathlib import Path

from logger.console import add_verbosity, log, set_up_logging
from trainer.build import build_trainer
from trainer.check import check, check_first_batch
from trainer.closing import NOTHING_TRAINED, next_steps, nothing_left
from trainer.restarts import remember_run, what_to_resume
from trainer.restoring import restore
from trainer.run_folder import RunLock, create_run_folder, find_checkpoint, run_folder_of
from trainer.trainer import Trainer
from trainer.trials import add_trials, run_trial
from utils.config import Config
from utils.config_files import config_from_dict, load_config
from utils.distributed import from_main, is_main, process_group
from utils.environment import record_environment
from utils.errors import Interrupted, UserError, main_speaks_first, run


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", action="append", default=[], type=Path, metavar="FILE", help="JSON or YAML")
    parser.add_argument("-r", "--resume", metavar="RUN", help="a run's folder, a checkpoint file, or `auto`")
    parser.add_argument("--check", action="store_true", help="run every part once, without training")
    parser.add_argument("--keys", action="store_true", help="list every key of a config, and stop")
    add_trials(parser)
    add_verbosity(parser)
    parser.add_argument("words", nargs="*", metavar="key.path=value", help="a value of the config, as YAML")
    arguments, unknown = parser.parse_known_intermixed_args()
    if unknown:
        parser.error(f"no such option: {unknown[0]}; a value of the config is a word without dashes: trainer.epochs=3")
    if not (arguments.config or arguments.resume or arguments.keys):
        files = [word for word in arguments.words if "=" not in word]
        given = f"-c {files[0]}" if files else "-c config.json"
        parser.error(f"say what to train: {given}, or -r with a run's folder")
    if arguments.resume == "auto" and not arguments.config:
        parser.error("-r auto looks for a run of the config's name, and needs -c")
    return arguments


def main() -> int:
    """Do what the command line says."""
    arguments = parse_arguments()
    set_up_logging(level=arguments.level)
    if arguments.keys:
        from utils.config_help import describe

        print(describe(), flush=True)
        return 0
    with process_group(), main_speaks_first():
        config = load_config(arguments.config, arguments.words) if arguments.config else None
        return 0 if run_trial(arguments, config) else check_or_train(arguments, config)


def check_or_train(arguments: argparse.Namespace, config: Config | None) -> int:
    """Do the work, in each of the processes."""
    if config and arguments.check:
        check(build_trainer(config, starting_weights=True))
        log.info("all is well")
        return 0
    path = what_to_resume(arguments, config)
    if path:
        return resume(path, config, arguments.words)
    assert config is not None
    return start(config)


def start(config: Config) -> int:
    """Train from the beginning, in a new folder, which goes again if nothing comes of it before the first step."""
    trainer = build_trainer(config, starting_weights=True)
    layers = check_first_batch(trainer)
    run_dir = from_main(create_run_folder(Path(config.trainer.save_dir), config.name) if is_main() else Path())
    try:
        if is_main():
            RunLock(run_dir).acquire()
        trainer.open_run(run_dir)
        return train(trainer, f"{layers}\n{trainer.describe_groups()}\ntraining in {run_dir}".lstrip())
    except (KeyboardInterrupt, UserError) as error:
        if trainer.progress.step:
            raise
        if is_main():
            shutil.rmtree(run_dir, ignore_errors=True)
        if isinstance(error, UserError):
            raise
        raise Interrupted(signal.SIGINT, NOTHING_TRAINED) from None


def resume(path: Path, config: Config | None, words: list[str]) -> int:
    """Continue a run in its folder, from where a checkpoint was written."""
    if is_main():
        RunLock(run_folder_of(path)).acquire()
    file, state = find_checkpoint(path, whole=False)
    trainer = build_trainer(config or config_from_dict(state["config"], words, str(file)))
    trainer.open_run(run_folder_of(path))
    restore(trainer, state)
    trainer.saver.complete(file)
    return train(trainer, f"going on from {file}, after step {trainer.progress.step}")


def train(trainer: Trainer, headline: str) -> int:
    """Train to the end, and say what to do next."""
    run_dir = trainer.saver.run_dir
    remember_run(run_dir)
    if is_main():
        record(trainer, run_dir)
    log.info(headline)
    if trainer.is_finished():
        log.info(nothing_left(trainer))
    trainer.train()
    log.info(next_steps(trainer))
    return 0


def record(trainer: Trainer, run_dir: Path) -> None:
    """Write down in the run's folder what is trained, and where."""
    set_up_logging(run_dir / "train.log")
    # The path of the schema is one from the config that a person wrote; from here it would lead nowhere.
    text = trainer.config.model_dump_json(by_alias=True, indent=2, exclude={"schema_"})
    (run_dir / "config.json").write_text(text + "\n", encoding="utf-8")
    record_environment(run_dir, trainer.device, trainer.config.seed)


if __name__ == "__main__":
    sys.exit(run(main))
