"""The parameters of every flow. Their descriptions are the help texts of the run form in Prefect's UI."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

from pydantic import Field

from dcgan_core.config import preset_names

DEFAULT_PRESET = "demo"
"""What runs if nobody says otherwise: it needs no photos of the user's."""


def _field(description: str, **schema: Any) -> Any:
    # Not as Field's own description: Prefect replaces that by the one in the flow's docstring, or by nothing.
    return Field(json_schema_extra={"description": description, **schema})


# The list only fills the menu of the form. It refuses nothing, as the server's refusal would not name the
# nearest preset: a wrong one, like a wrong key, ends the run in its first second with that name.
Preset = Annotated[
    str,
    _field(
        "What to compute: a preset of dcgan, or the path of a TOML file of your own.",
        enum=list(preset_names()),
    ),
]
Overrides = Annotated[
    dict[str, Any] | None,
    _field(
        'Settings that differ from the preset, by dotted key: {"scrape.path": "/data/photos", "train.steps": '
        "2000}. `dcgan list keys` shows all of them."
    ),
]
Refresh = Annotated[bool, _field("Rerun from scratch, ignoring cached results.")]
AsOf = Annotated[
    date | None,
    _field(
        "The day as of which the web is looked at (scrape.as_of). A scheduled run sets it to the date in its "
        "schedule's time zone, so that a rerun resumes the same week. Empty: what was scraped without a date "
        "is reused."
    ),
]
