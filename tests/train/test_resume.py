"""The same call made again goes on, bit for bit, whatever was cut, damaged or left undone."""

import shutil

import optax
import pytest
from resuming import STEPS, Cut, cut, fit, last, score, steps_in, told, undisturbed
from toys import (
    BATCHES,
    OBJECTIVE,
    QUIET,
    STEP,
    Streamed,
    assert_same,
    linear_start,
    start,
)

import funnet as fn
from funnet.train.archive import Archive


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return undisturbed(tmp_path_factory)


@pytest.mark.parametrize(("before", "after"), [(1, None), (3, 1), (None, 2)])
@pytest.mark.parametrize("at", [1, 8, 13, 23])
def test_the_same_call_goes_on_to_the_same_bits(tmp_path, whole, at, before, after):
    cut(tmp_path, at, fuse=before)
    assert_same(fit(tmp_path, fuse=after, save_every=5), whole[1])
    assert told(tmp_path) == told(whole[0])


def test_a_training_cut_again_and_again_comes_to_the_same_bits(tmp_path, whole):
    for at in (3, 6, 7, 12, 12, 13, 21, 23):
        cut(tmp_path, at, save_every=3)
    assert_same(fit(tmp_path), whole[1])
    assert told(tmp_path) == told(whole[0])


def test_a_finished_training_says_so_and_takes_no_step(tmp_path, whole, capsys):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    source = Streamed()
    source.identity = BATCHES.identity
    assert_same(fit(tmp_path, batches=source, progress=True, validate=pytest.fail), whole[1])
    assert f"{tmp_path} is finished: {STEPS} steps" in capsys.readouterr().err
    assert set(source.asked) <= {0}
    assert told(tmp_path) == told(whole[0])
    assert steps_in(tmp_path) == steps_in(whole[0])


def test_a_training_that_goes_on_says_from_where(tmp_path, capsys):
    cut(tmp_path, 8)
    assert capsys.readouterr().err == ""
    fit(tmp_path, progress=True)
    assert f"{tmp_path} goes on from step 5" in capsys.readouterr().err


def test_more_steps_go_on_to_the_same_bits(tmp_path, whole):
    fit(tmp_path, steps=8)
    fit(tmp_path, steps=16)
    assert_same(fit(tmp_path), whole[1])
    assert told(tmp_path) == told(whole[0])


