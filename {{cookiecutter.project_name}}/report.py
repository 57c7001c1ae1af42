"""Write a report about runs, as one HTML file that a browser opens without server or network.

python report.py saved/digits/<run>                        curves, results, config, environment: report.html in the run
python report.py saved/digits/<run> saved/digits/<other>   a comparison: comparison.html beside the runs
python report.py saved/digits                              a comparison of all runs in a folder
"""

import argparse
import os
import sys
from pathlib import Path

from logger.console import log, set_up_logging
from reporting.page import write_report
from reporting.record import read_run
from utils.errors import UserError, run


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, or a folder of runs")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="where to write, instead of beside the runs")
    return parser.parse_args()


def run_folders(paths: list[Path]) -> list[Path]:
    """Return the folders of runs that are meant; files among the paths are passed over, as in `saved/digits/*`.

    Raises:
        UserError: there is none.
    """
    folders: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: there is no such folder")
        inside = [folder for folder in sorted(path.glob("*/")) if (folder / "checkpoints").is_dir()]
        folders |= dict.fromkeys(inside or ([path] if path.is_dir() else []))
    if not folders:
        raise UserError(f"no runs in {', '.join(map(str, paths))}")
    return list(folders)


def main() -> int:
    """Read the runs, write the page, and say where it is."""
    arguments = parse_arguments()
    set_up_logging()
    runs = [read_run(folder) for folder in run_folders(arguments.runs)]
    path = arguments.output
    if path is None and len(runs) == 1:
        path = runs[0].folder / "report.html"
    elif path is None:
        path = Path(os.path.commonpath([run.folder.resolve().parent for run in runs])) / "comparison.html"
        path = Path(os.path.relpath(path)) if path.is_relative_to(Path.cwd()) else path
    try:
        write_report(runs, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    log.info("written to %s (%.0f kB): open it in a browser", path, path.stat().st_size / 1e3)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
