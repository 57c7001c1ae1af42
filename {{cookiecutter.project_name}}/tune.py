"""Search for better hyperparameters, with Ray Tune; the search space is a section `search` of the config.

python tune.py -c config.json -c configs/search.yaml                    a new search on this machine
python tune.py -c config.json -c configs/search.yaml --address auto     on the Ray cluster that this machine is part of
python tune.py -r saved/search/<search>                                 go on with one that was interrupted
python tune.py --keys                                                   list every key of the section `search`
"""

import argparse
import sys
from datetime import datetime
from pathlib import Path

from logger.console import log, set_up_logging
from trainer.run_folder import RunLock
from tuning.results import BEST, TABLE, read_trials, table, write_csv, write_hparams
from tuning.search_config import Search, SearchFile, load_search, words_for
from utils.config import Config
from utils.config_files import load_config
from utils.errors import Interrupted, UserError, run

CONFIG, SEARCH = "config.json", "search.json"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", action="append", default=[], type=Path, metavar="FILE", help="JSON or YAML")
    parser.add_argument("-r", "--resume", type=Path, metavar="SEARCH", help="the folder of a search")
    parser.add_argument("--address", metavar="HOST:PORT", help="a Ray cluster; `auto` finds the one of this machine")
    parser.add_argument("--keys", action="store_true", help="list every key of the section `search`, and stop")
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
    set_up_logging()
    if arguments.keys:
        from utils.config_help import describe

        print(describe(SearchFile.model_json_schema()))
        return 0
    if arguments.resume:
        folder = arguments.resume.absolute()
        config, search = stored(folder)
    else:
        config, search = load_search(arguments.config, arguments.words)
    try:
        from tuning.ray_search import run_search
    except ModuleNotFoundError as error:
        raise UserError(f'the package {error.name} is missing: python -m pip install -e ".[tune]"') from None
    if not arguments.resume:
        folder = new_folder(config, search)
    RunLock(folder).acquire()
    set_up_logging(folder / "search.log")
    log.info("%s with %s", "going on" if arguments.resume else f"searching in {shown(folder)},", search.algorithm)
    signum = run_search(folder, config, search, arguments.address, bool(arguments.resume))
    report(folder, config)
    if signum is not None:
        raise Interrupted(signum, f"interrupted; to go on: python tune.py -r {shown(folder)}")
    return 0


def new_folder(config: Config, search: Search) -> Path:
    """Make the folder of a search, with what is needed to go on with it."""
    time = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = Path(config.trainer.save_dir).absolute() / "search" / f"{config.name}-{time}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"trainer.save_dir: cannot make {folder}: {error.strerror or error}") from None
    (folder / CONFIG).write_text(config.model_dump_json(by_alias=True, indent=2) + "\n", encoding="utf-8")
    (folder / SEARCH).write_text(search.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return folder


def stored(folder: Path) -> tuple[Config, Search]:
    """Read what a search was started with."""
    if not (folder / SEARCH).is_file():
        raise UserError(f"{folder}: is not the folder of a search: there is no {SEARCH} in it")
    search = Search.model_validate_json((folder / SEARCH).read_text(encoding="utf-8"))
    return load_config([folder / CONFIG]), search


def report(folder: Path, config: Config) -> None:
    """Print the table, and write the best config and the files for other programs."""
    metric = config.trainer.monitor or ""
    trials = read_trials(folder, metric)
    log.info("%s", table(trials, metric))
    write_csv(folder, trials, metric)
    write_hparams(trials, metric)
    if not trials or trials[0].best is None:
        log.info("no trial has a value")
        return
    best = load_config([folder / CONFIG], words_for(trials[0].values))
    (folder / BEST).write_text(best.model_dump_json(by_alias=True, indent=2) + "\n", encoding="utf-8")
    log.info("all trials:     %s", shown(folder / TABLE))
    log.info("evaluate best:  python test.py -r %s", shown(trials[0].run or folder))
    log.info("train it anew:  python train.py -c %s", shown(folder / BEST))
    log.info("compare:        tensorboard --logdir %s", shown(folder))


def shown(path: Path) -> Path:
    """Shorten a path to how one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    sys.exit(run(main))
