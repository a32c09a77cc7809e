"""A scene page in a real browser without a GPU: pixels, layers, slider, frames, picking, speed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from raydet3d.visual.bev import BoxSet
from raydet3d.visual.matching import MatchRule
from raydet3d.visual.scene_page import Camera, PointColors, Scene, pack_scene, write_scene_page
from tests.kit.browser import Browser, needs_chromium

pytestmark = needs_chromium

LIDAR2IMG = np.array([[300.0, -300, 0, 0], [150, 0, -300, 0], [1, 0, 0, 0]])  # ahead, 600 x 300 pixels
TRUE, FALSE, MISS, TRUTH = "#0a8f72", "#d97904", "#c2307c", "#6b7686"  # of pages.css, light
READ = """(() => {
  scene.draw();
  const gl = scene.gl, pixel = new Uint8Array(4 * 49), [x, y] = POINT;
  gl.readPixels(Math.round(x) - 3, gl.canvas.height - Math.round(y) - 4, 7, 7, gl.RGBA, gl.UNSIGNED_BYTE, pixel);
  return [...pixel];
})()"""


def boxes(*rows: list[float], labels: list[int], scores: list[float] | None = None) -> BoxSet:
    array = np.array(rows, float).reshape(-1, 7)
    return BoxSet(array, np.array(labels), None if scores is None else np.array(scores))


def scenes() -> list[Scene]:
    """Two frames: one without errors, and one with a miss and two false positives."""
    car, far, walker = (
        [10.0, 3, -1.7, 4, 2, 1.5, 0.4],
        [25.0, -6, -1.7, 4, 2, 1.5, 0],
        [12.0, -3, -1.7, 0.8, 0.6, 1.8, 0],
    )
    ghost, weak = [18.0, 8, -1.7, 4, 2, 1.5, 1.0], [30.0, 3, -1.7, 4, 2, 1.5, 0]
    x, y = np.meshgrid(np.linspace(-40, 40, 161), np.linspace(-40, 40, 161))
    ground = np.stack([x, y, np.full_like(x, -1.73), np.zeros_like(x)], -1).reshape(-1, 4).astype(np.float32)
    blob = np.tile(np.array([[6.0, -5, 1, 1]], np.float32), (9, 1))
    points = np.concatenate([ground, blob])
    image = np.full((300, 600, 3), 90, np.uint8)
    colors = [PointColors("intensity", points[:, 3])]
    good = Scene("000001", points, boxes(car, labels=[0]), boxes(car, labels=[0], scores=[0.9]), colors=colors)
    bad = Scene(
        "000002",
        points,
        boxes(car, far, walker, labels=[0, 0, 1]),
        boxes(car, walker, ghost, weak, labels=[0, 1, 0, 0], scores=[0.9, 0.6, 0.7, 0.4]),
        [Camera("front", image, LIDAR2IMG)],
        colors,
    )
    return [good, bad]


def place_on_page(browser: Browser, point: str) -> tuple[float, float]:
    """Where a point of the LiDAR's frame lies on the page."""
    rectangle = "const r = document.querySelector('#canvas').getBoundingClientRect();"
    left, top = browser.run(
        f"(() => {{ {rectangle} const p = scene.project({point}); return [r.left + p[0], r.top + p[1]]; }})()"
    )
    return left, top


def background(browser: Browser) -> list[int]:
    return list(browser.run(READ.replace("POINT", "[4, scene.gl.canvas.height - 4]"))[:3])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    packed = [pack_scene(scene, rule=MatchRule(), score_thr=0.3) for scene in scenes()]
    folder = tmp_path_factory.mktemp("page")
    return write_scene_page(folder / "index.html", packed, title="by hand", classes=["Car", "Pedestrian"])


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile"), width=1400, height=800) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser, page: Path) -> Iterator[Browser]:
    chromium.set_scheme("light")
    chromium.open(page)
    chromium.wait_for("scene.frame() && scene.boxes().length")
    yield chromium
    assert not chromium.errors


def counts(browser: Browser) -> list[str]:
    return [browser.text(f"#count-{kind}") for kind in ("true", "false", "miss", "truth")]


