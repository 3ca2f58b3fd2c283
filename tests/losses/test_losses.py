"""Losses against formulas in float64, far out and to the second order; and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.test_util import check_grads
from pulls import value_and_gradient

from funnet import losses

SHAPES = [(1, 1), (5, 3), (3, 2, 4, 5)]


def draw(shape, seed=0, scale=3.0):
    return scale * np.random.default_rng(seed).normal(size=shape)


def draw_labels(shape, seed=1):
    return np.random.default_rng(seed).integers(0, shape[-1], shape[:-1])


def draw_probabilities(shape, seed=2):
    return scipy.special.softmax(draw(shape, seed, scale=1.0), axis=-1)


def over_examples(x):
    return x.reshape(len(x), -1).mean(axis=1)


def reference_cross_entropy(logits, labels, smoothing=0.0):
    log_p = scipy.special.log_softmax(logits, axis=-1)
    hit = np.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
    return -(1 - smoothing) * hit - (smoothing * log_p.mean(-1) if smoothing else 0)


def reference_binary(logits, targets):
    t, x = targets, logits
    return over_examples(-t * scipy.special.log_expit(x) - (1 - t) * scipy.special.log_expit(-x))


def reference_huber(predictions, targets, delta=0.7):
    e = np.abs(predictions - targets)
    return over_examples(np.where(e <= delta, e**2 / 2, delta * (e - delta / 2)))


def reference_cosine(a, b):
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return 1 - (a * b).sum(-1) / norms


def huber(predictions, targets):
    return losses.huber(predictions, targets, delta=0.7)


# name: loss, its formula in NumPy, what draws its predictions; targets are probabilities
FLOAT_LOSSES = {
    "soft_cross_entropy": (
        losses.soft_cross_entropy,
        lambda x, t: -(t * scipy.special.log_softmax(x, axis=-1)).sum(-1),
        draw,
    ),
    "binary_cross_entropy": (losses.binary_cross_entropy, reference_binary, draw),
    "mse": (losses.mse, lambda x, t: over_examples((x - t) ** 2), draw),
    "l1": (losses.l1, lambda x, t: over_examples(abs(x - t)), draw),
    "huber": (huber, reference_huber, draw),
    "kl_divergence": (
        losses.kl_divergence,
        lambda x, t: scipy.special.rel_entr(t, np.exp(x)).sum(-1),
        lambda shape: np.log(draw_probabilities(shape, 3)),
    ),
    "cosine": (losses.cosine, reference_cosine, draw),
}
each_float_loss = pytest.mark.parametrize("name", FLOAT_LOSSES)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


class TestValues:
    @each_shape
    @pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
    def test_cross_entropy_is_its_formula(self, shape, smoothing):
        logits, labels = draw(shape), draw_labels(shape)
        loss = jax.jit(losses.cross_entropy, static_argnames="label_smoothing")(
            logits, labels, label_smoothing=smoothing
        )
        expected = reference_cross_entropy(logits, labels, smoothing)
        assert loss.shape == labels.shape
        np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)

    @each_shape
    @each_float_loss
    def test_the_others_are_theirs(self, name, shape):
        loss, reference, predict = FLOAT_LOSSES[name]
        x, t = predict(shape), draw_probabilities(shape)
        expected = reference(x, t)
        result = jax.jit(loss)(x, t)
        assert result.shape == expected.shape
        np.testing.assert_allclose(result, expected, rtol=2e-5, atol=2e-6)

    @each_float_loss
    def test_float64_is_kept_to_its_last_digits(self, name):
        loss, reference, predict = FLOAT_LOSSES[name]
        x, t = predict((4, 6)), draw_probabilities((4, 6))
        with jax.enable_x64(True):
            result = jax.jit(loss)(x, t)
        assert result.dtype == np.float64
        np.testing.assert_allclose(result, reference(x, t), rtol=1e-12, atol=1e-13)

    @pytest.mark.parametrize("targets", [[True, False, True], [1, 0, 1], [1.0, 0.0, 1.0]])
    def test_binary_targets_come_in_any_dtype(self, targets):
        logits = np.array([0.3, -2.0, -1.0])
        result = losses.binary_cross_entropy(logits, np.array(targets))
        np.testing.assert_allclose(result, reference_binary(logits, np.array(targets) * 1.0), 1e-6)


class TestDtypes:
    @each_float_loss
    def test_half_precision_is_computed_in_float32(self, name):
        dtype = jnp.bfloat16
        loss, _, predict = FLOAT_LOSSES[name]
        x, t = jnp.asarray(predict((4, 6)), dtype), jnp.asarray(draw_probabilities((4, 6)), dtype)
        result, gradient = value_and_gradient(loss, x, t)
        assert (result.dtype, gradient.dtype) == (jnp.float32, dtype)
        wide = jax.jit(loss)(x.astype(jnp.float32), t.astype(jnp.float32))
        np.testing.assert_allclose(result, wide, rtol=1e-6, atol=1e-7)

    def test_half_precision_cross_entropy(self):
        logits, labels = jnp.asarray(draw((4, 6)), jnp.float16), draw_labels((4, 6))
        result = losses.cross_entropy(logits, labels)
        assert result.dtype == jnp.float32
        wide = losses.cross_entropy(logits.astype(jnp.float32), labels)
        np.testing.assert_array_equal(result, wide)

    def test_dtypes_may_be_mixed(self):
        x, t = jnp.asarray(draw((4, 6)), jnp.bfloat16), jnp.asarray(draw((4, 6), 1), jnp.float32)
        expected = losses.mse(x.astype(jnp.float32), t)
        np.testing.assert_array_equal(losses.mse(x, t), expected)

    @pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint32, np.int64])
    def test_labels_of_any_integers(self, dtype):
        # 300 classes do not fit into 8 bits: the check must not wrap them.
        logits, labels = draw((4, 300)), np.array([0, 1, 100, 127], dtype)
        expected = reference_cross_entropy(logits, labels)
        np.testing.assert_allclose(losses.cross_entropy(logits, labels), expected, rtol=1e-5)
        np.testing.assert_allclose(jax.jit(losses.cross_entropy)(logits, labels), expected, 1e-5)

    def test_a_wide_label_does_not_wrap_to_a_class(self):
        with jax.enable_x64(True):
            loss = jax.jit(losses.cross_entropy)(np.zeros((2, 3)), np.array([2**32, 1]))
        np.testing.assert_array_equal(np.isnan(loss), [True, False])


class TestGradients:
    def test_cross_entropy_to_the_second_order(self):
        logits, labels = draw((3, 4)), draw_labels((3, 4))
        loss = jax.jit(lambda x: losses.cross_entropy(x, labels, label_smoothing=0.3))
        with jax.enable_x64(True):
            check_grads(loss, (jnp.asarray(logits),), order=2)

    @each_float_loss
    def test_finite_differences(self, name):
        loss, _, predict = FLOAT_LOSSES[name]
        with jax.enable_x64(True):
            arguments = jnp.asarray(predict((3, 4))), jnp.asarray(draw_probabilities((3, 4)))
            check_grads(jax.jit(loss), arguments, order=1)

    def test_the_gradient_is_softmax_minus_onehot_even_far_out(self):
        logits = np.array([[1e4, 0, -1e4], [-1e4, 1e4, 1e4 - 1], [0, -np.inf, 1]], np.float32)
        labels = np.array([2, 1, 0])
        loss, gradient = value_and_gradient(losses.cross_entropy, logits, labels)
        wide = logits.astype(np.float64)
        np.testing.assert_allclose(loss, reference_cross_entropy(wide, labels), 1e-6)
        expected = scipy.special.softmax(wide, axis=-1) - np.eye(3)[labels]
        np.testing.assert_allclose(gradient, expected, atol=1e-6)

    def test_an_exact_hit_pulls_nowhere(self):
        zero = jnp.zeros((2, 3))
        for loss in (losses.mse, losses.l1, losses.huber):
            value, gradient = value_and_gradient(loss, zero, zero)
            np.testing.assert_array_equal(value, np.zeros(2))
            np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


class TestExtremes:
    def test_a_ruled_out_class_costs_nothing_unless_it_is_the_label(self):
        logits = jnp.array([[0.0, -jnp.inf], [0.0, -jnp.inf]])
        loss, gradient = value_and_gradient(losses.cross_entropy, logits, np.array([0, 1]))
        np.testing.assert_array_equal(loss, [0, np.inf])
        np.testing.assert_array_equal(gradient, [[0, 0], [1, -1]])

    def test_smoothing_does_not_turn_infinity_into_nan(self):
        logits, labels = jnp.array([[0.0, -jnp.inf]]), jnp.array([1])
        for smoothing in (jnp.float32(0), 0.5, 1.0):
            loss = losses.cross_entropy(logits, labels, label_smoothing=smoothing)
            np.testing.assert_array_equal(loss, [np.inf])
        ruled_out = jax.jit(lambda s: losses.cross_entropy(logits, labels - 1, label_smoothing=s))
        np.testing.assert_array_equal(ruled_out(0.0), [0])

    def test_an_infinite_or_nan_logit_is_not_hidden(self):
        logits = jnp.array([[jnp.inf, 0.0], [jnp.nan, 0.0]])
        assert jnp.isnan(losses.cross_entropy(logits, jnp.array([1, 1]))).all()

    def test_soft_targets_may_rule_a_class_out_too(self):
        logits = jnp.array([[1.0, 1.0, -jnp.inf]])
        targets = jnp.array([[0.25, 0.75, 0.0]])
        loss, gradient = value_and_gradient(losses.soft_cross_entropy, logits, targets)
        np.testing.assert_allclose(loss, [np.log(2)], rtol=1e-6)
        np.testing.assert_allclose(gradient, [[0.25, -0.25, 0]], atol=1e-6)

    @pytest.mark.parametrize("size", [20.0, 1e4, np.inf])
    def test_binary_far_out(self, size):
        logits = jnp.array([size, -size, size, -size], jnp.float32)
        targets = jnp.array([1.0, 0.0, 0.0, 1.0])
        loss, gradient = value_and_gradient(losses.binary_cross_entropy, logits, targets)
        right = np.log1p(np.exp(-size))
        np.testing.assert_allclose(loss, [right, right, size + right, size + right], rtol=1e-5)
        slope = scipy.special.expit(-size)
        np.testing.assert_allclose(gradient, [-slope, slope, 1, -1], rtol=1e-5)

    def test_no_probability_adds_nothing_to_the_divergence(self):
        log_predictions = jnp.array([[np.log(0.5), np.log(0.5), -np.inf]])
        targets = jnp.array([[1.0, 0.0, 0.0]])
        loss, pullback = jax.vjp(jax.jit(losses.kl_divergence), log_predictions, targets)
        np.testing.assert_allclose(loss, [np.log(2)], rtol=1e-6)
        for gradient in pullback(jnp.ones(1)):
            assert jnp.isfinite(gradient).all()
        missed = losses.kl_divergence(jnp.array([[0.0, -jnp.inf]]), jnp.array([[0.5, 0.5]]))
        np.testing.assert_array_equal(missed, [np.inf])

    @pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
    def test_the_cosine_does_not_know_lengths(self, scale):
        a, b = draw((3, 4)), draw((3, 4), 5)
        result = losses.cosine(a * scale, b)
        np.testing.assert_allclose(result, reference_cosine(a, b), rtol=1e-5)

    def test_zero_vectors_have_finite_gradients(self):
        a, b = jnp.array([[0.0, 0], [0, 0], [3, 4]]), jnp.array([[0.0, 0], [1, 2], [0, 0]])
        loss, pullback = jax.vjp(jax.jit(losses.cosine), a, b)
        np.testing.assert_array_equal(loss, [1, 1, 1])
        for gradient in pullback(jnp.ones(3)):
            assert jnp.isfinite(gradient).all()
            assert jnp.abs(gradient).max() <= 1


class TestLabels:
    @pytest.mark.parametrize("wrong", [-1, 10, 11, -10])
    def test_out_of_range_is_an_error_that_says_where(self, wrong):
        labels = np.array([0, 9, wrong, wrong])
        message = rf"labels\[2\] is {wrong}, expected 0 <= labels <= 9, .*\(4, 10\) have 10 classes"
        with pytest.raises(ValueError, match=message):
            losses.cross_entropy(np.zeros((4, 10)), labels)
        with pytest.raises(ValueError, match=message):  # traced logits, but labels to be read
            jax.grad(lambda x: losses.cross_entropy(x, labels).sum())(jnp.zeros((4, 10)))

    def test_the_place_in_a_sequence(self):
        with pytest.raises(ValueError, match=r"labels\[1, 2\] is 5"):
            losses.cross_entropy(np.zeros((2, 3, 5)), np.array([[0, 1, 2], [3, 4, 5]]))

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_under_jit_loss_and_gradient_are_nan_in_that_row_alone(self, smoothing):
        @jax.jit
        def loss_and_gradients(labels):
            loss = lambda x: losses.cross_entropy(x, labels, label_smoothing=smoothing)  # noqa: E731
            return value_and_gradient(loss, jnp.zeros((3, 10)))

        for wrong in (-1, 10, 11, -10):
            loss, gradient = loss_and_gradients(jnp.array([0, wrong, 9]))
            np.testing.assert_array_equal(np.isnan(loss), [False, True, False])
            rows = np.isnan(gradient)
            np.testing.assert_array_equal(rows, np.repeat([[False], [True], [False]], 10, axis=1))

    def test_inside_a_scan_and_vmap(self):
        logits, labels = draw((5, 4, 3)), draw_labels((5, 4, 3))
        expected = reference_cross_entropy(logits, labels)
        scanned = jax.lax.map(lambda xs: losses.cross_entropy(*xs), (logits, labels))
        np.testing.assert_allclose(scanned, expected, rtol=1e-5)
        np.testing.assert_allclose(jax.vmap(losses.cross_entropy)(logits, labels), expected, 1e-5)

    def test_smoothing_can_be_swept(self):
        logits, labels = draw((4, 3)), draw_labels((4, 3))
        swept = jax.vmap(lambda s: losses.cross_entropy(logits, labels, label_smoothing=s))
        for smoothing, loss in zip([0.0, 0.5], swept(jnp.array([0.0, 0.5])), strict=True):
            expected = reference_cross_entropy(logits, labels, smoothing)
            np.testing.assert_allclose(loss, expected, rtol=1e-5)

    def test_smoothing_of_another_dtype(self):
        with jax.enable_x64(True):
            sweep = jax.jit(
                lambda s: losses.cross_entropy(draw((4, 3)), draw_labels((4, 3)), label_smoothing=s)
            )
            assert sweep(jnp.float32(0.5)).dtype == np.float64

    def test_dtypes_are_not_guessed(self):
        for dtype in (np.float32, np.bool_):
            with pytest.raises(TypeError, match=r"labels must be integers.*astype\('int32'\)"):
                losses.cross_entropy(np.zeros((2, 3)), np.zeros(2, dtype))
        with pytest.raises(TypeError, match=r"logits must be floating point, got int32"):
            losses.cross_entropy(np.zeros((2, 3), np.int32), np.zeros(2, np.int32))

    @pytest.mark.parametrize(
        ("shape", "cure"),
        [
            ((4, 1), r"write labels\[\.\.\., 0\]"),
            ((4, 3), "soft_cross_entropy"),
            ((4, 3, 3), "the logits come first"),
            ((3,), "one label for each row"),
            ((), "one label for each row"),
        ],
    )
    def test_shapes_must_belong_together(self, shape, cure):
        with pytest.raises(ValueError, match=cure) as error:
            losses.cross_entropy(np.zeros((4, 3)), np.zeros(shape, np.int32))
        for words in (f"labels has shape {shape}", "logits has shape (4, 3)", "of shape (4,)"):
            assert words in str(error.value)


class TestRefusals:
    @each_float_loss
    def test_nothing_is_broadcast(self, name):
        loss = FLOAT_LOSSES[name][0]
        with pytest.raises(ValueError, match=r"\(4, 1\).*\(4,\).*equal shapes.*reshape"):
            loss(np.zeros((4, 1)), np.zeros(4))
        with pytest.raises(ValueError, match="equal shapes"):
            jax.jit(loss)(np.zeros((4, 1)), np.zeros(4))

    @each_float_loss
    def test_what_is_no_batch_of_floats(self, name):
        loss, ones = FLOAT_LOSSES[name][0], np.ones((4, 2), np.float32)
        with pytest.raises(ValueError, match=r"has shape \(\), expected a first axis"):
            loss(np.float32(0), np.float32(0))
        with pytest.raises(TypeError, match=r"(logits|predictions) must be floating point, got"):
            loss(ones.astype(np.int32), ones)
        with pytest.raises(TypeError, match=r"got list; write jnp\.asarray"):
            loss([0.0], np.zeros(1))

    @pytest.mark.parametrize("wrong", [-0.1, 1.5, np.nan])
    @pytest.mark.parametrize(
        "name", ["soft_cross_entropy", "binary_cross_entropy", "kl_divergence"]
    )
    def test_targets_are_probabilities(self, name, wrong):
        targets = np.array([[0.5, 0.5], [0.5, wrong]], np.float32)
        with pytest.raises(ValueError, match=r"targets\[1, 1\] is .*expected 0 <= targets <= 1"):
            FLOAT_LOSSES[name][0](np.zeros((2, 2)), targets)

    def test_rounding_is_forgiven(self):
        targets = np.nextafter(np.ones(2, np.float32), 2)
        assert jnp.isfinite(losses.binary_cross_entropy(np.zeros(2), targets)).all()

    def test_settings(self):
        with pytest.raises(ValueError, match=r"delta is 0, expected delta > 0"):
            losses.huber(np.zeros(2), np.zeros(2), delta=0)
        with pytest.raises(ValueError, match=r"label_smoothing is 1.5, expected 0 <= label"):
            losses.cross_entropy(np.zeros((1, 2)), np.zeros(1, int), label_smoothing=1.5)
