"""KITTI AP against a slow second reading of the rules (plain loops, shapely's polygons) and hand-worked numbers."""

import math

import numpy as np
import pytest
from shapely.geometry import Polygon

from raydet3d.metrics.kitti_ap import LEVELS, evaluate

CLASSES = ("Pedestrian", "Cyclist", "Car")
SIZES = {  # l, h, w
    "Pedestrian": (0.8, 1.7, 0.6),
    "Person_sitting": (0.8, 1.2, 0.6),
    "Cyclist": (1.8, 1.7, 0.6),
    "Car": (3.9, 1.5, 1.6),
    "Van": (5.0, 2.0, 1.9),
    "Truck": (10.0, 3.0, 2.6),
    "Tram": (12.0, 3.5, 2.5),
}


# ---------------------------------------------------------------------------------- the slow second reading


def slow_polygon(loc, dims, ry):
    """Footprint in the x-z plane: +l/2 lies along (cos ry, -sin ry), for ry turns from z to x."""
    length, _, width = dims
    corners = []
    for along, across in ((0.5, 0.5), (0.5, -0.5), (-0.5, -0.5), (-0.5, 0.5)):
        a, b = along * length, across * width
        corners.append((loc[0] + math.cos(ry) * a + math.sin(ry) * b, loc[2] - math.sin(ry) * a + math.cos(ry) * b))
    return Polygon(corners)


def slow_overlap(kind, gt, i, dt, j):
    if kind == "bbox":
        a, b = gt["bbox"][i], dt["bbox"][j]
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        if w <= 0 or h <= 0:
            return 0.0
        return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)
    if min(gt["dimensions"][i]) <= 0:
        return 0.0
    a = slow_polygon(gt["location"][i], gt["dimensions"][i], gt["rotation_y"][i])
    b = slow_polygon(dt["location"][j], dt["dimensions"][j], dt["rotation_y"][j])
    inter = a.intersection(b).area
    if kind == "bev":
        return inter / (a.area + b.area - inter)
    ya, yb, ha, hb = gt["location"][i][1], dt["location"][j][1], gt["dimensions"][i][1], dt["dimensions"][j][1]
    height = max(0.0, min(ya, yb) - max(ya - ha, yb - hb))
    return inter * height / (a.area * ha + b.area * hb - inter * height)


def slow_dont_care(region, box):
    w = min(region[2], box[2]) - max(region[0], box[0])
    h = min(region[3], box[3]) - max(region[1], box[1])
    return w * h / ((box[2] - box[0]) * (box[3] - box[1])) if w > 0 and h > 0 else 0.0


def slow_states(gt, dt, name, level):
    height, hidden, cut = (40, 25, 25)[level], (0, 1, 2)[level], (0.15, 0.3, 0.5)[level]
    gts, dts = [], []
    for i, kind in enumerate(gt["name"]):
        box = gt["bbox"][i]
        out = gt["occluded"][i] > hidden or gt["truncated"][i] > cut or box[3] - box[1] <= height
        if kind == name:
            gts.append(1 if out else 0)
        elif (name, kind) in (("Car", "Van"), ("Pedestrian", "Person_sitting")):
            gts.append(1)
        else:
            gts.append(-1)
    for j, kind in enumerate(dt["name"]):
        low = abs(dt["bbox"][j][3] - dt["bbox"][j][1]) < height
        dts.append(1 if low else 0 if kind == name else -1)
    return gts, dts


def slow_frame(gt, dt, overlaps, gts, dts, kind, least, threshold):
    """One frame; without a threshold only the scores of true positives matter."""
    taken = [False] * len(dts)
    tp, similar, scores = 0, 0.0, []
    for i, state in enumerate(gts):
        if state == -1:
            continue
        best, best_value, best_ignored = None, None, False
        for j, det in enumerate(dts):
            if det == -1 or taken[j] or overlaps[i][j] <= least:
                continue
            if threshold is None:
                if best is None or dt["score"][j] > best_value:
                    best, best_value = j, dt["score"][j]
            elif dt["score"][j] >= threshold:
                if det == 0 and (best is None or best_ignored or overlaps[i][j] > best_value):
                    best, best_value, best_ignored = j, overlaps[i][j], False
                elif det == 1 and best is None:
                    best, best_ignored = j, True
        if best is None:
            continue
        taken[best] = True
        if state == 0 and dts[best] == 0:
            tp += 1
            scores.append(dt["score"][best])
            similar += (1 + math.cos(gt["alpha"][i] - dt["alpha"][best])) / 2
    fp = 0
    if threshold is not None:
        for j, det in enumerate(dts):
            if det != 0 or taken[j] or dt["score"][j] < threshold:
                continue
            regions = [gt["bbox"][i] for i, other in enumerate(gt["name"]) if other == "DontCare"]
            if kind == "bbox" and any(slow_dont_care(region, dt["bbox"][j]) > least for region in regions):
                continue
            fp += 1
    return tp, fp, similar, scores


