"""The science of the pipeline: what is computed, with neither Prefect nor Ray."""


def __getattr__(name: str) -> str:
    """``__version__``, looked up only when it is asked for: it takes longer than starting Python."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("dcgan")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0+unknown"
