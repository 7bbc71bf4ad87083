"""Where to run: root, backend, workers, addresses, all from ``DCGAN_*`` variables; never fingerprinted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from dcgan_core.errors import ConfigError
from dcgan_core.storage import Patience, Store, is_on_s3


class Place(BaseSettings):
    """One machine or cluster, as the environment describes it."""

    model_config = SettingsConfigDict(env_prefix="DCGAN_", frozen=True, use_attribute_docstrings=True)

    root: str = "~/dcgan"
    """Directory or fsspec url (`s3://bucket/prefix`) that holds all artifacts."""
    backend: Literal["auto", "local", "ray"] = "auto"
    """Who does the work: processes here, or Ray. `auto`: Ray in flows, processes on the command line."""
    slots: Annotated[int, Field(ge=0)] = 0
    """Parts worked on at once; 0: one per processor (of the machine, or of the Ray cluster)."""
    train_workers: Annotated[int, Field(ge=1)] = 1
    """Training workers; with GPUs, one GPU each."""
    gpus: Annotated[int, Field(ge=-1)] = -1
    """GPUs per training worker, and for what is judged. 0: none. 1: one, which is waited for. -1: one if the
    machine (on Ray: the cluster, one for each worker) has it when the work begins, else processors; where GPU
    nodes may come up late, say 1."""
    gpu_wait_seconds: Annotated[float, Field(ge=0)] = 300.0
    """How long GPUs that `gpus` asks for, and the processors of `train_workers`, are waited for."""
    ray_address: str = ""
    """Address of a running Ray cluster (`auto` inside one); empty: an embedded Ray for the run."""
    allowed_paths: str = ""
    """Directories and url prefixes (`/photos,s3://bucket/photos`), comma-separated, below which every file
    and url that a run's parameters name must lie; empty: they may be anywhere."""
    engines: str = ""
    """Search engines of your own that `scrape.engine` may name, comma-separated: `my_engines:MyEngine`."""
    s3_endpoint_url: str = ""
    """Endpoint of an S3-compatible store; empty: AWS. Credentials come from the usual `AWS_*` variables."""
    cache: str = "~/.cache/dcgan/shards"
    """Local directory where training keeps shards of a remote root; empty: none is kept."""
    cache_gib: Annotated[float, Field(ge=0)] = 50.0
    """Largest size of that directory in GiB. A set that does not fit is read from the store in ranges."""
    s3_tries: Annotated[int, Field(ge=1)] = Patience.tries
    """Tries of each request to S3, the first included, while its failures may pass."""
    s3_pause_seconds: Annotated[float, Field(ge=0)] = Patience.pause_seconds
    """Upper bound of the first pause before a retry; doubles each time (to 20 at most), with full jitter."""
    s3_connect_seconds: Annotated[float, Field(gt=0)] = Patience.connect_seconds
    """Time-out of a connection to S3."""
    s3_read_seconds: Annotated[float, Field(gt=0)] = Patience.read_seconds
    """Time-out of an answer of S3: its longest silence."""

    @field_validator("root")
    @classmethod
    def _absolute(cls, root: str) -> str:
        # A worker starts flows in a directory of its own, so a relative root would move with it.
        root = root.removeprefix("file://")
        return root.rstrip("/") if "://" in root else str(Path(root).expanduser().absolute())

    @property
    def allowed_roots(self) -> tuple[str, ...] | None:
        """The entries of ``allowed_paths``; None if it is not set, so that all is allowed."""
        return _listed(self.allowed_paths) if self.allowed_paths else None

    @property
    def allowed_engines(self) -> tuple[str, ...]:
        """The entries of ``engines``."""
        return _listed(self.engines)

    def store(self) -> Store:
        """The store at the root."""
        return self.store_at(self.root)

    @property
    def s3_options(self) -> dict[str, Any]:
        """Keyword arguments of the file system of anything on S3."""
        return self.store_at("s3://").options

    def store_at(self, root: str) -> Store:
        """Any root, as this place reaches it."""
        if not is_on_s3(root):
            return Store(root)
        endpoint = (("endpoint_url", self.s3_endpoint_url),) if self.s3_endpoint_url else ()
        patience = Patience(
            self.s3_tries, self.s3_pause_seconds, self.s3_connect_seconds, self.s3_read_seconds
        )
        cache = str(Path(self.cache).expanduser().absolute()) if self.cache else ""
        return Store(root, endpoint, patience, cache, int(self.cache_gib * 2**30))

    def worker_count(self) -> int:
        """Parts worked on at once on this machine."""
        return self.slots or processors()


def _listed(text: str) -> tuple[str, ...]:
    return tuple(entry.strip() for entry in text.split(",") if entry.strip())


def load_place() -> Place:
    """The place described by the environment; ConfigError names a variable that is wrong."""
    try:
        place = Place()
    except ValidationError as error:
        problem = error.errors()[0]
        name = f"DCGAN_{'_'.join(str(part) for part in problem['loc'])}".upper()
        raise ConfigError(f"{name}: {problem['msg']} (got {problem['input']!r})") from None
    if place.s3_endpoint_url:  # for others that use the same store, such as Ray Train's own notes
        os.environ.setdefault("AWS_ENDPOINT_URL", place.s3_endpoint_url)
    return place


def processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
