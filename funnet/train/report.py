"""`report`: how a training went, and how its model does on test data, as one page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from funnet.model import Model
from funnet.train.evaluate import predict
from funnet.train.run import Run


def report(
    folder: str | Path,
    model: Model | None = None,
    run: Run | None = None,
    data: Mapping[str, Any] | None = None,
    *,
    classes: Sequence[str] | None = None,
) -> Path:
    """Writes `report.html` in a training's folder: one page, which needs no other file or network.

    It has the curves, final numbers, time, checkpoints, settings and environment that the folder
    holds; `fit` writes so much by itself. What is missing is left out, what is damaged is left out
    with a note. With a classifier, its run and test data it also has the confusion matrix, the
    accuracy of each class and the worst mistakes, as pictures if the model takes images.

    Args:
        folder: the folder that `fit` was given.
        model: a classifier, which gives logits `(N, classes)`.
        run: the run to test.
        data: test data: `label` `(N,)` and what the model takes, `image`, `input` or another name.
        classes: a name for each class; by default their numbers.

    Returns:
        The path of the page. It is written whole or not at all.

    Raises:
        FileNotFoundError: if there is no such folder.
        TypeError: if the labels are no integers.
        ValueError: if of model, run and data only some are given, or they do not fit together.
        OSError: if the page cannot be written.

    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> line = '{"step": 100, "kind": "train", "seconds": 1.5, "loss": 0.25}'
    >>> _ = (folder / "metrics.jsonl").write_text(line)
    >>> report(folder).name
    'report.html'
    """
    from funnet.reports.mistakes import entry, findings  # needed now and then, and not small
    from funnet.reports.page import write

    given = {"model": model, "run": run, "data": data}
    missing = [name for name, x in given.items() if x is None]
    if 0 < len(missing) < 3:
        raise ValueError(f"report needs model, run and data, or none of them; {missing} are None")
    if model is None or run is None or data is None:
        return write(Path(folder))
    logits = predict(model, run, data[entry(data)])
    return write(Path(folder), findings(logits, data, classes))
