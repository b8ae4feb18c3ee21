"""The dashboard in a real browser: by keyboard, at three widths, light and dark, without errors."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.test_fine_tuning import reviews
from zojax.serving.dashboard.page import PATHS
from zojax.serving.limits import Keys

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
LONG = 120_000  # ms


@pytest.fixture
def locked(service, running, monkeypatch):
    """The server, which asks for a key."""
    monkeypatch.setattr(service, "keys", Keys(["secret"]))
    return running


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def open_page(browser, url: str, width: int, scheme: str = "light"):
    """A page, and what its console and its network say that should not be."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    odd = []
    page.on("console", lambda message: odd.append(message.text))
    page.on("pageerror", lambda error: odd.append(str(error)))
    page.on("request", lambda sent: None if sent.url.startswith(url) else odd.append(sent.url))
    page.goto(url)
    return page, odd


@needs_browser
def test_a_person_trains_an_adapter_and_asks_it_by_keyboard_alone(locked, browser, tmp_path):
    page, odd = open_page(browser, locked.url, 1280)
    page.wait_for_selector("#key:focus")
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=The server does not know this key.")
    page.keyboard.press("Control+A")
    page.keyboard.type("secret")
    page.keyboard.press("Enter")
    page.wait_for_selector("#tiles .tile")
    assert page.text_content("#model") == "demo"

    rows = tmp_path / "reviews.jsonl"
    rows.write_bytes(reviews(60))
    page.focus("#new-job summary")
    page.keyboard.press("Enter")
    page.set_input_files("#job-file", rows)  # the one thing that a browser's own window asks for
    for field, text in (("suffix", "films"), ("steps", "4"), ("multiplier", "2")):
        page.focus(f"#job-{field}")
        page.keyboard.type(text)
    page.focus("#job-form button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#jobs >> text=films")
    page.wait_for_selector("#jobs >> text=succeeded, step 4 of 4", timeout=LONG)
    page.focus("#jobs summary")
    page.keyboard.press("Enter")
    page.wait_for_selector("figcaption >> text=Training loss")
    page.wait_for_selector("figcaption >> text=On held-back rows")

    learnt = page.eval_on_selector_all("#right option", "all => all.map(one => one.value)")
    assert [name for name in learnt if name.startswith("ft:demo:films:")]
    page.select_option("#right", learnt[-1])
    page.focus("#prompt")
    page.keyboard.type("a gripping film")
    page.focus("#compare-form button")
    page.keyboard.press("Enter")
    for side in ("left", "right"):
        page.wait_for_selector(f"#{side}-text:not(:empty)")
    page.wait_for_selector("#compare-form button:not(:disabled)")
    assert odd == []
    page.close()


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 768, 1920])
def test_nothing_is_wider_than_the_window_and_text_can_be_read(running, browser, width, scheme):
    page, odd = open_page(browser, running.url, width, scheme)
    page.wait_for_selector("#tiles .tile")
    page.click("#new-job summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    contrasts = page.evaluate(
        """() => {
          const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
          const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
          const light = ([r, g, b]) => [r, g, b]
            .map((c) => linear(c / 255))
            .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
          const behind = (e) => {
            for (; e; e = e.parentElement) {
              const color = rgb(getComputedStyle(e).backgroundColor);
              if (color.length < 4 || color[3] > 0) return color;
            }
            return [255, 255, 255];
          };
          return [...document.querySelectorAll("h1,h2,h3,p,label,button,summary,input,select")]
            .filter((e) => e.offsetParent && (e.textContent || e.value))
            .map((e) => {
              const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
              return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            });
        }"""
    )
    assert len(contrasts) > 20
    assert min(contrasts) >= 4.5  # WCAG's AA
    assert odd == []
    page.close()


def test_the_page_needs_no_key_and_says_nothing_of_anybody(locked, service):
    import httpx

    for path in PATHS:
        answer = httpx.get(f"{locked.url}{path}")
        assert answer.status_code == 200, path
        assert b"ft:demo" not in answer.content
    assert httpx.get(f"{locked.url}/dashboard/about").json() == {"is_known": False}
    known = httpx.get(f"{locked.url}/dashboard/about", headers={"Authorization": "Bearer secret"})
    assert known.json() == {"is_known": True, "model": "demo", "trains": True}
    assert httpx.get(f"{locked.url}/metrics").status_code == 401


def test_all_of_the_page_comes_from_the_server_itself():
    """Its policy forbids anything else, and none of its files names another host."""
    directory = Path(__file__).parents[2] / "zojax" / "serving" / "dashboard"
    for path in directory.iterdir():
        if path.suffix in (".html", ".js", ".css"):
            text = path.read_text().replace("http://www.w3.org/2000/svg", "")
            assert "http:" not in text
            assert "https:" not in text
            assert "innerHTML" not in text
