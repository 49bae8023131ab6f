"""The web page as people use it: a real browser, the real server, and a real model that knows its lines."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import reciting_model
import training_runs
from browser import PHONE, WINDOW, Browser, open_browser
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from web_visit import (
    ATTACK,
    CONTRASTS,
    HOSTILE,
    PARROT,
    PRODUCT,
    SONG,
    Line,
    ask,
    assistant,
    count,
    find,
    load,
    press,
    say,
    text,
    until,
    user,
    wait_for_answer,
)

from samosa_jax.data.chat.conversation import parse_conversation, to_json

KEY = "key-of-the-tests"
WIDE = {
    "title": "Wide things",
    "messages": [
        user("a" * 300 + " https://example.com/" + "b" * 200),
        assistant(
            f"`{'c' * 200}`\n\n```text\n{'d ' * 200}\n```\n\n"
            f"|{'head|' * 12}\n|{'-|' * 12}\n|{'cell|' * 12}\n\n"
            f"# {'e' * 100}\n\n> [{'f' * 100}](https://example.com)\n\n1. {'g' * 100}"
        ),
    ],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server that wants KEY."""
    folder = tmp_path_factory.mktemp("run")
    run = reciting_model.write_run(folder, [PRODUCT, PARROT, HOSTILE, SONG])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "samosa_jax.serve", str(run), f"--port={port}", "--max_batch=2"]
    command.append("--warm_up=false")  # these tests use few of its programs
    log = folder / "log"
    with log.open("w") as output:
        environment = {**training_runs.environment(), "SAMOSA_API_KEY": KEY}
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        until(lambda: process.poll() is not None or is_healthy(port), seconds=120)
        assert process.poll() is None, log.read_text()
        yield port
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def line(server: int) -> Iterator[Line]:
    line = Line(server)
    yield line
    line.close()


