"""Debian's Chromium without a window, driven by the DevTools protocol: clicks and keys as a person's, no more."""

import base64
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.support.until import wait_until

PROGRAM = shutil.which("chromium")
# No sandbox: tests may run as root. The rest keeps Chromium from asking its maker's servers.
OPTIONS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]


class Page:
    """One tab. Elements are named by CSS selectors."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._sent = 0
        self.requested: list[str] = []
        """The URL of each request that the tab has made."""
        self.complaints: list[str] = []
        """What the console says of errors, those of the Content-Security-Policy included."""
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command of the protocol."""
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == self._sent:
                assert "error" not in message, f"{method}: {message['error']}"
                result: dict[str, Any] = message["result"]
                return result
            self._happened(message.get("method", ""), message.get("params", {}))

    def _happened(self, event: str, told: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requested.append(told["request"]["url"])
        elif event == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(told["exceptionDetails"]))

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise's once it is there."""
        options = {"returnByValue": True, "awaitPromise": True, "userGesture": True}
        result = self.call("Runtime.evaluate", expression=script, **options)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, script: str) -> None:
        """Until a JavaScript expression is true; an element is."""
        wait_until(lambda: self.run(f"Boolean({script})"), script)

    def text(self, selector: str) -> str:
        shown: str = self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")
        return shown

    def click(self, selector: str, containing: str = "") -> None:
        """Presses the mouse in the middle of the first such element that is seen, once there is one."""
        find = f"""(() => {{
          const all = [...document.querySelectorAll({json.dumps(selector)})];
          const one = all.find((e) => e.innerText?.includes({json.dumps(containing)}) ?? true);
          if (!one) return null;
          one.scrollIntoView({{block: 'center'}});
          const box = one.getBoundingClientRect();
          return box.width ? [box.x + box.width / 2, box.y + box.height / 2] : null;
        }})()"""
        x, y = wait_until(lambda: self.run(find), f"{selector} {containing}")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int, modifiers: int = 0, text: str = "") -> None:
        keys = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown", **keys, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **keys)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def choose_file(self, selector: str, file: Path) -> None:
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(file.resolve())], nodeId=node)

    def look(self, width: int = 1280, height: int = 900, dark: bool = False, phone: bool = False) -> None:
        """The size of the window, and what its user prefers."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def save_screenshot(self, file: Path, whole: bool = False) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(taken["data"]))


@contextmanager
def browser_page() -> Iterator[Page]:
    """A tab of a Chromium of its own, with a profile that holds nothing."""
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        command = [PROGRAM, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
            try:
                told = Path(profile, "DevToolsActivePort")
                port = wait_until(lambda: told.read_text("utf-8").split() if told.exists() else [], "Chromium")[0]
                with connect(_tab(int(port)), max_size=2**26) as socket:
                    yield Page(socket)
            finally:
                browser.terminate()


def _tab(port: int) -> str:
    import httpx

    tabs = httpx.get(f"http://127.0.0.1:{port}/json/list").json()
    url: str = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
    return url
