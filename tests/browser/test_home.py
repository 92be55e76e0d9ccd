"""The home page in a real browser, by clicks and keys: `make test-browser`."""

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from deployments.families.image_classification.family import SAMPLE_IMAGE
from serve_app.client import ModelRuntimeClient
from tests.browser.chromium import PROGRAM, Page
from tests.support import PROJECT
from tests.support.audio.files import saved, tone

pytestmark = [
    pytest.mark.skipif("BROWSER" not in os.environ, reason="needs a browser: make test-browser"),
    pytest.mark.skipif(PROGRAM is None, reason="needs Debian's chromium"),
]

FILE = "#inputs input[type=file]"
FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
CONTROL = 2
"""A modifier of DevTools' key events."""


@contextmanager
def requests_under_way(url: str) -> Iterator[None]:
    """Pictures and texts are asked for, now and then, in two threads."""
    over = threading.Event()

    def ask(pause_s: float, ask_once: Callable[[ModelRuntimeClient], object]) -> None:
        with ModelRuntimeClient(url) as client:
            for number in itertools.count(1):
                if over.wait(pause_s * (1 + number % 7)):
                    return
                ask_once(client)

    asked = [
        (0.02, lambda client: client.classify("image_classifier_v1", SAMPLE_IMAGE)),
        (0.05, lambda client: client.generate("gpt-nano", "ROMEO:", 20)),
    ]
    threads = [threading.Thread(target=ask, args=one) for one in asked]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def wait_for_charts(page: Page) -> None:
    """Until their lines have some length."""
    points = page.run("document.querySelector('#charts polyline')?.points.length ?? 0")
    page.wait_for(f"document.querySelector('#charts polyline')?.points.length > {points + 12}")


def open_family(page: Page, url: str, family: str) -> None:
    page.open(f"{url}/")
    page.click("#families label", family)


def snippet(page: Page, language: str) -> str:
    if not page.run("document.querySelector('#code').open"):
        page.click("#code summary")
    page.click("#languages label", language)
    return page.text("#snippet")