@pytest.fixture(scope="module")
def opened(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def page(opened: Browser, line: Line) -> Browser:
    """A new chat in a browser that knows nothing but the key, with temperature 0."""
    line.is_slow = False
    opened.resize(*WINDOW)
    opened.prefer("light")
    opened.get(f"{line.url}favicon.svg")
    opened.execute_script(
        "localStorage.clear(); sessionStorage.setItem('samosa.key', arguments[0]);"
        "localStorage.setItem('samosa.settings', JSON.stringify({ temperature: 0 }))",
        KEY,
    )
    opened.get(line.url)
    until(lambda: "reciter" in text(opened, "#about-model"))
    opened.complaints()
    return opened


def is_healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.TransportError:
        return False


def test_an_answer_with_thought_and_tool(page: Browser) -> None:
    ask(page, "What is 23 * 47?")
    assert text(page, ".turn.answer .markdown strong") == "1081"
    assert text(page, ".thought") == "The calculator is exact."
    assert not find(page, ".thought").is_displayed()
    find(page, ".thinking summary").click()
    assert find(page, ".thought").is_displayed()
    assert text(page, ".tool .name") == "calculator"
    assert text(page, ".tool dt") == "expression|result"
    assert text(page, ".tool dd") == "23 * 47|1081"
    assert find(page, ".tool").get_attribute("data-state") == "done"
    assert "tokens" in text(page, ".speed")
    ask(page, "Who are you?")
    assert find(page, ".thought").is_displayed()  # the next turn leaves it as it was
    assert not page.complaints()


def test_a_reload_keeps_the_conversation(page: Browser) -> None:
    ask(page, "What is 23 * 47?")
    before = text(page, ".turn")
    page.refresh()
    until(lambda: count(page, ".turn"))
    assert text(page, ".turn") == before
    assert text(page, ".conversation .open") == text(page, "#title") == "What is 23 * 47?"
    find(page, "#new-chat").click()
    assert not count(page, ".turn")
    page.back()
    until(lambda: text(page, ".turn") == before)


def test_a_script_from_the_model_stays_text(page: Browser) -> None:
    assert "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'>" in ask(page, "Attack!")
    assert "[go](javascript:window.ran=1)" in text(page, ".turn.answer")
    assert page.execute_script("return window.ran") is None
    assert not count(page, "#thread :is(script, img, a)")
    assert not page.complaints()


def test_scripts_cannot_run_even_if_they_got_in(page: Browser) -> None:
    """The policy is a second wall: here the first is taken away."""
    page.execute_script("document.body.insertAdjacentHTML('beforeend', arguments[0])", ATTACK)
    page.execute_script(
        "const script = document.createElement('script'); script.textContent = 'window.ran = 1';"
        "document.body.append(script)"
    )
    until(lambda: any("Content Security Policy" in line for line in page.complaints()))
    assert page.execute_script("return window.ran") is None


def test_an_answer_streams_and_can_be_stopped(page: Browser, line: Line) -> None:
    line.is_slow = True
    say(page, "Sing.")
    lengths: set[int] = set()
    until(lambda: lengths.add(len(text(page, ".turn.answer .markdown"))) or len(lengths) > 4)
    find(page, "#prompt").send_keys(Keys.ESCAPE)
    wait_for_answer(page)
    assert text(page, ".ending") == "Stopped"
    sung = text(page, ".turn.answer .markdown")
    assert sung.startswith("la la la")
    assert len(sung) < len("la " * 60)
    line.is_slow = False
    page.refresh()
    until(lambda: text(page, ".ending") == "Stopped")
    assert text(page, ".turn.answer .markdown") == sung


def test_an_answer_goes_on_while_another_conversation_is_open(page: Browser, line: Line) -> None:
    line.is_slow = True
    say(page, "Sing.")
    until(lambda: "la la" in text(page, ".turn.answer .markdown"))
    find(page, "#new-chat").click()
    assert "A parrot." in ask(page, "Who are you?")
    page.back()
    until(lambda: text(page, ".turn.answer .markdown").count("la") == 60)
    wait_for_answer(page)
    assert text(page, ".conversation .open") == "Sing.|Who are you?"


def test_turns_follow_each_other(page: Browser) -> None:
    assert "A parrot." in ask(page, "Who are you?")
    assert "A parrot, still." in ask(page, "Say it again.")
    press(page, "Answer again")
    wait_for_answer(page)
    assert text(page, ".turn.answer .markdown") == "A parrot.|A parrot, still."
    find(page, "#prompt").send_keys(Keys.ARROW_UP)
    box = until(lambda: page.find_elements(By.CSS_SELECTOR, ".editor textarea"))[0]
    assert box.get_property("value") == "Say it again."
    box.send_keys(Keys.ESCAPE)
    assert not count(page, ".editor")


def test_edited_messages_go_on_from_there(page: Browser) -> None:
    ask(page, "Who are you?")
    ask(page, "Say it again.")
    page.execute_script("document.querySelector(\"[aria-label='Edit this message']\").click()")
    box = find(page, ".editor textarea")
    box.clear()
    box.send_keys("What is 23 * 47?", Keys.ENTER)
    wait_for_answer(page)
    assert text(page, ".said") == "What is 23 * 47?"
    assert "It is 1081." in text(page, ".turn.answer .markdown")
    press(page, "Edit this answer")
    box = find(page, ".editor textarea")
    box.clear()
    box.send_keys("Around <b>1000</b>.", Keys.ENTER)
    assert "Around <b>1000</b>." in text(page, ".turn.answer .markdown")
    page.refresh()
    until(lambda: "Around <b>1000</b>." in text(page, ".turn.answer .markdown"))


def test_conversations_are_renamed_deleted_and_brought_back(page: Browser) -> None:
    ask(page, "Who are you?")
    press(page, "Rename Who are you?")
    find(page, ".conversation input").send_keys(Keys.CONTROL, "a", Keys.NULL, "Polly", Keys.ENTER)
    assert text(page, ".conversation .open") == text(page, "#title") == "Polly"
    press(page, "Delete Polly")
    assert not count(page, ".conversation")
    assert not count(page, ".turn")
    find(page, ".notice .quiet-button").click()
    assert text(page, ".conversation .open") == "Polly"
    assert text(page, ".said") == "Who are you?"


def test_what_is_exported_is_what_training_reads(page: Browser, tmp_path: Path) -> None:
    ask(page, "What is 23 * 47?")
    press(page, "Export What is 23 * 47?")
    folder = page.downloads
    path = until(lambda: [*folder.glob("*.json")])[0]
    exported = json.loads(path.read_text())
    assert to_json(parse_conversation(exported)) == PRODUCT
    press(page, "Delete What is 23 * 47?")
    load(page, tmp_path, exported)
    assert text(page, ".tool dd") == "23 * 47|1081"
    (tmp_path / "broken.json").write_text('{"messages": [{"role": "tester"}]}')
    find(page, "#import-file").send_keys(str(tmp_path / "broken.json"))
    until(lambda: 'message 0 has the role "tester"' in text(page, ".notice"))


def test_oldest_turns_are_dropped_when_the_context_is_full(page: Browser, tmp_path: Path) -> None:
    filler = [
        message for number in range(12) for message in (user(f"{number} " * 60), assistant("yes " * 20))
    ]
    load(page, tmp_path, {"messages": filler})
    ask(page, "Who are you?")
    assert "above no longer fit into the model's context" in text(page, ".cut")
    assert count(page, ".turn.user") == 13


def test_a_message_that_never_fits_says_so(page: Browser) -> None:
    page.execute_script("document.getElementById('prompt').value = 'too long '.repeat(2000)")
    find(page, "#composer").submit()
    assert "tokens" in until(lambda: text(page, ".failure p"))
    assert text(page, ".said").startswith("too long")


def test_a_lost_connection_keeps_what_came(page: Browser, line: Line) -> None:
    line.is_slow = True
    say(page, "Sing.")
    until(lambda: "la la" in text(page, ".turn.answer .markdown"))
    line.cut()
    assert "The connection was lost" in until(lambda: text(page, ".failure p"))
    assert "la la" in text(page, ".turn.answer .markdown")
    assert text(page, ".ending") == "Interrupted"
    find(page, ".failure button").click()
    line.is_slow = False
    until(lambda: text(page, ".turn.answer .markdown").count("la") == 60)
    assert not count(page, ".failure")


def test_a_key_is_asked_for(page: Browser) -> None:
    page.execute_script("sessionStorage.clear()")
    page.refresh()
    say(page, "Who are you?")
    assert (
        text(page, ".failure p") or until(lambda: text(page, ".failure p")) == "This server wants an API key."
    )
    until(lambda: page.find_elements(By.CSS_SELECTOR, ".key-form input"))[0].send_keys(KEY, Keys.ENTER)
    until(lambda: "A parrot." in text(page, ".turn.answer .markdown"))


def test_a_full_browser_says_so_and_chats_on(page: Browser) -> None:
    page.execute_script("""
        for (let size = 1 << 22; size >= 1; size >>= 1) {
          try {
            for (let part = 0; ; part += 1) localStorage.setItem(`full.${size}.${part}`, "x".repeat(size));
          } catch {}
        }
    """)
    assert "A parrot." in ask(page, "Who are you?")
    assert "The browser has no room left" in text(page, ".notice")


def test_settings_are_kept_and_sent(page: Browser, server: int) -> None:
    press(page, "Settings")
    assert find(page, "#max-tokens").get_attribute("max") == "512"
    for name, value in (("#max-tokens", "5"), ("#top-k", "7")):
        find(page, name).send_keys(Keys.CONTROL, "a", Keys.NULL, value, Keys.TAB)
    find(page, "#temperature").send_keys(Keys.HOME, Keys.ARROW_RIGHT)
    find(page, "#system").send_keys("Be brief.", Keys.TAB)
    page.execute_script(
        "window.sent = []; const real = fetch; window.fetch = (...a) => (sent.push(a), real(...a))"
    )
    find(page, "#settings").send_keys(Keys.ESCAPE)
    ask(page, "Sing.")
    body = json.loads(page.execute_script("return sent.at(-1)[1].body"))
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, user("Sing.")]
    assert (body["temperature"], body["top_k"], body["max_tokens"]) == (0.05, 7, 5)
    assert text(page, ".ending") == "Cut at the limit of tokens"
    page.refresh()
    until(lambda: count(page, ".turn"))
    assert find(page, "#top-k").get_property("value") == "7"
    assert find(page, "#system").get_property("value") == "Be brief."
    page.execute_script("document.getElementById('defaults').click()")
    assert find(page, "#top-k").get_property("value") == "50"


