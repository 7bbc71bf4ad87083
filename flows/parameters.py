"""What every flow is called with: a preset, overrides, and whether to do things anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from prefect.context import FlowRunContext
from pydantic import Field

# Named one by one, so that the deployment's schema lists them and a wrong one is refused at submission.
Shipped = Literal[
    "bedrooms64", "cifar32", "demo", "faces64", "faces64-small", "imagenet32", "mnist28", "svhn32"
]
OwnFile = Annotated[str, Field(pattern=r"\.toml$", description="Path of a TOML file of your own")]
Preset = Shipped | OwnFile
Overrides = dict[str, Any]


def dated(overrides: Mapping[str, Any] | None) -> Overrides:
    """Overrides with ``scrape.as_of`` set to the scheduled date, where a schedule started the run."""
    chosen = dict(overrides or {})
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is not None and run.auto_scheduled and run.expected_start_time and "scrape.as_of" not in chosen:
        chosen["scrape.as_of"] = run.expected_start_time.date().isoformat()
    return chosen
