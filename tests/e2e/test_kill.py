"""SIGKILL in the middle of every stage: a rerun goes on and ends with the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dcgan_core.artifacts import Manifest, all_manifests
from dcgan_core.storage import Store
from dcgan_core.verify import problems
from tests.conftest import Tiny

PROGRAM = Path(__file__).with_name("kill_everywhere.py")
KILLS_A_STAGE = 4


def steady(manifest: Manifest) -> dict[str, str]:
    """Hashes of all files but those that say when something was done."""
    moving = ("fetches-", "index.html", "from-root.html")
    return {file.name: file.sha256 for file in manifest.files if not file.name.startswith(moving)}


@pytest.mark.slow
def test_a_pipeline_killed_in_every_stage_ends_with_the_bytes_of_a_straight_run(
    tiny: Tiny, finished_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    in_two_waves = tiny.changed(shard__samples_per_task=5)  # where shards lie does not depend on it
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(root), json.dumps(in_two_waves)],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    straight = {manifest.address: manifest for manifest in all_manifests(Store(str(finished_root)))}
    resumed = {manifest.address: manifest for manifest in all_manifests(Store(str(root)))}
    assert resumed.keys() == straight.keys()
    kills = json.loads(done.stdout.splitlines()[-1])
    assert kills.keys() == {address.artifact for address in straight}
    assert min(kills.values()) >= KILLS_A_STAGE
    for address, manifest in straight.items():
        assert resumed[address].content == manifest.content, f"{address} differs after kills"
        assert steady(resumed[address]) == steady(manifest)
        assert [wrong for _, wrong in problems(Store(str(root)), resumed[address]) if wrong] == []
    # Killed right after its first receipt and again before its manifest, the last run did no part anew.
    photos = next(manifest for address, manifest in resumed.items() if address.artifact == "photos")
    assert photos.provenance["parts_done"] == 0
    assert photos.provenance["parts_reused"] == len(photos.parts) > 1
