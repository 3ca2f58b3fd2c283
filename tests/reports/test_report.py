"""The report: one page that is whole in itself, escaped, and right in its numbers."""

import os
import re

import numpy as np
import pytest

import funnet as fn
from funnet.reports import page as page_module


def line(step, kind="train", **numbers):
    return {"step": step, "kind": kind, "seconds": step / 10, **numbers}


def usual():
    """A training of a hundred steps, validated twice."""
    for step in range(10, 101, 10):
        yield line(step, loss=1 / step, accuracy=1 - 1 / step, learning_rate=0.1)
        if step % 50 == 0:
            took = {"seconds": step / 10 + 0.5}
            yield {**line(step, "validation", loss=2 / step, accuracy=1 - 2 / step), **took}


RUN = {
    "settings": {"rate": 0.1, "optimizer": {"function": "optax.adam", "b1": 0.9}, "sizes": [1, 2]},
    "environment": {"jax": "0.10", "memory": 16_000_000_000, "command": ["python", "-m", "x"],
                    "started": "2026-01-02T03:04:05+00:00", "devices": {"cpu": 1}},
    "model": "Model(net)\n  conv  320",
    "steps_per_epoch": 40,
}  # fmt: skip
SAVED = {
    "step": 50,
    "time": "2026-01-02T03:05:00+00:00",
    "files": {"a": {"bytes": 1500, "sha256": "x"}, "b": {"bytes": 500, "sha256": "y"}},
    "metrics": {"loss": 0.04, "accuracy": 0.96},
}


def test_the_page_has_its_parts_and_they_have_the_numbers(folder, page):
    path = fn.report(folder(*usual(), run=RUN, manifests=[(50, SAVED)]))
    found = page(path)
    assert path.name == "report.html"
    assert found.titles() == ["Curves", "Final numbers", "Time", "Checkpoints", "Model", "Settings",
                              "Environment"]  # fmt: skip
    verdict = found.all("p", class_="verdict")[0]["text"].replace("\xa0", " ")
    assert verdict == "100 steps (2.5 epochs) in 10.5 s; validation accuracy 98.00 %, loss 0.02."
    assert found.rows("Final numbers") == [
        ["", "training", "validation", "best validation"],
        ["loss", "0.01", "0.02", "0.02 at step 100"],
        ["accuracy", "99.00 %", "98.00 %", "98.00 % at step 100"],
        ["learning rate", "0.1", "–", "–"],
    ]
    assert found.rows("Time") == [
        ["total time", "10.5 s"],
        ["steps", "100"],
        ["rate, all included", "9.47 steps/s"],
        ["validating", "1.0 s, 9.5 % of the total"],
    ]
    assert found.rows("Checkpoints")[1:] == [
        ["50", "2026-01-02 03:05 UTC", "2.0 kB", "loss 0.04, accuracy 96.00 %"]
    ]
    assert found.rows("Settings") == [
        ["rate", "0.1"], ["optimizer", "optax.adam"], ["b1", "0.9"], ["sizes", "1, 2"]
    ]  # fmt: skip
    assert ["memory", "16 GB"] in found.rows("Environment")
    assert ["command", "python -m x"] in found.rows("Environment")
    assert found.all("pre")[0]["text"] == RUN["model"]


def test_the_curves_have_the_values_of_the_lines(folder, page):
    charts = page(fn.report(folder(*usual(), run=RUN))).charts()
    assert list(charts) == ["loss", "accuracy", "learning rate"]
    validation, train = charts["loss"]["series"][1], charts["loss"]["series"][0]
    assert (train["name"], train["steps"]) == ("train", list(range(10, 101, 10)))
    np.testing.assert_allclose(train["values"], [1 / s for s in train["steps"]], rtol=1e-4)
    assert (validation["steps"], validation["values"]) == ([50, 100], [0.04, 0.02])
    assert charts["accuracy"]["share"] is True
    assert charts["loss"]["share"] is False


@pytest.mark.parametrize("model", [False, True])
def test_the_page_refers_to_nothing_outside(folder, page, tested, model):
    run = {**RUN, "settings": {"url": "https://example.org/x"}}
    path = fn.report(folder(*usual(), run=run), *(tested if model else ()))
    found = page(path)
    for element in found.elements:
        for name, value in element.items():
            if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
                assert value.startswith("data:image/png;base64,"), (element["tag"], value)
        assert element["tag"] not in ("link", "iframe", "object", "embed", "base", "form", "a")
    for style in found.all("style"):
        assert "url(" not in style["text"]
        assert "@import" not in style["text"]
    script = found.all("script")[0]["text"]
    assert set(re.findall(r"https?://[^\"'\s]+", script)) == {"http://www.w3.org/2000/svg"}
    policy = [e for e in found.all("meta") if e.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0]["content"].startswith("default-src 'none'")


EVIL = "<script>alert('x')</script>\"&"


def test_every_text_is_escaped(folder, page, tested):
    run = {
        "settings": {EVIL: EVIL, "list": [EVIL, {"deep": [EVIL]}]},
        "environment": {"command": [EVIL], "started": EVIL},
        "model": EVIL,
    }
    saved = {**SAVED, "step": EVIL, "time": EVIL, "metrics": {EVIL: 1}}
    place = folder(line(1, **{EVIL: 1.0}), line(2, **{EVIL: 2.0}), run=run, name="<b>&\"'",
                   manifests=[(1, saved)])  # fmt: skip
    plain = page(fn.report(folder(line(1, loss=1.0), name="plain"), *tested))
    model, *rest = tested
    evil = page(fn.report(place, model, *rest, classes=[EVIL, "b", "c"]))
    assert len(evil.all("script")) == len(plain.all("script")) == 1
    assert not evil.all("b", src="x")
    assert EVIL not in evil.source.replace(evil.all("script")[0]["text"], "")
    assert evil.all("h1")[0]["text"] == "<b>&\"'"
    assert evil.all("pre")[0]["text"] == EVIL
    assert any(e["text"] == EVIL for e in evil.all("span", class_="name"))


