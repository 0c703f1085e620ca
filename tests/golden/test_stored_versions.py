"""What every released version kept is still read: objects in the API server, and on a node the agent's and the speaker's files.

`record_stored.py` writes a file for each release; none of them is ever written anew.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from bgp.speaker.store import Store
from controller.agent.files import RunFolder
from controller.api import KINDS, decode
from controller.api.objects import Invalid
from controller.kernel.values import attachment_in
from controller.plan.node import Local, plan_node
from controller.plan.speaking import Surroundings

RECORDS = sorted((Path(__file__).parent / "stored").glob("*.json"))
KIND = {kind.__name__: kind for kind in KINDS}


@pytest.fixture(params=RECORDS, ids=lambda path: path.stem)
def kept(request: pytest.FixtureRequest) -> Any:
    return json.loads(request.param.read_text())


def test_there_is_a_record_of_this_version() -> None:
    assert version("podroute") in {path.stem for path in RECORDS}


def test_every_object_is_read_and_valid(kept: Any) -> None:
    assert {raw["kind"] for raw in kept["objects"]} == KIND.keys()
    read = [decode(KIND[raw["kind"]], raw) for raw in kept["objects"]]
    assert [each for each in read if isinstance(each, Invalid)] == []


def test_an_agent_starts_from_the_files_of_the_version_before(kept: Any, tmp_path: Path) -> None:
    for name in ("snapshot", "used", "resting"):
        (tmp_path / (f"{name}.json" if name == "snapshot" else name)).write_text(kept["files"][name])
    folder = RunFolder(tmp_path)
    snapshot = folder.load_snapshot()
    assert snapshot.node is not None
    (network,) = (raw for raw in kept["objects"] if (raw["kind"], raw["metadata"]["name"]) == ("NodeNetwork", "n0"))
    blocks = {block["cidr"] for block in network["spec"]["blocks"]}
    assert {block.cidr for block in snapshot.held} == blocks
    assert "recorded" in snapshot.passwords.values()
    used = folder.load_used()
    plan = plan_node(snapshot, Local((), used, Surroundings()))
    assert plan is not None
    assert {block.cidr for block in plan.blocks} == blocks
    assert set(kept["pod"]["addresses"]) <= {str(address) for address in used}
    assert folder.load_resting()


def test_the_kernels_aliases_say_whose_each_veth_is(kept: Any) -> None:
    found = {each.pod_uid: each for alias in kept["aliases"] if (each := attachment_in(alias)) is not None}
    assert len(found) == len(kept["aliases"])
    assert [str(address) for address in found[kept["pod"]["uid"]].addresses] == kept["pod"]["addresses"]


def test_a_speaker_starts_from_the_order_of_the_version_before(kept: Any, tmp_path: Path) -> None:
    path = tmp_path / "desired.json"
    path.write_text(kept["files"]["desired"])
    desired = Store(path).load()
    assert desired is not None
    raw = json.loads(kept["files"]["desired"])
    assert [each.name for each in desired.neighbours] == [each["name"] for each in raw["neighbours"]]
    announced = [len(each.announcements) for each in desired.neighbours]
    assert announced == [len(each.get("announcements", ())) for each in raw["neighbours"]]
    assert any(announced)
