"""Headless Chromium for tests that look at a page as a reader does.

Where there is no Chromium such tests are skipped, except in continuous integration, where they fail: there it must be.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

Open = Callable[..., Any]
"""``open(file, fragment="", width=1280, height=900, dark=False)`` gives a page of playwright."""


@contextmanager
def chromium() -> Iterator[Any]:
    """Start the browser; costs about a second, so once per test module."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        _missing("playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        _missing("Chromium is not installed")
    with sync_playwright() as driver:
        program = driver.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield program
        finally:
            program.close()


def _missing(what: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}, and continuous integration must test the pages")
    pytest.skip(what)


@contextmanager
def pages(program: Any) -> Iterator[Open]:
    """Open pages, each as a new reader; at the end none may have asked for anything but files, or complained."""
    contexts: list[Any] = []
    requests: list[str] = []
    complaints: list[str] = []

    def open_(file: Path, fragment: str = "", *, width: int = 1280, height: int = 900, dark: bool = False) -> Any:
        scheme = "dark" if dark else "light"
        contexts.append(program.new_context(viewport={"width": width, "height": height}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(file.resolve().as_uri() + fragment)
        return page

    try:
        yield open_
    finally:
        for context in contexts:
            context.close()
    elsewhere = [url for url in requests if not url.startswith(("file:", "data:"))]
    assert not elsewhere, f"a page asked for {elsewhere}"
    assert not complaints, f"a page complained: {complaints}"
