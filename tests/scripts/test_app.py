"""The page of scripts/app.py, in a browser, and the Space that it writes."""

import importlib.util
import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import yaml
from helpers import ROOT, kill_tree, run_script, script_error
from PIL import Image
from tiny_models import make, save


BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
SAMPLE = ROOT / "samples" / "fashion-mnist-mae"
# whoever asks for anything but this machine gets no answer
NO_NETWORK = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
NO_NETWORK["NO_PROXY"] = "127.0.0.1,localhost"

needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="gradio isn't installed"
)
needs_browser = pytest.mark.skipif(
    BROWSER is None or importlib.util.find_spec("playwright") is None,
    reason=f"there is no browser ({', '.join(BROWSERS)}), or no playwright",
)


class Served:
    """A page that is served until the end."""

    def __init__(self, folder, script, *arguments, **environment):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        self.address, self.log = f"http://127.0.0.1:{port}/", folder / f"{port}.log"
        own = {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(folder / "gradio")}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(script), *map(str, arguments)],
                env={**os.environ, **NO_NETWORK, **own, **environment},
                cwd=folder,
                stdout=log,
                stderr=log,
            )

    def __enter__(self):
        end = time.monotonic() + 300
        while f"Running on local URL:  {self.address[:-1]}" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.2)
        return self

    def __exit__(self, *error):
        kill_tree(self.process)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The sample, and beside it a classifier of another patch grid."""
    folder = tmp_path_factory.mktemp("served")
    classifier = save(make("grey mean", image_size=28, patch_size=7), folder / "kinds")
    with Served(
        folder, ROOT / "scripts" / "app.py", "--model_name_or_path", SAMPLE, classifier
    ) as (page):
        yield page


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(served, browser):
    """Opens the page at a width; what it asks for is noted in `asked`."""
    opened = []

    def open_at(width):
        page = browser.new_page(viewport={"width": width, "height": 844})
        opened.append(page)
        page.set_default_timeout(60_000)
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(served.address)
        wait_for_hidden(page, 37)
        return page

    yield open_at
    for page in opened:
        page.close()


def wait_for_hidden(page, count):
    page.locator("#said").get_by_text(f"{count} of 49 patches are hidden").wait_for()


def pixels(locator):
    """The picture that an element shows, whether or not it is veiled while the page asks."""
    with urllib.request.urlopen(locator.get_attribute("src")) as file:
        picture = Image.open(io.BytesIO(file.read())).convert("L")
    return np.asarray(picture.resize((56, 56)))


def changes(locator, action):
    """Does something, and waits until an element shows another picture; both, the old one first."""
    before = pixels(locator)
    action()
    end = time.monotonic() + 60
    while np.array_equal(pixels(locator), before):
        assert time.monotonic() < end, "nothing changes"
        time.sleep(0.1)
    return before, pixels(locator)


def pasted(page):
    return page.locator("#model-0 figure img").nth(2)


@needs_gradio
@needs_browser
def test_the_page_shows_models_side_by_side_without_a_network(open_page, served):
    page = open_page(1200)
    captions = page.locator("#model-0 figcaption").all_inner_texts()
    assert captions[:3] == ["masked, seed 0", "reconstructed", "pasted"]
    assert page.locator("#model-1 figcaption").count() == 2
    assert page.locator("#model-1").get_by_text("kind", exact=False).count() >= 5
    left, right = (page.locator(f"#model-{number}").bounding_box() for number in (0, 1))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]
    elsewhere = [url for url in page.asked if not url.startswith((served.address, "data:"))]
    assert not elsewhere


@needs_gradio
@needs_browser
def test_upload_slide_and_click(open_page):
    page = open_page(1200)
    canvas, upload = page.locator("#canvas img"), page.locator("#picture input[type=file]")
    changes(pasted(page), lambda: upload.set_input_files(SAMPLE / "pullover.png"))
    share = page.locator("input[type=range]").first

    def slide():
        for _ in range(5):
            share.press("ArrowLeft")

    changes(canvas, slide)  # from 0.75 to 0.5
    wait_for_hidden(page, 25)
    page.get_by_role("radio", name="block").check()
    page.locator("#model-0").get_by_text("masked, seed 0").wait_for()
    wait_for_hidden(page, 25)
    changes(canvas, page.get_by_role("button", name="Draw other masks").click)
    page.locator("#model-0").get_by_text("masked, seed 1").wait_for()

    place = {"x": 40, "y": 40}  # of the first patch, 48 pixels wide
    before, after = changes(canvas, lambda: canvas.click(position=place))
    turned = (before != after).reshape(7, 8, 7, 8).mean(axis=(1, 3))
    assert turned[0, 0] > 0.5
    assert turned.sum() - turned[0, 0] < 0.5  # the others stay
    assert page.get_by_role("radio", name="own").is_checked()
    assert share.is_disabled()
    canvas.click(position=place)
    wait_for_hidden(page, 25)


@needs_gradio
@needs_browser
def test_clicks_that_follow_each_other_while_the_models_answer(open_page):
    page = open_page(1200)
    canvas = page.locator("#canvas img")
    before = pixels(canvas)
    for column in range(7):
        canvas.click(position={"x": 20 + 48 * column, "y": 20})
    end = time.monotonic() + 60
    turned = np.zeros(7)
    while turned.min() < 0.5:
        assert time.monotonic() < end, f"not all are turned: {turned}"
        turned = (before != pixels(canvas)).reshape(7, 8, 7, 8).mean(axis=(1, 3))[0]


@needs_gradio
@needs_browser
def test_a_mask_from_a_picture(open_page, tmp_path):
    """Stretched over the patches, and clicked on; what is none is said, and changes nothing."""
    page = open_page(1200)
    canvas, button = page.locator("#canvas img"), page.get_by_role("button", name="Take a mask")

    def upload(name):
        with page.expect_file_chooser() as chooser:
            button.click()
        chooser.value.set_files(tmp_path / name)

    drawn = np.zeros((70, 140), np.uint8)
    drawn[:30, :80] = 255  # three of seven rows, four of seven columns
    Image.fromarray(drawn).save(tmp_path / "mask.png")
    changes(canvas, lambda: upload("mask.png"))
    wait_for_hidden(page, 12)
    assert page.get_by_role("radio", name="own").is_checked()
    page.locator("#model-0").get_by_text("masked", exact=True).wait_for()
    canvas.click(position={"x": 300, "y": 300})
    wait_for_hidden(page, 13)

    Image.new("L", (30, 30), 255).save(tmp_path / "white.png")
    (tmp_path / "text.png").write_text("no picture")
    messages = {
        "white.png": "white.png can't be read: the mask hides everything",
        "text.png": "text.png is no picture that can be read",
    }
    for name, message in messages.items():
        upload(name)
        page.get_by_text(message).first.wait_for()
        assert str(tmp_path) not in page.content()
    wait_for_hidden(page, 13)
    changes(canvas, lambda: upload("mask.png"))  # the same once more
    wait_for_hidden(page, 12)


@needs_gradio
@needs_browser
def test_several_seeds(open_page):
    page = open_page(1200)
    page.locator("input[type=range]").nth(1).press("ArrowRight")
    page.locator("#model-0").get_by_text("masked, seed 1").wait_for()
    captions = page.locator("#model-0 figcaption").all_inner_texts()
    assert captions[:6:3] == ["masked, seed 0", "masked, seed 1"]
    first, second = (pixels(page.locator("#model-0 figure img").nth(place)) for place in (2, 5))
    assert not np.array_equal(first, second)


@needs_gradio
@needs_browser
def test_broken_and_oversized_files_get_a_message(open_page, served, tmp_path):
    page = open_page(1200)
    before = pixels(pasted(page))
    (tmp_path / "broken.png").write_bytes((SAMPLE / "bag.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("no picture")
    Image.new("1", (11_000, 10_000)).save(tmp_path / "wide.png")
    (tmp_path / "heavy.png").write_bytes(bytes(21 * 2**20))
    messages = {
        "text.png": "text.png is no picture that can be read",
        "broken.png": "broken.png can't be read: image file is truncated",
        "wide.png": "it has 10,000 x 11,000 pixels, and max_image_pixels is 100,000,000",
        "heavy.png": "exceed the maximum allowed size of 20",
    }
    for name, message in messages.items():
        page.locator("#picture input[type=file]").set_input_files(tmp_path / name)
        page.get_by_text(message).first.wait_for()
        assert str(tmp_path) not in page.content()
        assert np.array_equal(pixels(pasted(page)), before)
    upload = page.locator("#picture input[type=file]")
    changes(pasted(page), lambda: upload.set_input_files(SAMPLE / "bag.png"))  # it goes on
    assert "Traceback" not in served.log.read_text()


@needs_gradio
@needs_browser
def test_a_phone(open_page):
    page = open_page(390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for place in ("#canvas img", "#model-0 figure", "#model-1 figure", "button"):
        for element in page.locator(place).all():
            box = element.bounding_box()
            assert box is None or (box["x"] >= 0 and box["x"] + box["width"] <= 390), place
    canvas = page.locator("#canvas img")
    width = canvas.bounding_box()["width"]
    assert width > 280  # a patch is as wide as a finger
    changes(canvas, lambda: canvas.click(position={"x": width / 14, "y": width / 14}))
    assert page.get_by_role("radio", name="own").is_checked()


@needs_gradio
def test_a_space_serves_itself(tmp_path):
    """It has the package and the model in it: nothing of this checkout is imported."""
    space = tmp_path / "space"
    flags = ["--model_name_or_path", SAMPLE, "--space", space]
    said = run_script("app.py", *flags)
    assert f"hf upload org/name {space} --repo-type space" in said
    header = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert (header["sdk"], header["app_file"]) == ("gradio", "app.py")
    assert "torch" in (space / "requirements.txt").read_text()
    said = script_error("app.py", *flags)
    assert said == f"app.py: error: {space} is not empty; name a new folder"
    compiled = {"PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": ""}
    with Served(space, space / "app.py", **compiled) as page:
        text = urllib.request.urlopen(page.address).read().decode()
        assert "## fashion-mnist-mae" in text
    assert list(space.glob("hf_mae/inference/__pycache__/shown_models.*"))


@needs_gradio
def test_what_is_no_model_is_named():
    said = script_error("app.py", "--model_name_or_path", ROOT / "docs")
    assert said.startswith("app.py: error: ")
    assert len(said.splitlines()) == 1


def test_without_gradio_it_says_what_to_install(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "gradio" else found(name)
    )
    said = script_error("app.py")
    assert said == 'app.py: error: the page needs gradio: pip install "hf-mae[app]"'
