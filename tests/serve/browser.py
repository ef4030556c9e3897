"""A real browser, driven by chromedriver's own HTTP interface (https://www.w3.org/TR/webdriver2/)."""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.serve.conftest import until

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
FLAGS += ("--disable-background-networking", "--disable-component-update", "--force-device-scale-factor=1")
KEYS = {"tab": "\ue004", "space": " ", "control": "\ue009", "enter": "\ue007"}
KEYS |= {"left": "\ue012", "up": "\ue013", "right": "\ue014", "down": "\ue015"}
_TEXTS = "return [...document.querySelectorAll(arguments[0])].map(each => each.innerText)"
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


def missing() -> str | None:
    """What of the browser is not installed."""
    needed = {
        "chromium": ("chromium", "chromium-browser", "google-chrome"),
        "chromedriver": ("chromedriver",),
    }
    lacking = [name for name, called in needed.items() if not any(map(shutil.which, called))]
    return (
        f"{' and '.join(lacking)} not installed: apt-get install chromium chromium-driver"
        if lacking
        else None
    )


class Browser:
    """One window."""

    def __init__(self, session: httpx.Client) -> None:
        self._session = session

    def _do(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._session.request(method, path, json=body if method == "POST" else None)
        value = answer.json()["value"]
        assert answer.status_code == 200, value["message"].splitlines()[0]
        return value

    def open(self, address: str) -> None:
        self._do("POST", "url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self._do("POST", "execute/sync", {"script": script, "args": arguments})

    def type(self, selector: str, text: str) -> None:
        """Keys, into an element."""
        found = self._do("POST", "element", {"using": "css selector", "value": selector})[_ELEMENT]
        self._do("POST", f"element/{found}/value", {"text": text})

    def press(self, *keys: str) -> None:
        """Keys, held down one after the other and then let go, wherever the focus is."""
        down = [{"type": "keyDown", "value": KEYS.get(key, key)} for key in keys]
        up = [{"type": "keyUp", "value": KEYS.get(key, key)} for key in reversed(keys)]
        self._do("POST", "actions", {"actions": [{"type": "key", "id": "keys", "actions": down + up}]})

    def click(self, selector: str) -> None:
        found = self._do("POST", "element", {"using": "css selector", "value": selector})[_ELEMENT]
        self._do("POST", f"element/{found}/click", {})

    def text(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0]).innerText", selector)

    def wait(self, selector: str, text: str) -> None:
        """Until an element says so."""
        until(lambda: any(text in said for said in self.run(_TEXTS, selector)))

    def chrome(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._do("POST", "goog/cdp/execute", {"cmd": command, "params": parameters})

    def look(self, width: int, height: int, scheme: str = "light") -> None:
        """The size of the window, and whether the user likes it light or dark."""
        self.chrome(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.chrome("Emulation.setEmulatedMedia", features=features)

    def console(self) -> list[str]:
        """What the browser complained of since this was last asked; its advice left out."""
        told = self._do("POST", "se/log", {"type": "browser"})
        return [each["message"] for each in told if each["level"] in ("WARNING", "SEVERE")]

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        shot = self.chrome("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(shot))


@contextmanager
def browser(profile: Path, flags: Sequence[str] = FLAGS) -> Iterator[Browser]:
    """A headless browser with an empty profile."""
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert driver.stdout is not None
        port = next(
            line.rsplit(" ", 1)[1].strip(" .\n") for line in driver.stdout if "started successfully" in line
        )
        options = {"args": [*flags, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/", timeout=60) as client:
            begun = client.post("session", json={"capabilities": {"alwaysMatch": wanted}}).json()["value"]
            assert "sessionId" in begun, begun["message"].splitlines()[0]
            client.base_url = httpx.URL(f"http://127.0.0.1:{port}/session/{begun['sessionId']}/")
            try:
                yield Browser(client)
            finally:
                client.delete("")
    finally:
        driver.terminate()
        driver.wait(10)
