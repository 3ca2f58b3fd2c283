"""Tests run stricter than users do: strict dtype promotion, key reuse checked, warnings errors."""

import os

import jax
import jaxlib
import pytest

if jaxlib.__version__.startswith("0.10."):  # another version may not know the flag, and abort
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")  # compiles faster

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture
def key():
    """One random key, the same for every test."""
    return jax.random.key(0)


@pytest.fixture
def quick_compilation():
    """Programs compiled in half the time and run slowly: for tests of what is computed, not how."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