def test_a_picture_is_classified_and_the_request_can_be_sent_by_curl_and_python(
    page: Page, url: str, screenshots: Path, tmp_path: Path
) -> None:
    open_family(page, url, "Image")
    page.choose_file(FILE, SAMPLE_IMAGE)
    page.click("#run")
    page.wait_for("document.querySelectorAll('.bars li').length === 5")
    assert "airplane" in page.text(".bars li:first-child")
    (tmp_path / "airplane.jpg").write_bytes(SAMPLE_IMAGE.read_bytes())
    curl = ["bash", "-c", snippet(page, "curl")]
    assert "airplane" in subprocess.run(curl, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    python = [sys.executable, "-c", snippet(page, "Python")]
    ended = subprocess.run(python, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=True)
    assert "airplane" in ended.stdout
    assert "cargo add" in snippet(page, "Rust")
    page.look(dark=True)
    with requests_under_way(url):
        wait_for_charts(page)
    page.run("scrollTo(0, 0)")
    page.save_screenshot(screenshots / "home-dark.png")


def test_a_text_streams_and_its_speed_is_shown(page: Page, url: str, screenshots: Path) -> None:
    open_family(page, url, "Text")
    page.click("#inputs textarea")
    page.press("End", 35)
    page.press("Enter", 13, CONTROL)
    page.wait_for("document.querySelector('output .speed')?.innerText.includes('tokens/s · ended by')")
    assert page.text("output .text").startswith("ROMEO:\nI am a mercy")
    with requests_under_way(url):
        wait_for_charts(page)
    page.click("#run")
    page.wait_for("document.querySelector('output .speed')?.innerText.includes('tokens/s · ended by')")
    page.run("scrollTo(0, 0)")
    page.save_screenshot(screenshots / "home.png")


def test_objects_are_drawn_as_boxes_with_the_settings_given(page: Page, url: str, screenshots: Path) -> None:
    open_family(page, url, "Object")
    page.choose_file(FILE, PROJECT / "models" / "blood_cells" / "example.jpg")
    page.click("#run")
    page.wait_for("document.querySelectorAll('.frame rect').length > 5")
    page.click("#run")  # The first one waited for its model.
    page.wait_for("document.querySelector('output .speed')?.innerText.endsWith('s')")
    page.run("document.querySelector('.frame').scrollIntoView({block: 'center'})")
    page.save_screenshot(screenshots / "boxes.png")
    few = page.run("document.querySelectorAll('.frame rect').length")
    page.click(".lane details summary")
    page.click("[data-setting=threshold]")
    page.type("0")
    page.click("#run")
    page.wait_for(f"document.querySelectorAll('.frame rect').length > {few}")
    assert page.run("document.querySelectorAll('.found li').length === document.querySelectorAll('.frame rect').length")


def test_each_text_that_is_embedded_has_its_vector(page: Page, url: str) -> None:
    open_family(page, url, "embedding")
    page.click("#inputs textarea")
    page.type("one text\nand another")
    page.click("#run")
    page.wait_for("document.querySelectorAll('.strip').length === 2")
    assert "numbers" in page.text(".strip figcaption")


def test_speech_is_written_down_from_a_file_and_from_the_microphone(page: Page, url: str, tmp_path: Path) -> None:
    """Chromium's microphone beeps."""
    (tmp_path / "tone.wav").write_bytes(saved(tone()))
    open_family(page, url, "Speech")
    page.choose_file(FILE, tmp_path / "tone.wav")
    answered = "document.querySelector('output .text') && !document.querySelector('#run').ariaBusy"
    page.click("#run")
    page.wait_for(answered)
    page.run("document.querySelector('output').replaceChildren()")
    page.click(".file button", "Record")
    page.wait_for("/after [1-9]/.test(document.querySelector('.file button').innerText)")
    page.click(".file button", "Stop")
    page.wait_for("document.querySelector('.drop .dim').innerText.startsWith('recording.')")
    page.click("#run")
    page.wait_for(answered)
    assert page.text("output .error") == ""


def test_two_settings_are_compared_side_by_side(page: Page, url: str) -> None:
    open_family(page, url, "Text")
    page.click("#compare")
    page.run("document.querySelector('[data-lane=B] [data-setting=max_tokens]').value = ''")
    page.click("[data-lane=B] [data-setting=max_tokens]")
    page.type("3")
    page.click("#run")
    page.wait_for("document.querySelectorAll('output .speed').length === 2")
    page.wait_for("[...document.querySelectorAll('output .speed')].every((one) => one.innerText.includes('ended by'))")
    assert "64 tokens" in page.text("[data-lane=A] output")
    assert "3 tokens" in page.text("[data-lane=B] output")


def test_an_error_is_shown_with_its_code_and_the_requests_id(page: Page, url: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    open_family(page, url, "Image")
    page.choose_file(FILE, broken)
    page.click("#run")
    page.wait_for("document.querySelector('output .error')")
    assert "invalid_image" in page.text("output .error")
    assert "request" in page.text("output .error .dim")
    page.run("1")
    page.complaints = [line for line in page.complaints if not line.endswith("/infer")]  # its status is 422


def test_models_and_replicas_are_shown_and_a_model_is_unloaded_by_a_click(page: Page, url: str) -> None:
    open_family(page, url, "Image")
    page.choose_file(FILE, SAMPLE_IMAGE)
    page.click("#run")
    page.wait_for("document.querySelector('.bars')")
    page.click("[aria-label='unload image_classifier_v1']")
    page.wait_for("document.querySelector('[aria-label=\"load image_classifier_v1\"]')")
    assert "available" in page.text("#models")
    assert " of " in page.text("#replicas")


def test_the_first_paint_comes_within_a_second_and_no_request_leaves_the_machine(page: Page, url: str) -> None:
    open_family(page, url, "Text")
    page.wait_for(FIRST_PAINT)
    paint_ms = page.run(FIRST_PAINT)
    print(f"first paint after {paint_ms:.0f} ms")
    assert paint_ms < 1000
    page.open(f"{url}/docs")
    page.wait_for("document.querySelectorAll('.opblock').length > 15")
    asked = [urlsplit(one) for one in page.requested]
    assert {one.hostname for one in asked if one.scheme not in ("data", "blob")} == {"127.0.0.1"}


def test_a_request_is_tried_on_the_page_of_the_api(page: Page, url: str, screenshots: Path) -> None:
    page.open(f"{url}/docs")
    page.click(".opblock-summary-path", "/readyz")
    page.click(".try-out__btn")
    page.click(".execute")
    page.wait_for("document.querySelector('.live-responses-table')?.innerText.includes('200')")
    page.save_screenshot(screenshots / "docs.png")


def test_where_keys_are_set_the_page_asks_for_one_and_sends_it(page: Page, keyed: tuple[str, str]) -> None:
    url, key = keyed
    page.open(f"{url}/")
    page.wait_for("document.querySelector('#ask').open")
    page.click("#ask-key")
    page.type(key)
    page.click("#ask button")
    page.click("#run")
    page.wait_for("document.querySelector('output .speed')?.innerText.includes('ended by stop')")
    assert page.text("output .text").endswith("hey")
    assert "authorization: Bearer $MODEL_RUNTIME_KEY" in snippet(page, "curl")
    assert key not in page.run("document.documentElement.outerHTML")
    page.run("1")
    assert page.complaints
    assert all("401" in line for line in page.complaints)
    page.complaints.clear()


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_its_window_and_needs_no_mouse(page: Page, keyed: tuple[str, str], width: int) -> None:
    url, key = keyed
    page.look(width, 800, phone=width < 500)
    page.open(f"{url}/")
    page.wait_for("document.querySelector('#ask').open")
    page.type(key)  # The dialog has put the focus where it is needed.
    page.press("Enter", 13, text="\r")
    page.wait_for("document.querySelector('#inputs textarea')")
    assert page.run("document.documentElement.scrollWidth") <= width
    for _ in range(60):
        page.press("Tab", 9)
        if page.run("document.activeElement.id") == "run":
            break
    page.press("Enter", 13, text="\r")
    page.wait_for("document.querySelector('output .speed')?.innerText.includes('ended by stop')")
    page.run("1")
    page.complaints.clear()
