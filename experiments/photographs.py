"""Screenshots by a headless browser: TensorBoard on a folder of runs, and the page of an episode."""

import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from fwagents.files import replacing

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Name, the fragment of the address, and the size of the window in pixels.
PAGES = (
    ("time-series", "#timeseries", (1440, 2060)),
    ("images", "#images", (1200, 700)),
    ("charts", "#custom_scalars", (1200, 1040)),
    ("histograms", "#histograms", (1200, 460)),
)
EPISODE, STEP = (1240, 1070), 12  # pixels of the screenshot of an episode's page, and the step that it shows
PATIENCE = 300.0  # most seconds for the server to read the runs, and for a screenshot
DRAWING = 30_000  # milliseconds of the page's virtual time to fetch and draw everything


def photograph_board(log_dir: Path, output: Path) -> Iterator[Path]:
    """Make screenshots of TensorBoard's pages, light and dark.

    Args:
        log_dir: the runs to show.
        output: folder for the screenshots.

    Yields:
        The path of every screenshot, once it is written.

    Raises:
        FileNotFoundError: there is no browser; the message names suitable ones.
        TimeoutError: the server or the browser took too long.
    """
    browser = _browser()
    with _server(log_dir) as address:
        for name, page, size in PAGES:
            for theme, dark in (("light", "false"), ("dark", "true")):
                # Curves are drawn as SVG, since a worker may draw on a canvas only after the screenshot.
                url = f"{address}?darkMode={dark}&forceSVG=true{page}"
                path = output / f"tensorboard-{name}-{theme}.png"
                with replacing(path) as file:
                    file.write(_photograph(browser, url, size))
                yield path


def photograph_episode(page: Path, output: Path) -> Iterator[Path]:
    """Take screenshots of a page of ``fwagents watch``, light and dark.

    Args:
        page: the page.
        output: folder for the screenshots.

    Yields:
        The path of every screenshot, once it is written.

    Raises:
        FileNotFoundError: there is no browser; the message names suitable ones.
        TimeoutError: the browser took too long.
    """
    browser = _browser()
    for theme in ("light", "dark"):
        path = output / f"episode-page-{theme}.png"
        with replacing(path) as file:
            file.write(_photograph(browser, f"{page.resolve().as_uri()}#step={STEP}&theme={theme}", EPISODE))
        yield path


def _browser() -> str:
    found = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if found is None:
        raise FileNotFoundError(f"no browser to take screenshots with: expected one of {', '.join(BROWSERS)}")
    return found


@contextmanager
def _server(log_dir: Path) -> Iterator[str]:
    """Start TensorBoard on a free port and yield its address once it has read the runs."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    # The folder is given by its name alone, since the page shows the path that it was given.
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", log_dir.resolve().name, "--port", str(port)]
    server = subprocess.Popen(
        command, cwd=log_dir.resolve().parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://localhost:{port}/"
    try:
        end = time.monotonic() + PATIENCE
        while _get(f"{address}data/plugin/scalars/tags") in ("", "{}"):
            if server.poll() is not None or time.monotonic() > end:
                raise TimeoutError(f"TensorBoard showed no run of {log_dir} within {PATIENCE:.0f} seconds")
            time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait()


def _get(url: str) -> str:
    """Return the page at an address; empty while there is no server."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError):
        return ""


def _photograph(browser: str, url: str, size: tuple[int, int]) -> bytes:
    """Return a screenshot of a page as PNG, with few colours so that the file is small."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "page.png"
        command = [
            *(browser, "--headless=new", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}/profile"),
            "--run-all-compositor-stages-before-draw",
            *(f"--window-size={size[0]},{size[1]}", f"--virtual-time-budget={DRAWING}", f"--screenshot={picture}"),
            *(["--no-sandbox"] if os.geteuid() == 0 else []),  # Chromium refuses to run as root otherwise
            url,
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{browser} took more than {PATIENCE:.0f} seconds") from error
        if not picture.exists():
            raise RuntimeError(f"{browser} made no photograph: {done.stderr.strip()[-300:]}")
        content = io.BytesIO()
        with Image.open(picture) as image:
            image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(content, "PNG", optimize=True)
    return content.getvalue()