def has_color(browser: Browser, place: str, color: str, tolerance: int = 40) -> bool:
    """Whether a colour is found within three pixels of a place of the LiDAR's frame."""
    pixels = np.array(browser.run(READ.replace("POINT", f"scene.project({place})"))).reshape(-1, 4)[:, :3]
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((np.abs(pixels - wanted).sum(1) < tolerance).any())


def test_frames_are_shown_worst_first_and_can_be_walked_through(browser: Browser) -> None:
    assert browser.text("#title") == "by hand"
    assert browser.run("scene.frame().name") == "000002"
    assert counts(browser) == ["2", "2", "1", "2"]
    browser.click_on("#next")
    browser.wait_for("scene.frame().name === '000001'")
    assert counts(browser) == ["1", "0", "0", "1"]
    browser.click_on("#next")  # around the end
    browser.wait_for("scene.frame().name === '000002'")
    browser.click_on("#order")
    assert browser.text("#order") == "by name"
    assert browser.run("[...document.querySelectorAll('#frames option')].map((o) => o.text.slice(0, 6))") == [
        "000001",
        "000002",
    ]


def test_the_address_names_the_frame(browser: Browser, page: Path) -> None:
    browser.open(page, "#000001")
    browser.wait_for("scene.frame()")
    assert browser.run("scene.frame().name") == "000001"


def test_the_slider_changes_what_is_found_and_missed(browser: Browser) -> None:
    set_score = (
        "(() => {{ const s = document.querySelector('#score'); s.value = {}; s.dispatchEvent(new Event('input')); }})()"
    )
    browser.run(set_score.format(0.65))
    assert counts(browser) == ["1", "1", "2", "1"]
    assert browser.text("#score-text") == "0.65"
    browser.run(set_score.format(1))
    assert counts(browser) == ["0", "0", "3", "0"]


@pytest.mark.parametrize("view", ["", "scene.topView();"])
def test_boxes_have_the_colours_of_the_legend_at_their_places(browser: Browser, view: str) -> None:
    browser.run(f"{view} scene.layers.rings = false; scene.layers.points = false;")
    front_of_ghost = "[18 + 2 * Math.cos(1), 8 + 2 * Math.sin(1), -0.95]"  # where the front's diagonals cross
    for place, color in (("[23, -6, -1.7]", MISS), ("[30, 4, -1.7]", FALSE), ("[12, -2.7, -1.7]", TRUE)):
        assert has_color(browser, place, color), place
    assert has_color(browser, front_of_ghost, FALSE, 160)
    for color in (TRUE, FALSE, MISS, TRUTH):
        assert not has_color(browser, "[2, -8, -1.7]", color)


def test_points_are_at_their_places_in_both_views(browser: Browser) -> None:
    for view in ("", "scene.topView(); scene.view.center = [6, -5, 1];"):
        browser.run(f"{view} scene.layers.rings = false")
        assert has_color(browser, "[6, -5, 1]", "#101a2e")  # the highest point: the darkest colour
        assert not has_color(browser, "[6, -5, 8]", "#101a2e") or view


def test_layers_can_be_switched_off(browser: Browser) -> None:
    browser.run("scene.layers.rings = scene.layers.points = false")
    assert has_color(browser, "[23, -6, -1.7]", MISS)
    browser.click_on("#layer-miss")
    assert not has_color(browser, "[23, -6, -1.7]", MISS)
    assert counts(browser)[2] == "1"
    browser.click_on("#layer-images")
    browser.wait_for("!document.querySelector('#cameras figure')")


def test_a_box_is_picked_and_tells_its_numbers(browser: Browser) -> None:
    left, top = place_on_page(browser, "[10, 3, -0.9]")
    browser.mouse("mouseMoved", left, top)
    browser.wait_for("!document.querySelector('#tip').hidden")
    tip = browser.text("#tip")
    assert tip.splitlines()[0] in ("Car: true positive", "Car: detected object")
    browser.click_on("#layer-truth")  # leaves the prediction alone
    browser.click(left, top)
    lines = browser.text("#info").splitlines()
    assert lines[0] == "Car: true positive"
    assert lines[1:4] == ["score 0.900", "size 4.00 × 2.00 × 1.50 m", "IoU 1.000"]
    assert lines[4].startswith("distance 10.4 m, yaw 23")
    browser.click(left, 790)  # outside of the view: the text stays
    assert browser.text("#info").splitlines()[0] == "Car: true positive"


