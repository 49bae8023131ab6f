"""What the tests of the web page share: what its model knows, how it is reached, and what a person does."""

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from browser import Browser
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

ATTACK = (
    "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'>\n\n[go](javascript:window.ran=1)"
)
PATIENCE = 30  # seconds
Found = TypeVar("Found")


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


CALL = {"type": "function", "function": {"name": "calculator", "arguments": {"expression": "23 * 47"}}}
PRODUCT = {
    "messages": [
        user("What is 23 * 47?"),
        {**assistant("<think>\nThe calculator is exact.\n</think>"), "tool_calls": [CALL]},
        {"role": "tool", "content": "1081"},
        assistant("It is **1081**."),
    ],
}
PARROT = {
    "messages": [
        user("Who are you?"),
        assistant("A **parrot**."),
        user("Say it again."),
        assistant("A parrot, *still*."),
    ],
}
SONG = {"messages": [user("Sing."), assistant("la " * 60)]}
HOSTILE = {"messages": [user("Attack!"), assistant(ATTACK)]}

# [contrast, text] of every text that shows, after WCAG's definition of relative luminance.
CONTRASTS = """
    const channels = (color) => color.match(/[\\d.]+/g).map(Number);
    const luminance = (color) => channels(color).slice(0, 3)
      .map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4))
      .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (one) => {
      for (; one; one = one.parentElement) {
        const color = getComputedStyle(one).backgroundColor;
        if ((channels(color)[3] ?? 1) === 1) return color;
      }
    };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const found = [];
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const one = node.parentElement;
      const isShown = one.checkVisibility({ opacityProperty: true, visibilityProperty: true });
      if (!node.data.trim() || !isShown || one.closest(":disabled, .visually-hidden")) continue;
      const [a, b] = [luminance(getComputedStyle(one).color), luminance(behind(one))];
      found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.data.trim()]);
    }
    return found;
"""


class Line:
    """A connection between browser and server that can be slow, and that can be cut."""

    is_slow = False  # a whole answer takes some seconds

    def __init__(self, port: int) -> None:
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Ends what is connected now; what comes later is connected again."""
        for end in self._open:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the other side was quicker
        self._open.clear()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            server = socket.create_connection(("127.0.0.1", self._server))
            self._open += (client, server)
            threading.Thread(target=self._pump, args=(client, server), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(128 if self.is_slow else 1 << 16):
                sink.sendall(data)
                time.sleep(0.1 if self.is_slow else 0)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return  # cut


def until(condition: Callable[[], Found], *, seconds: float = PATIENCE) -> Found:
    """What the condition gives as soon as it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)
    return found


def find(page: Browser, selector: str) -> WebElement:
    return page.find_element(By.CSS_SELECTOR, selector)


def count(page: Browser, selector: str) -> int:
    return len(page.find_elements(By.CSS_SELECTOR, selector))


def text(page: Browser, selector: str) -> str:
    """All of it, what is folded too."""
    return page.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent).join('|')",
        selector,
    )


def say(page: Browser, message: str) -> None:
    find(page, "#prompt").send_keys(message, Keys.ENTER)


def wait_for_answer(page: Browser) -> None:
    until(lambda: find(page, "#send").is_displayed() and count(page, ".turn.answer .foot .actions"))


def ask(page: Browser, message: str) -> str:
    """The text of the last answer."""
    say(page, message)
    wait_for_answer(page)
    return page.execute_script("return [...document.querySelectorAll('.turn.answer')].at(-1).textContent")


def press(page: Browser, label: str) -> None:
    """The last button with this label, which may show on hovering only."""
    buttons = page.find_elements(By.CSS_SELECTOR, f"[aria-label='{label}'], [title='{label}']")
    page.execute_script("arguments[0].click()", buttons[-1])


def load(page: Browser, folder: Path, conversation: Any) -> None:
    """Imports a conversation as a person does, from a file."""
    path = folder / "conversation.json"
    path.write_text(json.dumps(conversation))
    find(page, "#import-file").send_keys(str(path))
    until(lambda: count(page, ".turn"))
