"""The MNIST recipe: digits are learnt, files are left, data is found, flags are checked."""

import gzip
import json
import pathlib
import subprocess
import sys
import urllib.error
import urllib.request

import jax
import numpy as np
import optax
import pytest
import tyro
from PIL import Image

import funnet as fn
from funnet import picture
from recipes import mnist

ROOT = pathlib.Path(__file__).resolve().parents[2]


def called(*args):
    """A recipe's command line, in a process of its own."""
    command = [sys.executable, "-m", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


# mnist


@pytest.fixture(scope="module", params=["cnn", "mlp"])
def trained(request, tmp_path_factory):
    """A short training on digits: its settings and its accuracy."""
    epochs = {"cnn": 8.0, "mlp": 25.0}[request.param]
    folder = tmp_path_factory.mktemp("runs") / request.param
    settings = mnist.Settings(model=request.param, data="digits", epochs=epochs, folder=folder)
    return settings, mnist.main(settings)


def test_digits_are_learnt(trained):
    _, accuracy = trained
    assert 0.85 < accuracy <= 1
    assert accuracy * 360 == pytest.approx(round(accuracy * 360), abs=1e-9)


def test_the_run_that_is_saved_is_the_one_that_was_tested(trained):
    settings, accuracy = trained
    plan, (_, test) = mnist.PLANS[settings.model], fn.data.digits()
    like = fn.Run.start(plan.model, plan.optimizer(1), test["image"])
    guesses = mnist.guess(plan, fn.restore(settings.folder, like=like), test["image"])
    assert (guesses == test["label"]).mean() == pytest.approx(accuracy)


def test_the_metrics_are_lines_of_json(trained):
    settings, _ = trained
    text = (settings.folder / "metrics.jsonl").read_text(encoding="utf8")
    lines = [json.loads(line) for line in text.splitlines()]
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert f"{steps[-1]:08d}" == max(p.name for p in (settings.folder / "checkpoints").iterdir())
    assert {"loss", "accuracy", "gradient_norm", "kind", "seconds"} <= lines[-1].keys()
    assert lines[-1]["accuracy"] > 0.9


def test_the_picture_shows_predictions_and_mistakes(trained):
    settings, accuracy = trained
    tiles = 84 + min(36, 360 - round(accuracy * 360))
    with Image.open(settings.folder / "predictions.png") as image:
        image.load()
        width, height = image.size
    side, row = picture.TILE + picture.GAP, picture.TILE + picture.CAPTION + picture.GAP
    assert width == 12 * side + picture.GAP
    assert height == -(-tiles // 12) * row + 2 * picture.CAPTION


def test_the_folder_explains_itself(trained):
    settings, accuracy = trained
    names = ["checkpoints", "lock", "metrics.jsonl", "predictions.png", "report.html", "run.json"]
    assert sorted(p.name for p in settings.folder.iterdir()) == names
    told = json.loads((settings.folder / "run.json").read_text(encoding="utf8"))
    assert told["settings"]["model"] == settings.model
    assert f"{accuracy:.2%}".replace("%", " %") in (settings.folder / "report.html").read_text(
        encoding="utf8"
    ).replace("\xa0", " ")


def test_a_second_run_over_the_first_is_finished(trained, capsys):
    settings, accuracy = trained
    before = (settings.folder / "metrics.jsonl").read_bytes()
    assert mnist.main(settings) == accuracy
    assert (settings.folder / "metrics.jsonl").read_bytes() == before


def test_what_is_printed_says_what_was_measured(tmp_path, capsys):
    settings = mnist.Settings(model="mlp", data="digits", epochs=2.0, folder=tmp_path, holdout=200)
    accuracy = mnist.main(settings)
    printed = capsys.readouterr().out
    assert f"digits held-out training accuracy: {accuracy:.2%}" in printed
    assert "of 200 images" in printed
    assert str(tmp_path) in printed


# Where the data comes from


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No data on this machine, and no network; the addresses that were tried."""
    tried = []

    def refuse(request, **how):
        tried.append(request.full_url)
        raise urllib.error.URLError("no network")

    monkeypatch.delenv("FUNNET_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return tried


def test_without_mnist_and_network_it_says_so_and_takes_digits(offline, capsys, tmp_path):
    name, (train, test) = fn.data.first_of("mnist", "digits")
    assert name == "digits"
    assert (len(train["label"]), len(test["label"])) == (1437, 360)
    assert offline, "nothing was tried"
    printed = capsys.readouterr().out
    assert "mnist was not found" in printed
    assert str(tmp_path / "cache") in printed
    assert "So digits takes its place." in printed
    assert "Traceback" not in printed


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(
    offline, capsys, monkeypatch, tmp_path
):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    name, _ = fn.data.first_of("mnist", "digits")
    assert name == "digits"
    assert str(tmp_path / "file") in capsys.readouterr().out


def test_mnist_that_was_asked_for_by_name_is_not_replaced(offline):
    with pytest.raises(FileNotFoundError, match="mnist was not found"):
        fn.data.first_of("mnist")


def idx(array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())


def test_mnist_is_taken_where_it_is(offline, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("FUNNET_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    for part, count in (("train", 5), ("t10k", 3)):
        images, labels = np.zeros((count, 28, 28), np.uint8), np.arange(count, dtype=np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            (tmp_path / "mnist" / f"{part}-{name}-ubyte.gz").write_bytes(idx(array))
    name, (train, test) = fn.data.first_of("mnist", "digits")
    assert (name, len(train["image"]), len(test["image"])) == ("mnist", 5, 3)
    assert not offline
    assert capsys.readouterr().out == ""


# The command line


def test_help_lists_the_settings():
    done = called("recipes.mnist", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for flag in ("--seed", "--model", "--data", "--epochs"):
        assert flag in done.stdout


def test_a_wrong_value_ends_with_a_message(tmp_path):
    done = called("recipes.mnist", "--model", "resnet", "--folder", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "--model" in done.stderr
    assert "resnet" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "args", [["--epochs", "many"], ["--seed", "1.5"], ["--data", "imagenet"], ["--modle", "cnn"]]
)
def test_wrong_flags_end_with_a_message(args, capsys):
    with pytest.raises(SystemExit) as caught:
        tyro.cli(mnist.Settings, args=args)
    assert caught.value.code == 2
    assert args[0] in capsys.readouterr().err


def test_the_networks_are_those_that_the_recipe_names():
    image = jax.ShapeDtypeStruct((1, 28, 28, 1), np.uint8)
    params, _ = fn.Model(mnist.mlp).shapes(image)
    kernels = [params[name]["kernel"].shape for name in ("hidden1", "hidden2", "out")]
    assert kernels == [(784, 128), (128, 64), (64, 10)]
    assert mnist.PLANS["cnn"].model.shapes(image)[0]["out"]["kernel"].shape[1] == 10


def test_images_without_a_rim_keep_their_size():
    model = mnist.PLANS["cnn-more"].model
    for side, left in ((28, 4), (8, 2)):  # 14 to 12 to 6 to 4, and 4 to 4 to 2 to 2
        image = jax.ShapeDtypeStruct((1, side, side, 1), np.uint8)
        assert model.shapes(image)[0]["dense"]["kernel"].shape == (left * left * 40, 80)


def test_views_are_what_the_plan_moves_images_by():
    images = np.arange(2 * 6 * 6, dtype=np.uint8).reshape(2, 6, 6, 1)
    seen = []

    @fn.layer
    def net(p, x):
        return fn.dense(p["out"], fn.flatten(x.astype(np.float32)), 3)

    model = fn.Model(net)
    run = fn.Run.start(model, optax.sgd(0.1), images)
    plan = mnist.Plan(model, 1.0, 2, mnist.adam, shift=1)
    one = plan._replace(shift=0)
    np.testing.assert_array_equal(
        mnist.guess(one, run, images), fn.predict(model, run, images).argmax(-1)
    )
    for y, x in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
        moved = np.zeros_like(images)
        for i in range(6):
            for j in range(6):
                if 0 <= i + y < 6 and 0 <= j + x < 6:
                    moved[:, i, j] = images[:, i + y, j + x]
        seen.append(jax.nn.log_softmax(fn.predict(model, run, moved)))
    np.testing.assert_array_equal(mnist.guess(plan, run, images), sum(seen).argmax(-1))


def test_the_check_passes_and_is_finished(tmp_path, capsys):
    settings = mnist.Settings(model="cnn-more", check=True, folder=tmp_path)
    accuracy = mnist.main(settings)
    assert f"{accuracy:.6g}, claimed at least 0.9" in capsys.readouterr().out
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert mnist.main(settings) == accuracy
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_check_that_fails_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "guess", lambda plan, run, images: np.zeros(len(images), int))
    with pytest.raises(AssertionError, match="claimed at least"):
        mnist.main(mnist.Settings(model="mlp", check=True, folder=tmp_path))