def test_the_keyboard_is_enough(page: Browser) -> None:
    prompt = find(page, "#prompt")
    prompt.send_keys("one", Keys.SHIFT, Keys.ENTER, Keys.NULL, "two")
    assert prompt.get_property("value") == "one\ntwo"
    assert not count(page, ".turn")
    prompt.clear()
    ask(page, "What is 23 * 47?")
    page.execute_script("document.querySelector('.skip').focus()")
    reached = []
    for _ in range(30):
        page.switch_to.active_element.send_keys(Keys.TAB)
        if page.switch_to.active_element.tag_name == "body":
            break  # all around
        name, outline = page.execute_script("""
            const one = document.activeElement;
            const name = one.id || one.getAttribute("aria-label") || one.textContent.trim();
            const ring = one.id === "prompt" ? one.form : one.closest(".segments label") ?? one;
            return [name, getComputedStyle(ring).outlineStyle + getComputedStyle(ring).borderColor];
        """)
        reached.append(name)
        assert "auto" in outline or "solid" in outline or name == "prompt", (name, outline)
    wanted = [
        "new-chat",
        "What is 23 * 47?",
        "Settings",
        "Edit this message",
        "Answer again",
        "prompt",
        "send",
    ]
    places = [reached.index(name) for name in wanted]
    assert places == sorted(places), reached


