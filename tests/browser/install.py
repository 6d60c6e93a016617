"""What the browser test needs and `make setup` does not install: `python tests/browser/install.py`.

Exits with 1, and a sentence that says what to install, where there can be no browser.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_BROWSER = (
    "No browser was found: install Debian's package chromium, or Google Chrome, so that one of"
    f" {', '.join(BROWSERS)} is on PATH, or set CHROMIUM to the path of its program."
)
APT = ("apt-get", "-o", "DPkg::Lock::Timeout=300")
# With letters: a machine without a single font shows none.
PACKAGES = ("chromium", "fonts-liberation")


def find_browser() -> str | None:
    """Path of the browser's program: what CHROMIUM says, else the first on PATH."""
    asked = os.environ.get("CHROMIUM")
    names = (asked,) if asked else BROWSERS
    return next((path for name in names if (path := shutil.which(name))), None)


def install_browser() -> None:
    """Install Debian's chromium; leaves it to the caller to look whether there is one now."""
    if os.environ.get("CHROMIUM") or not shutil.which("apt-get"):
        return
    become_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if become_root and not shutil.which("sudo"):
        return
    print("Installing chromium with apt-get ...", flush=True)
    for step in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(
            [*become_root, "env", "DEBIAN_FRONTEND=noninteractive", *APT, *step],
            stdout=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            return


def install_playwright() -> None:
    """Install the driver beside this Python; it comes without a browser, and needs none more."""
    if importlib.util.find_spec("playwright") is None:
        print("Installing playwright from PyPI ...", flush=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "playwright"], check=True)


def main() -> int:
    """Install what is missing; returns 1 where there is no browser even then."""
    if find_browser() is None:
        install_browser()
    browser = find_browser()
    if browser is None:
        print(NO_BROWSER, file=sys.stderr)
        return 1
    install_playwright()
    print(f"Browser: {browser}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
