"""Make the pictures of the dashboard in docs/images: serve the demo, train an adapter, and look.

    python scripts/dashboard_images.py

It needs Debian's chromium, and takes about three minutes.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from playwright.sync_api import Page, sync_playwright

import zojax
from zojax.serving.start import bound_socket

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
SHOWN = {
    "dashboard": (1280, "light"),
    "dashboard-tablet": (768, "light"),
    "dashboard-phone": (360, "dark"),
}
STEPS = 800


def rows(path: Path) -> Path:
    """The demo's reviews with words for labels."""
    lines = (zojax.demo.REVIEWS / "train.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    labelled = [
        {"text": record["sentence"], "label": "great" if record["label"] else "terrible"}
        for record in records[:400]
    ]
    path.write_text("".join(f"{json.dumps(record)}\n" for record in labelled))
    return path


def begin_job(page: Page, file: Path) -> None:
    """Begin a job, as a person does, and wait for its end."""
    page.click("#new-job summary")
    page.set_input_files("#job-file", file)
    page.fill("#job-suffix", "reviews")
    page.fill("#job-steps", str(STEPS))
    page.select_option("#job-estimator", "lozo")
    page.click("#job-form button")
    page.wait_for_selector("#jobs >> text=succeeded", timeout=600_000)


def look(page: Page, path: Path) -> None:
    """Open the curves, compare two models, and keep a picture of all of it."""
    page.wait_for_selector("#jobs li")
    page.click("#jobs summary")
    page.fill("#prompt", "a gripping film , full of joy .\nLabel:")
    page.fill("#max-tokens", "3")
    page.select_option("#right", index=1)
    page.click("#compare-form button")
    page.wait_for_selector("#right-text:not(:empty)")
    page.wait_for_timeout(7_000)  # for some of the tiles' course
    page.screenshot(path=path, full_page=True)


def main() -> None:
    """Make the pictures."""
    directory = Path(tempfile.mkdtemp())
    with bound_socket("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    say = "from zojax.cli import run; run()"
    options = ["--port", str(port), "--allow-training-in", str(directory / "tunings")]
    server = subprocess.Popen([sys.executable, "-c", say, "serve", *options])
    try:
        while True:
            try:
                httpx.get(f"{url}/ready").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.2)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = browser.new_page()
            page.goto(url)
            begin_job(page, rows(directory / "reviews.jsonl"))
            for name, (width, scheme) in SHOWN.items():
                size = {"width": width, "height": 800}
                page = browser.new_page(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
                page.goto(url)
                look(page, IMAGES / f"{name}.png")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
