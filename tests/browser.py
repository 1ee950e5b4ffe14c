"""Chromium without a window, driven by ChromeDriver's own protocol (W3C WebDriver): no package is needed for it."""

import base64
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request

KEYS = {"left": "\ue012", "right": "\ue014", "home": "\ue011", "end": "\ue010", "tab": "\ue004", "space": " "}
PATIENCE = 300  # seconds


def missing():
    """Return the programs that a browser test lacks here; empty if it can run."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"not on the PATH: {' and '.join(absent)}" if absent else ""


class Browser:
    """One window. Sizes are of the page itself, in CSS pixels, as narrow as a phone's."""

    def __init__(self, folder):
        self._driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        said = iter(self._driver.stdout.readline, "")
        port = next(
            found[1] for found in (re.search(r"started successfully on port (\d+)", line) for line in said) if found
        )
        self._at = f"http://localhost:{port}/session"
        root = ["--no-sandbox"] if os.geteuid() == 0 else []  # it refuses to run as root otherwise
        options = {
            "args": [
                "--headless=new",
                "--disable-gpu",
                "--hide-scrollbars",
                "--disable-dev-shm-usage",
                f"--user-data-dir={folder}",
                *root,
            ],
            "binary": shutil.which("chromium"),
            "browserStartupTimeout": 1000 * PATIENCE,
        }
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        try:
            self._at += "/" + self._ask("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        except BaseException:
            self._end()
            raise

    def close(self):
        self._ask("", method="DELETE")
        self._end()

    def _end(self):
        self._driver.terminate()
        self._driver.wait()
        self._driver.stdout.close()

    def look(self, width, height=900, scheme="light"):
        """Give the page a size and a colour scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._tell("Emulation.setDeviceMetricsOverride", **size)
        self._tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, url):
        self._ask("/url", {"url": url})

    def run(self, script, *args):
        """The value that a script returns."""
        return self._ask("/execute/sync", {"script": script, "args": args})

    def press(self, *keys):
        """Press keys as a user does, on whatever has the focus."""
        strokes = [{"type": way, "value": KEYS[key]} for key in keys for way in ("keyDown", "keyUp")]
        self._ask("/actions", {"actions": [{"type": "key", "id": "keys", "actions": strokes}]})

    def point(self, x, y, click=False):
        """Move the mouse to a place in the window, and click there if wanted."""
        moves = [{"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)}]
        moves += [{"type": way, "button": 0} for way in ("pointerDown", "pointerUp")] if click else []
        self._ask("/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": moves}]})

    def console(self):
        """Return the messages of the console since the last call."""
        return [entry["message"] for entry in self._ask("/se/log", {"type": "browser"})]

    def photograph(self):
        """The whole page as PNG."""
        shot = self._tell("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def _tell(self, command, **params):
        return self._ask("/goog/cdp/execute", {"cmd": command, "params": params})

    def _ask(self, path, body=None, method="POST"):
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self._at + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from error