def slow_ap(gt, dt, name, level, kind, least):
    """(AP11, AP40, AOS11, AOS40) in percent."""
    states = [slow_states(g, d, name, level) for g, d in zip(gt, dt, strict=True)]
    overlaps = [
        [[slow_overlap(kind, g, i, d, j) if gs[i] >= 0 else 0 for j in range(len(ds))] for i in range(len(gs))]
        for g, d, (gs, ds) in zip(gt, dt, states, strict=True)
    ]
    num_valid = sum(state == 0 for gts, _ in states for state in gts)
    frames = list(zip(gt, dt, overlaps, states, strict=True))
    scores = sorted((s for g, d, o, st in frames for s in slow_frame(g, d, o, *st, kind, least, None)[3]), reverse=True)
    thresholds, recall = [], 0.0
    for i, score in enumerate(scores):
        last = i == len(scores) - 1
        if not last and (i + 2) / num_valid - recall < recall - (i + 1) / num_valid:
            continue
        thresholds.append(score)
        recall += 1 / 40
    precision, aos = [0.0] * 41, [0.0] * 41
    for t, threshold in enumerate(thresholds):
        tp = fp = similar = 0
        for g, d, o, st in frames:
            one = slow_frame(g, d, o, *st, kind, least, threshold)
            tp, fp, similar = tp + one[0], fp + one[1], similar + one[2]
        precision[t], aos[t] = tp / max(tp + fp, 1), similar / max(tp + fp, 1)
    out = []
    for curve in (precision, aos):
        curve = [max(curve[i:]) for i in range(41)]
        out += [sum(curve[::4]) / 11 * 100, sum(curve[1:]) / 40 * 100]
    return out


# ---------------------------------------------------------------------------------- frames


def frame(rows, *, scored):
    """A KITTI annotation from rows (name, truncated, occluded, alpha, bbox, dims, location, ry, score)."""
    keys = ["name", "truncated", "occluded", "alpha", "bbox", "dimensions", "location", "rotation_y", "score"]
    columns = list(zip(*rows, strict=True)) if rows else [[]] * 9
    out = {key: np.array(column) for key, column in zip(keys, columns, strict=True)}
    if not scored:
        out.pop("score")
    return out


