"""The report, seen by a real browser: no server, no network, wide and narrow, light and dark."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from baking import python, succeed

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)

pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="neither Chromium nor its driver is installed")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Start a browser with a fresh profile."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["http://*", "https://*"]})
    yield driver
    driver.quit()


def look(browser: Any, page: Path, width: int, scheme: str) -> None:
    """Open a page in a window of some width, in light or dark."""
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page.as_uri())


def brightness(colour: str) -> float:
    """Return the mean of the channels of `rgb(1, 2, 3)`."""
    return sum(map(int, colour[colour.index("(") + 1 : -1].split(",")[:3])) / 3


def test_the_report_is_readable_on_a_desk_and_on_a_phone(full: Path, tmp_path: Path, browser: Any) -> None:
    from matplotlib.figure import Figure

    runs = []
    for number in (1, 2):
        run = tmp_path / "saved" / "digits" / f"20260101-00000{number}-abcd"
        (run / "checkpoints").mkdir(parents=True)
        (run / "plots").mkdir()
        Figure(figsize=(6, 3)).savefig(run / "plots" / "confusion.png")
        epochs = [{"epoch": epoch, "step": epoch, "best": epoch == 3} for epoch in range(1, 6)]
        values = [{f"{split}_loss": number / epoch["epoch"] for split in ("train", "val")} for epoch in epochs]
        lines = [json.dumps(epoch | value) for epoch, value in zip(epochs, values, strict=True)]
        (run / "metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")
        (run / "config.json").write_text(json.dumps({"seed": number, "a_long_key": {"b": "x" * 200}}))
        runs.append(run)
    folder = tmp_path / "saved" / "digits"
    succeed(python("report.py", str(runs[0]), cwd=full))
    succeed(python("report.py", *map(str, runs), cwd=full))

    for page, figures in ((runs[0] / "report.html", 1), (folder / "comparison.html", 2)):
        for width in (1200, 390):
            for scheme in ("light", "dark"):
                look(browser, page, width, scheme)
                browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
                seen = browser.execute_script(
                    """
                    const style = (element, name) => getComputedStyle(element)[name];
                    const svg = document.querySelector('svg'), text = svg.querySelector('text');
                    return {
                      beyond: document.documentElement.scrollWidth - innerWidth,
                      charts: [...document.querySelectorAll('svg')].map(one => one.getBoundingClientRect().width),
                      letters: text.getBoundingClientRect().height,
                      paper: style(document.body, 'backgroundColor'),
                      ink: style(document.body, 'color'),
                      label: style(text, 'fill'),
                      curve: style(svg.querySelector('path[style*="--c"]'), 'stroke'),
                      pictures: [...document.images].map(one => one.naturalWidth),
                      fetched: performance.getEntriesByType('resource').map(one => one.name.slice(0, 30)),
                    };
                    """
                )
                assert seen["beyond"] <= 0, "nothing sticks out to the side"
                assert seen["charts"]
                assert all(300 < chart < min(width, 480) for chart in seen["charts"])
                assert seen["letters"] >= 9
                dark = scheme == "dark"
                assert (brightness(seen["paper"]) < 60) == dark
                assert (brightness(seen["ink"]) > 180) == dark
                assert seen["label"] == seen["ink"]
                assert abs(brightness(seen["curve"]) - brightness(seen["paper"])) > 60
                assert len(seen["pictures"]) == figures
                assert all(seen["pictures"])
                assert [name for name in seen["fetched"] if not name.startswith("data:")] == []
    assert browser.get_log("browser") == []
