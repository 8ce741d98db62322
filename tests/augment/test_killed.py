"""`cacherl augment` killed again and again: nothing lost, nothing paid twice, never half a file."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from cacherl.core.folders import DataFolder
from cacherl.core.jsonl import read_jsonl
from cacherl.core.trajectories import Trajectory
from tests.record.preloaded import Preloaded
from tests.teacher_server import TeacherServer, Trouble

KILLS = 6


def test_a_run_killed_at_any_point_goes_on_where_it_was(tmp_path: Path) -> None:
    """Every answer that was billed is used; the file is that of a run that nobody disturbed."""
    calm, torn = DataFolder(tmp_path / "calm"), DataFolder(tmp_path / "torn")
    draw = random.Random(7)
    record = ("--world", "desk", "--count", "12", "--teacher", "expert")
    with Preloaded(tmp_path) as cacherl:
        with TeacherServer(folder=tmp_path) as server:
            teacher = f"openai:desk@{server.url}"
            assert cacherl.run(["record", *record, "--out", calm.root]) == 0
            shutil.copytree(calm.root, torn.root)
            assert cacherl.run(["augment", calm.root, "--teacher", teacher]) == 0
            undisturbed = {bill.digest for bill in server.bills()}
        with TeacherServer(
            Trouble("rate_limit", every=9),
            folder=tmp_path / "torn",
            port=server.config.port,  # under the same name
            latency_s=0.01,
            honours_keys=True,
        ) as server:
            for _ in range(KILLS):
                aim = len(server.bills()) + draw.randint(0, len(undisturbed) // KILLS)
                code = cacherl.run(
                    ["augment", torn.root, "--teacher", teacher],
                    until=lambda: len(server.bills()) >= aim,  # noqa: B023 - called within the loop
                )
                assert code in (-9, 0)
                if torn.augmented.exists():  # killed after it was whole, or not at all
                    assert torn.augmented.read_bytes() == calm.augmented.read_bytes()
            assert cacherl.run(["augment", torn.root, "--teacher", teacher]) == 0
            bills = [bill.digest for bill in server.bills()]

    assert torn.augmented.read_bytes() == calm.augmented.read_bytes()
    assert list(read_jsonl(torn.augmented, Trajectory))
    assert len(bills) == len(set(bills))
    assert set(bills) == undisturbed
    assert not list(torn.root.glob(".*.tmp"))
