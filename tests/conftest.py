"""Eight CPU devices and a compilation cache for all tests; runs before JAX is imported."""

import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEVICES = 8

os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES}"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
for _folder in ("goldens", "corpora", "fuzz"):
    sys.path.insert(0, str(pathlib.Path(__file__).parent / _folder))

import gin  # noqa: E402
import jax  # noqa: E402


@pytest.fixture(autouse=True)
def _fresh_gin():
    """Gin's configuration is global: no test leaves bindings behind."""
    yield
    gin.clear_config()


@pytest.fixture(scope="module", autouse=True)
def _no_programs_of_before():
    """A compiled program takes up to hundreds of the 65,530 memory maps that a process may have."""
    yield
    jax.clear_caches()


@pytest.fixture
def shared() -> pathlib.Path:
    """Returns the folder of real development data beside the checkout, or skips."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared with real data beside this checkout")
    return folder
