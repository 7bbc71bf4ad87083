"""``make demo``: the flow `dcgan` on the built-in photos, here and now, then where to look."""

from __future__ import annotations

from flows.dcgan import dcgan
from tasks.results import say_where


def main() -> None:
    """Run the preset `demo` on embedded Ray and an ephemeral Prefect server."""
    dcgan(preset="demo")
    say_where()


if __name__ == "__main__":
    main()