def test_boxes_are_projected_onto_the_camera_image(browser: Browser) -> None:
    """The far car's nearest bottom edge, x 23, y -7 to -5, beside the pedestrian before it: in pixels by hand."""
    browser.wait_for("document.querySelector('#cameras canvas')")
    pixels = np.array(
        browser.run(
            "(() => { const c = document.querySelector('#cameras canvas'); "
            "return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; })()"
        )
    ).reshape(300, 600, 4)[..., :3]
    column, row = round(300 + 300 * 6.8 / 23), round(150 + 300 * 1.7 / 23)
    near = pixels[row - 2 : row + 3, column]
    assert (np.abs(near - [0xC2, 0x30, 0x7C]).sum(-1) < 60).any()
    assert (np.abs(pixels[10, 10] - 90) < 4).all()


def test_the_mouse_orbits_moves_and_zooms(browser: Browser) -> None:
    x, y = place_on_page(browser, "[10, 3, -0.9]")
    before = browser.run("({...scene.view})")
    for button, buttons in (("left", 1), ("right", 2)):
        browser.mouse("mousePressed", x, y, button=button, buttons=buttons, clickCount=1)
        browser.mouse("mouseMoved", x + 80, y + 30, button=button, buttons=buttons)
        browser.mouse("mouseReleased", x + 80, y + 30, button=button, buttons=buttons, clickCount=1)
    browser.mouse("mouseWheel", x, y, deltaX=0, deltaY=-200)
    browser.wait_for(f"scene.view.distance < {before['distance']}")
    after = browser.run("({...scene.view})")
    assert after["yaw"] != before["yaw"]
    assert after["pitch"] > before["pitch"]
    assert after["center"] != before["center"]


def test_dark_pages_and_the_button_for_colours(browser: Browser) -> None:
    browser.run("scene.layers.rings = scene.layers.points = false")
    assert background(browser) == [0xF6, 0xF7, 0xF9]
    browser.set_scheme("dark")
    browser.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert background(browser) == [0x10, 0x12, 0x18]
    browser.click_on("#theme")
    assert browser.text("#theme") == "colours: light"
    assert background(browser) == [0xF6, 0xF7, 0xF9]


def test_200000_points_at_ten_frames_a_second(chromium: Browser, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform([-60, -60, -2], [60, 60, 2], (200_000, 3)).astype(np.float32)
    packed = pack_scene(Scene("many", points), rule=MatchRule(), score_thr=0.3)
    chromium.resize(1280, 720)
    chromium.open(write_scene_page(tmp_path / "index.html", [packed], title="many points"))
    chromium.wait_for("scene.frame()")
    chromium.run(
        "document.querySelector('#stage').style.cssText = 'position:fixed;inset:0;border:0;width:1280px;height:720px'"
    )
    drawing = """(() => {
      const pixel = new Uint8Array(4);
      for (let i = 0; i < 10; i++) {
        scene.view.yaw += 0.1;
        scene.draw();
        scene.gl.readPixels(0, 0, 1, 1, scene.gl.RGBA, scene.gl.UNSIGNED_BYTE, pixel);
      }
      return [scene.gl.canvas.width, scene.gl.canvas.height];
    })()"""
    chromium.run(drawing)
    costs, start = [], time.perf_counter()
    for _ in range(5):  # the least of them: other processes slow down caches and cores
        before = chromium.cpu_time()
        size = chromium.run(drawing)
        costs.append((chromium.cpu_time() - before) / 10)
    wall = (time.perf_counter() - start) / 50
    chromium.resize(1400, 800)
    print(f"a drawing takes {1000 * min(costs):.0f} ms of CPU time, {1000 * wall:.0f} ms")
    assert size == [1280, 720]
    assert min(costs) < 0.1  # on one core
