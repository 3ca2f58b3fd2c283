"""Pages as a reader of HTML sees them."""

import html.parser
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funnet as fn

CLASSES = 3
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
    """Elements in order, each with its attributes and all text in it; the nesting is checked."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.source, self.elements, self.open = text, [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append({"tag": tag, "text": "", **dict(attributes)})
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attributes):
        self.elements.append({"tag": tag, "text": "", **dict(attributes)})

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag, **attributes):
        """The elements of a tag, whose attributes contain these words."""
        wanted = {key.rstrip("_").replace("_", "-"): word for key, word in attributes.items()}
        return [
            e
            for e in self.elements
            if e["tag"] == tag
            and all(word in (e.get(k) or "").split() for k, word in wanted.items())
        ]

    def titles(self):
        return [e["text"] for e in self.all("h2")]

    def rows(self, title):
        """The cells of the first table after a heading."""
        after = self.source.index(f"<h2>{title}</h2>")
        part = Page(self.source[after:].split("</table>")[0].split("<table", 1)[1].split(">", 1)[1])
        rows = []
        for e in part.elements:
            if e["tag"] == "tr":
                rows.append([])
            elif e["tag"] in ("td", "th"):
                rows[-1].append(e["text"].replace("\xa0", " "))
        return rows

    def charts(self):
        """The data under the pointer, by the chart's title."""
        figures = [e for e in self.elements if e["tag"] in ("figcaption", "svg")]
        named = {}
        for e in figures:
            if e["tag"] == "figcaption":
                name = e["text"]
            elif "data-chart" in e:
                named[name] = json.loads(e["data-chart"])
        return {
            name.split("train")[0].split("validation")[0].strip(): v for name, v in named.items()
        }


@pytest.fixture
def page():
    """A function that reads a page."""
    return lambda path: Page(path.read_text(encoding="utf8"))


@pytest.fixture
def folder(tmp_path):
    """A function that makes a training's folder of lines, given as dicts or text."""

    def make(*lines, run=None, manifests=(), name="run"):
        place = tmp_path / name
        place.mkdir()
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (place / "metrics.jsonl").write_text("\n".join(texts) + "\n" * bool(texts))
        if run is not None:
            (place / "run.json").write_text(run if isinstance(run, str) else json.dumps(run))
        for step, manifest in manifests:
            inner = place / "checkpoints" / f"{step:08d}"
            inner.mkdir(parents=True)
            text = manifest if isinstance(manifest, str) else json.dumps(manifest)
            (inner / "manifest.json").write_text(text)
        return place

    return make


@fn.layer
def looking(p, x):
    """Logits that are the first pixels of an image: a classifier whose mistakes are known."""
    scale = p.param("scale", (), jax.nn.initializers.ones)
    return x.astype(jnp.float32).reshape(len(x), -1)[:, :CLASSES] * scale


@pytest.fixture(scope="session")
def tested():
    """A model, its run, and data of which rows 1 and 4 are taken for other classes."""
    labels = np.array([0, 1, 2, 2, 1, 0], np.int32)
    images = np.zeros((6, 2, 3, 1), np.float32)
    for row, seen, how in zip(range(6), [0, 2, 2, 2, 0, 0], [1, 1, 0.5, 1, 0.25, 1], strict=True):
        images[row].reshape(-1)[seen] = how
    model = fn.Model(looking)
    run = fn.Run.start(model, optax.sgd(0.1), images)
    return model, run, {"image": images, "label": labels}