def test_fewer_steps_than_there_are_give_the_run_that_is_there(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    assert_same(fit(tmp_path, steps=12), whole[1])


def test_calls_one_after_another_on_one_folder_are_one_training(tmp_path, whole):
    first = fit(tmp_path, steps=8)
    assert_same(fit(tmp_path, run=first), whole[1])
    again = fit(tmp_path, steps=8)  # the script, started anew
    assert_same(fit(tmp_path, run=again), whole[1])


def test_a_run_in_between_is_refused(tmp_path):
    early = fn.fit(STEP, start(), BATCHES, steps=8, **QUIET)
    fit(tmp_path, steps=12)
    with pytest.raises(ValueError, match="stands at step 8: give the folder's own first run"):
        fit(tmp_path, run=early)


@pytest.mark.parametrize("kind", ["resident", "streamed"])
def test_a_fork_with_another_rate_is_the_same_thing_done_by_hand(tmp_path, whole, kind):
    faster = fn.train_step(OBJECTIVE, optax.adam(0.1))
    run = fn.restore(whole[0], like=start(seed=9), step=15)
    batches = BATCHES if kind == "resident" else Streamed()
    fork = fit(tmp_path, faster, run, batches, save_every=3)
    by_hand = fn.fit(STEP, start(), BATCHES, steps=15, **QUIET)
    assert_same(run, by_hand)
    assert_same(fork, fn.fit(faster, by_hand, BATCHES, steps=STEPS, **QUIET))
    assert steps_in(tmp_path) == [16, 18, 21, 24]
    assert_same(fit(tmp_path, faster, run, batches), fork)  # finished
    (first, *_) = told(tmp_path)
    assert (first["step"], first["kind"]) == (16, "validation")


def test_a_fork_goes_on_like_any_other(tmp_path, whole):
    run = fn.restore(whole[0], like=start(), step=15)
    cut(tmp_path, 22, run=run)
    assert_same(fit(tmp_path, run=run), whole[1])


# What is kept


def test_the_best_and_the_last_checkpoints_are_kept(tmp_path):
    run = fit(tmp_path, keep=2, save_every=2)
    assert steps_in(tmp_path) == [12, 22, 24]
    best = fn.restore(tmp_path, like=start(), step="best")
    assert int(best.step) == 12
    assert_same(best, fn.fit(STEP, start(), BATCHES, steps=12, **QUIET))
    assert_same(fn.restore(tmp_path, like=start()), run)
    assert_same(fn.restore(tmp_path, like=start(), step=22), fit(None, steps=22))
    with pytest.raises(ValueError, match=r"no checkpoint of step 8: .* has 12, 22, 24"):
        fn.restore(tmp_path, like=start(), step=8)


def test_the_best_stays_the_best_when_a_training_goes_on(tmp_path):
    cut(tmp_path, 18, keep=1)
    fit(tmp_path, keep=1)
    assert steps_in(tmp_path) == [12, 24]
    assert int(fn.restore(tmp_path, like=start(), step="best").step) == 12


def test_what_cannot_be_restored_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no whole checkpoint"):
        fn.restore(tmp_path, like=start())
    fit(tmp_path, best=None, steps=4)
    with pytest.raises(ValueError, match=r"without best=: give fit best=fn.highest\(name\)"):
        fn.restore(tmp_path, like=start(), step="best")
    with pytest.raises(ValueError, match="'best' or None, got 'last'"):
        fn.restore(tmp_path, like=start(), step="last")
    with pytest.raises(ValueError, match=r"params\.hidden\.kernel"):
        fn.restore(tmp_path, like=linear_start())


# Damage


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip])
@pytest.mark.parametrize("name", ["tensors.safetensors", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, whole, name, damage):
    cut(tmp_path, 18)
    path = last(tmp_path)
    damage(path / name)
    with pytest.warns(UserWarning, match=rf"{path} is damaged: passed over \({path / name}"):
        assert int(fn.restore(tmp_path, like=start()).step) == 12  # which was the best
    with pytest.warns(UserWarning, match=rf"{path} is damaged: passed over, and now called"):
        assert_same(fit(tmp_path, save_every=5), whole[1])
    assert told(tmp_path) == told(whole[0])


# Validations


def test_patience_ends_a_training_and_it_stays_ended(tmp_path):
    run = fit(tmp_path, patience=2)
    assert int(run.step) == 20  # 12 was the best
    (tmp_path / "report.html").write_text("with a confusion matrix")
    assert_same(fit(tmp_path, patience=2, validate=pytest.fail), run)
    assert (tmp_path / "report.html").read_text() == "with a confusion matrix"
    assert [line["step"] for line in told(tmp_path) if line["kind"] == "validation"][-1] == 20
    assert_same(fit(tmp_path, patience=9), fit(None))


def test_a_line_that_patience_cut_short_stays(tmp_path):
    fit(tmp_path, patience=2, log_every=7)
    before = told(tmp_path)
    assert [line["step"] for line in before if line["kind"] == "train"] == [7, 14, 20]
    fit(tmp_path, patience=2, log_every=7)
    assert told(tmp_path) == before


def test_patience_counts_on_across_a_cut(tmp_path):
    cut(tmp_path, 17)
    assert int(fit(tmp_path, patience=2).step) == 20


@pytest.mark.parametrize("at", [4, 24])
def test_a_validation_that_was_cut_off_is_made_up_for(tmp_path, whole, at):
    met = []

    def failing(run):
        met.append(int(run.step))
        if int(run.step) == at:
            raise Cut
        return score(run)

    for _ in range(3):
        with pytest.raises(Cut):
            fit(tmp_path, validate=failing)
    assert met[-3:] == [at] * 3
    assert int(fn.restore(tmp_path, like=start()).step) == at
    assert_same(fit(tmp_path), whole[1])
    assert told(tmp_path) == told(whole[0])


def test_a_validation_of_which_no_checkpoint_knows_is_told_once(tmp_path):
    def lost(*_):
        raise Cut

    with pytest.raises(Cut):
        fit(tmp_path, validate=lost, validate_every=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Archive, "job", lost)
        with pytest.raises(Cut):
            fit(tmp_path, save_every=5)  # validates step 8, and dies before it is saved
    assert {"step": 8, "kind": "validation", "score": 2} in told(tmp_path)
    fit(tmp_path, validate_every=8)
    steps = [line["step"] for line in told(tmp_path) if line["kind"] == "validation"]
    assert steps == [8, 16, 24]


def test_a_validation_that_is_no_number_is_not_the_best(tmp_path):
    def validate(run):
        return {"score": float("nan") if int(run.step) == 12 else score(run)["score"]}

    fit(tmp_path, validate=validate)
    assert int(fn.restore(tmp_path, like=start(), step="best").step) == 16
    with pytest.raises(ValueError, match="best watches 'loss', and validate gave score"):
        fit(None, best=fn.lowest("loss"))
