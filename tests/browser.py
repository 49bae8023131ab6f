"""A headless Chromium, driven through chromedriver; both are Debian's packages."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

pytest.importorskip("selenium", reason="selenium not found: pip install selenium to test the web page")

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
WINDOW = (1280, 860)
PHONE = (360, 740)


class Browser(Chrome):
    """A browser whose window, colours and console a test can set and read."""

    downloads: Path

    def resize(self, width: int, height: int, *, scale: float = 1) -> None:
        """The size of the page itself, in CSS pixels: windows have a smallest size, phones are narrower."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, colors: Literal["light", "dark"]) -> None:
        """What the system asks pages for."""
        features = [{"name": "prefers-color-scheme", "value": colors}]
        self.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def evaluate(self, script: str, *arguments: Any) -> Any:
        """What an async JavaScript function of this body returns; `a` are its arguments."""
        found = self.execute_async_script(
            f"""
            const a = [...arguments], done = a.pop();
            (async () => {{ {script} }})().then(
              (value) => done({{ value }}),
              (error) => done({{ error: String(error.stack ?? error) }}),
            );
            """,
            *arguments,
        )
        if "error" in found:
            raise AssertionError(found["error"])
        return found.get("value")

    def complaints(self) -> list[str]:
        """What the console got since it was last asked: errors of scripts, violations of the policy."""
        return [entry["message"] for entry in self.get_log("browser")]


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """Skips the test that asks for it, and says why, where there is no Chromium or no chromedriver."""
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        missing = "chromedriver" if chromium else "chromium"
        pytest.skip(f"{missing} not found: apt-get install chromium chromium-driver to test the web page")
    options = ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--disable-gpu",
        "--disable-dev-shm-usage",  # containers have a small /dev/shm
        "--force-color-profile=srgb",
        "--hide-scrollbars",
        # A mouse: without one everything that shows on hovering is shown always.
        "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4",
        f"--user-data-dir={profile}",
        f"--window-size={WINDOW[0]},{WINDOW[1]}",
    ):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium's own does not work for root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    downloads = profile / "downloads"
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    browser = Browser(options=options, service=Service(driver))
    browser.downloads = downloads
    try:
        browser.resize(*WINDOW)
        yield browser
    finally:
        browser.quit()
