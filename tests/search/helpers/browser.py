"""A headless Chromium, driven through its debugging pipe, which needs no driver and opens no port."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE = 60
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-extensions",
    "--no-first-run",
    "--remote-debugging-pipe",
)


def installed() -> str | None:
    """The path of a browser, if there is one."""
    return next((result for name in NAMES if (result := shutil.which(name))), None)


class Page:
    """One tab: what it said on its console, which requests it made."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._rest, self._count = send, receive, b"", 0
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            outcome = self._next()
            if outcome.get("id") == self._count:
                assert "error" not in outcome, outcome
                result: dict[str, Any] = outcome["result"]
                return result
            self.events.append(outcome)

    def open(self, url: str) -> None:
        """Go to a page, afresh, and wait for it to be loaded."""
        for place in ("about:blank", url):
            self.events.clear()
            self.call("Page.navigate", url=place)
            while not any(event["method"] == "Page.loadEventFired" for event in self.events):
                self.events.append(self._next())

    def run(self, script: str) -> Any:
        """Return what an expression is worth in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def click(self, selector: str) -> None:
        """Click in the middle of what a selector finds first, as a pointer does."""
        at = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            place = {"x": at[0], "y": at[1], "button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, **place)

    def press(self, key: str) -> None:
        """Press a key, such as Escape or Enter."""
        code = {"Escape": 27, "Enter": 13, "Tab": 9}[key]
        event = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def faults(self) -> list[str]:
        """What was logged as an error or warning, thrown or refused since the page was opened."""
        results = []
        for event in self.events:
            params = event.get("params", {})
            match event["method"]:
                case "Log.entryAdded":
                    results.append(params["entry"]["text"])
                case "Runtime.exceptionThrown":
                    results.append(json.dumps(params["exceptionDetails"]))
                case "Runtime.consoleAPICalled":
                    results.append(json.dumps(params["args"]))
        return results

    def requests(self) -> list[str]:
        """The addresses that were asked for since the page was opened."""
        wanted = (event for event in self.events if event["method"] == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in wanted]

    def screen(self, width: int, height: int, dark: bool = False, phone: bool = False) -> None:
        """Set the size of the window, and whether the user likes dark pages."""
        size = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._receive], [], [], PATIENCE)
            assert ready, f"the browser said nothing for {PATIENCE} seconds"
            more = os.read(self._receive, 1 << 16)
            assert more, "the browser has gone"
            self._rest += more
        line, self._rest = self._rest.split(b"\0", 1)
        report: dict[str, Any] = json.loads(line)
        return report


@contextmanager
def browser(binary: str, profile: Path) -> Iterator[Page]:
    """Start a browser with an empty profile; it reads commands from descriptor 3 and answers on 4."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    os.set_inheritable(to_read, True)
    os.set_inheritable(from_write, True)
    command = [binary, *FLAGS, f"--user-data-dir={profile}"]
    line = f'exec "$@" 3<&{to_read} 4>&{from_write}'
    process = subprocess.Popen(
        ["bash", "-c", line, "bash", *command],
        pass_fds=(to_read, from_write),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(to_read)
    os.close(from_write)
    try:
        yield Page(to_write, from_read)
    finally:
        os.close(to_write)
        os.close(from_read)
        # its own group: the browser and all that it started
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
