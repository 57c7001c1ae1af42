"""Search for better hyperparameters, with Ray Tune; the search space is a section `search` of the config.

python tune.py -c config.json -c configs/search.yaml                    a new search on this machine
python tune.py -c config.json -c configs/search.yaml --address auto     on the Ray cluster that this machine is part of
python tune.py -r saved/search/<search>                                 go on with one that was interrupted
python tune.py --keys                                                   list every key of the section `search`
"""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # While the imports below take their seconds, Ctrl-C ends the process without a traceback out of one of them.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import sys
from datetime import datetime
from pathlib import Path

from logger.console import add_verbosity, log, set_up_logging
from trainer.run_folder import RunLock
from tuning.results import TABLE, Trial, read_trials, table, write_csv
from tuning.search_config import Search, SearchFile, load_search
from tuning.values import words_for
from utils.config import Config
from utils.config_files import load_config
from utils.errors import Interrupted, RunFailed, UserError, run

CONFIG, SEARCH, BEST = "config.json", "search.json", "best.json"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", action="append", default=[], type=Path, metavar="FILE", help="JSON or YAML")
    parser.add_argument("-r", "--resume", type=Path, metavar="SEARCH", help="the folder of a search")
    parser.add_argument("--address", metavar="HOST:PORT", help="a Ray cluster; `auto` finds the one of this machine")
    parser.add_argument("--keys", action="store_true", help="list every key of the section `search`, and stop")
    add_verbosity(parser)
    parser.add_argument("words", nargs="*", metavar="key.path=value", help="a value of the config, as YAML")
    arguments = parser.parse_intermixed_args()
    if bool(arguments.config) == bool(arguments.resume) and not arguments.keys:
        parser.error("say what to search: -c config.json -c configs/search.yaml, or -r with a search's folder")
    if arguments.resume and arguments.words:
        parser.error("a search that goes on keeps its config")
    return arguments


def main() -> int:
    """Do what the command line says."""
    arguments = parse_arguments()
    set_up_logging(level=arguments.level)
    if arguments.keys:
        from utils.config_help import describe

        print(describe(SearchFile.model_json_schema()), flush=True)
        return 0
    if arguments.resume:
        config, search = stored(arguments.resume)
    else:
        config, search = load_search(arguments.config, arguments.words)
    try:
        from tuning.cluster import start_ray
        from tuning.ray_search import resources, run_search
    except ModuleNotFoundError as error:
        raise UserError(f'the package {error.name} is missing: python -m pip install -e ".[tune]"') from None
    start_ray(arguments.address)
    needs = resources(search)
    folder = arguments.resume.absolute() if arguments.resume else new_folder(config, search)
    RunLock(folder).acquire()
    set_up_logging(folder / "search.log")
    what = "going on in" if arguments.resume else "searching in"
    log.info("%s %s: %d trials by %s", what, shown(folder), search.number_of_trials(), search.algorithm)
    signum = run_search(folder, config, search, needs, resume=bool(arguments.resume))
    best = report(folder, config)
    if signum is not None:
        where = f" --address {arguments.address}" if arguments.address else ""
        raise Interrupted(signum, f"interrupted; to go on: python tune.py -r {shown(folder)}{where}")
    if best is None:
        raise RunFailed(f"no trial has reached a value; what they said is in {shown(folder)}/trial_*/stderr.txt")
    return 0


def new_folder(config: Config, search: Search) -> Path:
    """Make the folder of a search, with what is needed to go on with it."""
    time = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = Path(config.trainer.save_dir).absolute() / "search" / f"{config.name}-{time}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"trainer.save_dir: cannot make {folder}: {error.strerror or error}") from None
    write_config(config, folder / CONFIG)
    (folder / SEARCH).write_text(search.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return folder


def write_config(config: Config, file: Path) -> None:
    """Write a config; the path of the schema would lead nowhere from there."""
    file.write_text(config.model_dump_json(by_alias=True, indent=2, exclude={"schema_"}) + "\n", encoding="utf-8")


def stored(folder: Path) -> tuple[Config, Search]:
    """Read what a search was started with."""
    if not (folder / SEARCH).is_file():
        raise UserError(f"{folder}: is not the folder of a search: there is no {SEARCH} in it")
    search = Search.model_validate_json((folder / SEARCH).read_text(encoding="utf-8"))
    return load_config([folder / CONFIG]), search


def report(folder: Path, config: Config) -> Trial | None:
    """Print the table, write it and the best config, and return the best trial, if there is a sound one."""
    assert config.trainer.monitor
    metric = config.trainer.monitor.split()[1]
    trials = read_trials(folder, config.trainer.monitor)
    if trials:
        log.info("%s", table(trials, metric))
    write_csv(folder, trials, metric)
    best = next((trial for trial in trials if trial.best is not None and not trial.failed), None)
    log.info("all trials:     %s", shown(folder / TABLE))
    if best and best.run:
        write_config(load_config([folder / CONFIG], words_for(best.values)), folder / BEST)
        log.info("evaluate best:  python test.py -r %s", shown(best.run))
        log.info("train it anew:  python train.py -c %s", shown(folder / BEST))
    log.info("compare:        tensorboard --logdir %s", shown(folder))
    return best


def shown(path: Path) -> Path:
    """Shorten a path to how one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    sys.exit(run(main))