def test_every_control_has_a_name(page: Browser) -> None:
    ask(page, "What is 23 * 47?")
    nameless = page.execute_script("""
        const controls = document.querySelectorAll("button, input, textarea, select, [tabindex]");
        return [...controls].filter((one) => !one.hidden && one.type !== "file").filter((one) =>
            !(one.getAttribute("aria-label") || one.labels?.length || one.textContent.trim()),
        ).map((one) => one.outerHTML);
    """)
    assert nameless == []
    assert "It is 1081." in text(page, "#announcer").replace("**", "")


@pytest.mark.parametrize("width", [PHONE[0], WINDOW[0]])
def test_nothing_scrolls_sideways(page: Browser, tmp_path: Path, width: int) -> None:
    page.resize(width, 740)
    load(page, tmp_path, WIDE)
    for _ in range(2):
        wide = page.execute_script("""
            const inside = (one) => one.closest(".code pre, .table, .visually-hidden, #sidebar, .skip");
            return [document.documentElement, ...document.querySelectorAll("body *")]
              .filter((one) => !inside(one) && one.getBoundingClientRect().right > innerWidth + 0.5)
              .map((one) => one.outerHTML.slice(0, 100));
        """)
        assert wide == []
        assert page.execute_script("return document.getElementById('scroller').scrollWidth") <= width
        page.execute_script("document.querySelector(\"[aria-label='Edit this message']\")?.click()")


def test_the_list_opens_over_a_narrow_page(page: Browser) -> None:
    page.resize(*PHONE)
    sidebar = find(page, "#sidebar")
    until(lambda: not sidebar.is_displayed())
    press(page, "Show the conversations")
    until(lambda: page.switch_to.active_element.get_attribute("id") == "new-chat")
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    until(lambda: not sidebar.is_displayed())


def test_light_and_dark_are_readable_and_can_be_switched(page: Browser) -> None:
    ask(page, "What is 23 * 47?")
    page.execute_script("document.querySelector('.thinking').open = true")
    backgrounds = {}
    for theme in ("light", "dark"):
        page.prefer(theme)
        backgrounds[theme] = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        contrasts = page.execute_script(CONTRASTS)
        assert len(contrasts) > 15
        assert min(contrasts)[0] >= 4.5, (theme, min(contrasts))  # WCAG 2.2, level AA
    assert backgrounds["light"] != backgrounds["dark"]
    press(page, "Light")
    page.refresh()
    shown = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert shown == backgrounds["light"]