def random_frames(seed, num):
    """Crowded frames: touching objects of all classes, detections near them, doubled, confused, or of nothing."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for number in range(num):
        gts, dts = [], []
        for _ in range(0 if number % 9 == 4 else rng.integers(1, 14)):
            name = str(rng.choice(list(SIZES), p=[0.25, 0.1, 0.2, 0.25, 0.1, 0.05, 0.05]))
            dims = np.array(SIZES[name]) * rng.uniform(0.9, 1.1, 3)
            loc = np.array([rng.uniform(-5, 5), rng.uniform(1.4, 1.8), rng.uniform(5, 17)])
            ry = rng.uniform(-math.pi, math.pi)
            left, top = rng.uniform(0, 300), rng.integers(100, 150)
            box = np.array([left, top, left + rng.uniform(30, 90), top + rng.choice([24, 25, 30, 40, 45, 70])])
            cut, hidden = float(rng.choice([0, 0, 0, 0.15, 0.2, 0.4, 0.6])), int(rng.choice([0, 0, 0, 1, 2, 3]))
            gts.append((name, cut, hidden, rng.uniform(-3, 3), box, dims, loc, ry, 0.0))
            for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
                kind = name if name in CLASSES and rng.random() < 0.9 else str(rng.choice(CLASSES))
                size = rng.choice([0.02, 0.06, 0.15])
                image = box + rng.normal(0, 25 * size, 4)
                if rng.random() < 0.4:  # heights on and around the borders
                    image[[1, 3]] = top, top + rng.choice([20, 24, 25, 39, 40])
                dts.append(
                    (
                        kind,
                        0.0,
                        0,
                        gts[-1][3] + rng.normal(0, 0.8),
                        image,
                        dims * rng.uniform(1 - size, 1 + size, 3),
                        loc + rng.normal(0, size, 3),
                        ry + rng.normal(0, size) + rng.choice([0, math.pi]),
                        # few different scores, so that there are ties within frames and across them
                        round(float(np.clip(rng.normal(0.6, 0.2), 0.05, 0.99)), 2),
                    )
                )
        for _ in range(rng.integers(0, 3)):
            top_left = rng.uniform(0, 300, 2) * [1, 0.5]
            region = np.concatenate([top_left, top_left + rng.uniform(30, 150, 2)])
            gts.append(("DontCare", -1.0, -1, -10.0, region, np.full(3, -1.0), np.full(3, -1000.0), -10.0, 0.0))
        for _ in range(rng.integers(0, 4)):
            top_left = rng.uniform(0, 300, 2) * [1, 0.5]
            box = np.concatenate([top_left, top_left + rng.uniform(15, 80, 2)])
            kind = str(rng.choice(CLASSES))
            loc = rng.uniform([-5, 1.4, 5], [5, 1.8, 17])
            dts.append((kind, 0.0, 0, 0.1, box, np.array(SIZES[kind]), loc, 0.3, round(rng.uniform(0.05, 0.7), 2)))
        order = rng.permutation(len(gts))
        truth.append(frame([gts[i] for i in order], scored=False))
        found.append(frame([] if number % 11 == 7 else dts, scored=True))
    return truth, found


@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_a_slow_second_reading(seed):
    truth, found = random_frames(seed, 50)
    report = evaluate(truth, found, CLASSES)
    seen = set()
    for name in CLASSES:
        bars = {"strict": (0.7,) * 3, "loose": (0.7, 0.5, 0.5)}
        if name != "Car":
            bars = {"strict": (0.5,) * 3, "loose": (0.5, 0.25, 0.25)}
        for level, title in enumerate(LEVELS):
            for rule, least in bars.items():
                for kind, bar in zip(("bbox", "bev", "3d"), least, strict=True):
                    ap11, ap40, aos11, aos40 = slow_ap(truth, found, name, level, kind, bar)
                    score = report.scores[name, kind, rule, title]
                    assert (score.ap11, score.ap40) == pytest.approx((ap11, ap40), abs=1e-9), (name, title, kind, rule)
                    seen.add(round(ap40, 3))
                    if kind == "bbox":
                        score = report.scores[name, "aos", rule, title]
                        assert (score.ap11, score.ap40) == pytest.approx((aos11, aos40), abs=1e-9), (name, title)
    assert len(seen) > 25  # the frames tell the settings apart
    assert 10 < np.median(sorted(seen)) < 90


# ---------------------------------------------------------------------------------- numbers known otherwise


def cars(num, *, per_frame=3):
    """Frames of ``num`` well visible cars, far apart, and the same as detections with falling scores."""
    truth, found = [], []
    for start in range(0, num, per_frame):
        rows = []
        for i in range(start, min(start + per_frame, num)):
            x = 100.0 * (i - start)
            box = np.array([x, 100, x + 90, 160])
            loc = np.array([10.0 * (i - start), 1.6, 20.0 + i % 7])
            rows.append(("Car", 0.0, 0, 0.3, box, np.array([4.0, 1.5, 1.6]), loc, 0.1 * i, 1 - i / 1000))
        truth.append(frame(rows, scored=False))
        found.append(frame(rows, scored=True))
    return truth, found


@pytest.mark.parametrize(
    ("num", "ap11", "ap40"), [(5, 18.2, 10.0), (23, 54.5, 55.0), (40, 90.9, 97.5), (41, 100, 100), (57, 100, 100)]
)
def test_perfect_detections_of_n_cars(num, ap11, ap40):
    report = evaluate(*cars(num), ["Car"])
    for kind in ("bbox", "bev", "3d", "aos"):
        for rule in ("strict", "loose"):
            for level in LEVELS:
                score = report.scores["Car", kind, rule, level]
                assert score.ap11 == pytest.approx(ap11, abs=0.05)
                assert score.ap40 == pytest.approx(ap40, abs=0.05)
    assert report.num_valid["Car", "easy"] == num
    assert report.metrics()["KITTI/Car_3D_AP11_easy_strict"] == round(ap11_exact(num), 4)


def ap11_exact(num):
    return min(11, (num - 1) // 4 + 1) / 11 * 100


def test_hand_worked_curve():
    """41 cars; the 10 best-scored detections are false, then come 20 true ones, one false, and the other 21 true.

    At the n-th threshold the n-th true positive is in: precision n / (n + 10) up to n = 20, n / (n + 11) after.
    The largest is the last, 41 / 52, so the running maximum from the right is that everywhere.
    """
    truth, found = cars(41, per_frame=1)
    for n, detections in enumerate(found):
        detections["score"] = np.array([0.9 - 0.01 * n])
    for number, score in enumerate([*np.linspace(0.95, 0.99, 10), 0.9 - 0.195]):
        far = {key: np.concatenate([value, value]) for key, value in found[number].items()}
        far["location"][1] += [50, 0, 0]
        far["bbox"][1] += [400, 0, 400, 0]
        far["score"][1] = score
        found[number] = far
    report = evaluate(truth, found, ["Car"])
    for kind in ("bbox", "bev", "3d"):
        score = report.scores["Car", kind, "strict", "easy"]
        assert score.ap40 == pytest.approx(100 * 41 / 52)
        assert score.ap11 == pytest.approx(100 * 41 / 52)


def test_hand_worked_falling_curve():
    """41 cars, 20 found before 5 false detections and 21 after: precision 1 for 20 thresholds, then 41/46."""
    truth, found = cars(41, per_frame=1)
    for n, detections in enumerate(found):
        detections["score"] = np.array([0.9 - 0.01 * n])
    for number in range(5):
        far = {key: np.concatenate([value, value]) for key, value in found[number].items()}
        far["location"][1] += [50, 0, 0]
        far["bbox"][1] += [400, 0, 400, 0]
        far["score"][1] = 0.9 - 0.195
        found[number] = far
    score = evaluate(truth, found, ["Car"]).scores["Car", "3d", "strict", "easy"]
    assert score.ap40 == pytest.approx(100 * (19 + 21 * 41 / 46) / 40)  # thresholds 1..19 are clean, 20..40 are not
    assert score.ap11 == pytest.approx(100 * (5 + 6 * 41 / 46) / 11)  # 0, 4, .., 16 and 20, .., 40


@pytest.mark.parametrize(
    ("turn", "share"), [(0.0, 1.0), (math.pi / 2, 0.5), (math.pi, 0.0), (1.0, (1 + math.cos(1)) / 2)]
)
def test_orientation_similarity(turn, share):
    """AOS of perfect boxes is (1 + cos of the error) / 2; the error does not touch the other scores."""
    truth, found = cars(41)
    for detections in found:
        detections["alpha"] = detections["alpha"] + turn
    report = evaluate(truth, found, ["Car"])
    assert report.scores["Car", "aos", "strict", "moderate"].ap40 == pytest.approx(100 * share)
    assert report.scores["Car", "aos", "strict", "moderate"].ap11 == pytest.approx(100 * share)
    assert report.scores["Car", "bbox", "strict", "moderate"].ap40 == pytest.approx(100)


def test_turned_around_box_is_as_good_in_3d():
    truth, found = cars(41)
    for detections in found:
        detections["rotation_y"] = detections["rotation_y"] + math.pi
    assert evaluate(truth, found, ["Car"]).scores["Car", "3d", "strict", "hard"].ap40 == pytest.approx(100)


def test_no_orientation_without_observation_angles():
    truth, found = cars(41)
    for detections in found:
        detections["alpha"] = np.full(len(detections["name"]), -10.0)
    assert "aos" not in evaluate(truth, found, ["Car"]).kinds


def test_overlap_must_exceed_the_bar():
    """Boxes shifted along their length by s of it overlap by (1 - s) / (1 + s): 0.7 at s = 3/17."""
    for share, score in ((3 / 17 + 1e-6, 0.0), (3 / 17 - 1e-6, 100.0)):
        truth, found = cars(41)
        for detections in found:
            ry = detections["rotation_y"]
            along = np.stack([np.cos(ry), np.zeros_like(ry), -np.sin(ry)], 1)
            detections["location"] = detections["location"] + along * 4.0 * share
        report = evaluate(truth, found, ["Car"])
        assert report.scores["Car", "bev", "strict", "easy"].ap40 == pytest.approx(score)
        assert report.scores["Car", "bev", "loose", "easy"].ap40 == pytest.approx(100)


def test_nothing_to_find_and_nothing_found():
    empty = frame([], scored=False)
    nothing = frame([], scored=True)
    truth, found = cars(41)
    for real, seen in (([empty], [nothing]), ([], []), ([empty] * len(found), found), (truth, [nothing] * len(truth))):
        report = evaluate(real, seen, CLASSES)
        assert all(score.ap40 == 0 and score.ap11 == 0 for score in report.scores.values())
    # empty frames beside full ones change nothing
    report = evaluate([empty, *truth, empty], [nothing, *found, nothing], ["Car"])
    assert report.scores["Car", "3d", "strict", "easy"].ap40 == pytest.approx(100)


def test_published_names():
    metrics = evaluate(*cars(41), CLASSES).metrics()
    per_class = {
        f"KITTI/{name}_{kind}_{points}_{level}_{rule}"
        for name in CLASSES
        for kind in ("3D", "BEV", "2D")
        for points in ("AP11", "AP40")
        for level in ("easy", "moderate", "hard")
        for rule in ("strict", "loose")
    }
    overall = {f"KITTI/Overall_{k}_{p}_{lv}" for k in ("3D", "BEV", "2D") for p in ("AP11", "AP40") for lv in LEVELS}
    assert set(metrics) == per_class | overall
    assert metrics["KITTI/Overall_3D_AP11_moderate"] == 33.3333
