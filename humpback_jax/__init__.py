"""humpback-jax: instruction backtranslation (arXiv 2308.06259) as a JAX training system."""

__version__ = "0.1.0"