@pytest.mark.parametrize("run", [None, "{", "[]", {"settings": 3, "environment": [], "model": 1}])
def test_a_run_that_tells_nothing_leaves_no_holes(folder, page, run):
    found = page(fn.report(folder(*usual(), run=run)))
    assert found.titles() == ["Curves", "Final numbers", "Time"]
    notes = [e["text"] for e in found.all("p", class_="warning")]
    assert notes == (["run.json could not be read."] if isinstance(run, str) else [])


def test_damaged_lines_are_left_out_with_a_note(folder, page):
    place = folder(line(1, loss=1.0), '{"step": 2, "ki', "\x00\x00", line(3, loss=3.0), '{"step"')
    found = page(fn.report(place))
    assert found.charts()["loss"]["series"][0]["steps"] == [1, 3]
    (note,) = found.all("p", class_="warning")
    assert note["text"].startswith("3 lines were left out")


def test_a_training_that_was_resumed_is_one_curve(folder, page):
    steps = [1, 2, 3, 4, 3, 4, 5]  # as a file that was only ever added to has them
    place = folder(*(line(step, loss=float(i)) for i, step in enumerate(steps)))
    (series,) = page(fn.report(place)).charts()["loss"]["series"]
    assert series["steps"] == [1, 2, 3, 4, 5]
    assert series["values"] == [0, 1, 4, 5, 6]


def test_numbers_that_are_none_are_gaps_with_a_note(folder, page):
    lines = [line(s, loss="nan" if s in (3, 4) else s, odd="inf") for s in range(1, 7)]
    found = page(fn.report(folder(*lines)))
    (series,) = found.charts()["loss"]["series"]
    assert series["steps"] == [1, 2, 5, 6]
    (curve,) = found.all("path", class_="curve")
    assert curve["d"].count("M") == 2
    notes = [e["text"] for e in found.all("p", class_="warning")]
    assert notes == ["2 values not finite, left out", "6 values not finite, left out"]
    assert found.rows("Final numbers")[2] == ["odd", "inf"]


def test_a_single_line_and_none_at_all(folder, page):
    found = page(fn.report(folder(line(7, loss=0.5), name="one")))
    assert found.charts()["loss"]["series"][0]["values"] == [0.5]
    assert len(found.all("circle")) == 1
    assert found.rows("Time") == [["total time", "0.7 s"], ["steps", "7"]]
    none = page(fn.report(folder(name="none")))
    assert none.titles() == []
    assert none.all("p", class_="verdict")[0]["text"] == "Nothing has been logged yet."


def test_a_folder_without_metrics_says_so(tmp_path, page):
    (note,) = page(fn.report(tmp_path)).all("p", class_="warning")
    assert "no metrics.jsonl" in note["text"]
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        fn.report(tmp_path / "nowhere")


def test_a_long_training_gives_a_small_page_that_keeps_its_peaks(folder, page):
    values = np.random.default_rng(0).normal(size=20_000) + 10
    values[12_345], values[777] = 99.0, -50.0
    place = folder(*(line(i + 1, loss=v, other=v) for i, v in enumerate(values.tolist())))
    path = fn.report(place)
    raw, smooth = page(path).charts()["loss"]["series"]
    assert path.stat().st_size < 200_000
    assert len(raw["steps"]) <= 700
    pairs = dict(zip(raw["steps"], raw["values"], strict=True))
    assert (pairs[12_346], pairs[778]) == (99.0, -50.0)
    assert raw["steps"][0] == smooth["steps"][0] == 1
    assert raw["steps"][-1] == smooth["steps"][-1] == 20_000
    assert np.abs(np.array(smooth["values"]) - 10).max() < 1


def test_a_page_that_cannot_be_written_leaves_the_one_before(folder, monkeypatch):
    place = folder(line(1, loss=1.0))
    before = fn.report(place).read_bytes()

    def refuse(*_):
        raise OSError("full")

    monkeypatch.setattr(os, "replace", refuse)
    (place / "metrics.jsonl").write_text("")
    with pytest.raises(OSError, match="full"):
        fn.report(place)
    assert (place / "report.html").read_bytes() == before
    assert sorted(os.listdir(place)) == ["metrics.jsonl", "report.html"]


def test_a_page_half_made_is_no_page(folder, tested, monkeypatch):
    place = folder(line(1, loss=1.0))
    monkeypatch.setattr(page_module, "_asset", lambda name: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fn.report(place, *tested)
    assert os.listdir(place) == ["metrics.jsonl"]


def test_model_run_and_data_belong_together(folder, tested):
    model, run, data = tested
    with pytest.raises(ValueError, match=r"\['run', 'data'\] are None"):
        fn.report(folder(), model)
    with pytest.raises(ValueError, match="'label' entry, got"):
        fn.report(folder(name="b"), model, run, {"image": data["image"]})
    with pytest.raises(ValueError, match="2 names, expected 3"):
        fn.report(folder(name="c"), model, run, data, classes=["a", "b"])
    more = {"a": data["image"], "b": data["image"], "label": data["label"]}
    with pytest.raises(ValueError, match="one entry for the model"):
        fn.report(folder(name="d"), model, run, more)
    with pytest.raises(ValueError, match=r"labels\[0\] is 7"):
        fn.report(folder(name="e"), model, run, {**data, "label": data["label"] * 0 + 7})
