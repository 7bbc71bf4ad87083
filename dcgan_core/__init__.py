"""The science of the pipeline: what is computed, with neither Prefect nor Ray."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("dcgan")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"
