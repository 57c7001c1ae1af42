"""TensorBoard in a real browser: a person who opens it finds the run's charts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from baking import ENVIRONMENT, python, succeed

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs Chromium and chromedriver")

OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1500,1400",
)

# All text of a page, that of its web components too.
ALL_TEXT = """
const words = [];
const walk = node => {
  if (node.nodeType === Node.TEXT_NODE) words.push(node.textContent.trim());
  if (node.shadowRoot) walk(node.shadowRoot);
  node.childNodes.forEach(walk);
};
walk(document.body);
return words.filter(Boolean).join("\\n");
"""


@pytest.fixture(scope="module")
def tensorboard(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Train twice, start TensorBoard, and return its address."""
    saved = tmp_path_factory.mktemp("saved")
    words = ["trainer.epochs=3", "lr_scheduler=null", "trainer.log_every=10", f"trainer.save_dir={saved}"]
    words.append("loggers.tensorboard={histograms_every: 20}")
    for rate in ("1e-3", "3e-3"):
        succeed(python("train.py", "-c", "config.json", *words, f"optimizer.args.lr={rate}", cwd=full))
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(saved), "--port", "0", "--host", "localhost"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=ENVIRONMENT, encoding="utf-8") as server:
        assert server.stderr
        found = next(filter(None, (re.search(r"http://localhost:\d+/", line) for line in server.stderr)))
        yield found[0]
        server.terminate()


@pytest.fixture(scope="module")
def look(tensorboard: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., None]]:
    """Return a function that opens a tab and waits until all of some words are on it."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.wait import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))

    def open_tab(tab: str, *words: str) -> None:
        driver.get("about:blank")
        driver.get(f"{tensorboard}#{tab}")
        missing = set(words)

        def all_there(browser: webdriver.Chrome) -> bool:
            shown = set(browser.execute_script(ALL_TEXT).splitlines())
            missing.intersection_update(word for word in words if word not in shown)
            return not missing

        try:
            WebDriverWait(driver, timeout=60).until(all_there)
        except Exception as error:
            if "SCREENSHOTS" in os.environ:
                driver.save_screenshot(str(Path(os.environ["SCREENSHOTS"]) / f"{tab}.png"))
            raise AssertionError(f"not on the tab {tab}: {missing}") from error
        if "SCREENSHOTS" in os.environ:
            driver.save_screenshot(str(Path(os.environ["SCREENSHOTS"]) / f"{tab}.png"))

    yield open_tab
    driver.quit()


def test_the_tab_of_charts_is_laid_out(look: Callable[..., None]) -> None:
    look("custom_scalars", "training and validation", "optimization", "machine", "loss", "accuracy", "learning rate")


def test_the_first_screen_begins_with_the_metrics(look: Callable[..., None]) -> None:
    look("timeseries", "accuracy", "loss", "/train", "/val")


def test_pictures_hyperparameters_and_histograms_are_shown(look: Callable[..., None]) -> None:
    look("images", "validation/confusion_matrix", "validation/samples")
    look("hparams", "optimizer.lr", "run/best_val_accuracy", "0.0010000", "0.0030000")
    look("histograms", "weight_gradients", "weights")
    look("graphs", "ConvNet")
