"""How long the flow `dcgan` takes when every stage is cached, from Running to Completed.

    python -m benchmarks.cached_run [--root ROOT] [--preset demo] [-o KEY=VALUE]... [--windows 5]

The root must hold a finished run of the preset (``make demo`` leaves one in ``data``). The server is a
temporary one and starts before the clock does; each window is a fresh process, as a worker would start it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

from benchmarks.common import print_result, windows

_CHILD = """
import json, sys
from flows.dcgan import dcgan
state = dcgan(preset=sys.argv[1], overrides=json.loads(sys.argv[2]), return_state=True)
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    run = client.read_flow_run(state.state_details.flow_run_id)
heavy = [name for name in ("torch", "ray") if name in sys.modules]
print(json.dumps([run.total_run_time.total_seconds(), heavy]))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", default=os.environ.get("DCGAN_ROOT", "data"))
    parser.add_argument("--preset", default="demo")
    parser.add_argument("-o", dest="overrides", action="append", default=[])
    parser.add_argument("--windows", type=int, default=5)
    options = parser.parse_args()
    from dcgan_core.config import parse_override

    overrides = json.dumps(dict(parse_override(text) for text in options.overrides))
    loaded: set[str] = set()

    def once() -> float:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, options.preset, overrides],
            env={**os.environ, "DCGAN_ROOT": options.root},
            capture_output=True,
            text=True,
            check=True,
        )
        seconds, heavy = json.loads(done.stdout.splitlines()[-1])
        loaded.update(heavy)
        return seconds

    values = windows(once, options.windows)
    print_result(
        "cached_run", values, "s from Running to Completed", loaded=sorted(loaded), preset=options.preset
    )


if __name__ == "__main__":
    main()
