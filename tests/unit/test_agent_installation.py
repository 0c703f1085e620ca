"""The plugin on the node follows what the node is for (`controller.agent.installation`)."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controller.agent.files import RunFolder
from controller.agent.installation import Places, keep_installed
from controller.agent.main import is_leaving, remove_traces
from controller.agent.state import State
from controller.api.clusternetwork import ClusterNetwork, ClusterNetworkSpec
from controller.api.ipblock import NodeReference
from controller.api.nodenetwork import NodeNetwork, NodeNetworkSpec
from controller.api.objects import Metadata
from controller.cni.install import CONFLIST, PLUGIN
from controller.plan.node import Snapshot

NODE = NodeNetwork(metadata=Metadata(name="n0"), spec=NodeNetworkSpec(node=NodeReference(name="n0")))


def snapshot(uninstall: str) -> Snapshot:
    return Snapshot(
        cluster=ClusterNetwork(metadata=Metadata(name="default"), spec=ClusterNetworkSpec(retiring=uninstall))
    )


def test_it_comes_when_the_node_is_ready_goes_in_an_uninstall_and_comes_back_when_that_is_taken_back(
    tmp_path: Path,
) -> None:
    state = State("n0", RunFolder(tmp_path / "run"), lambda: 0.0)
    places = Places(tmp_path / "bin", tmp_path / "conf", None)
    other = places.conf_dir / "10-other.conflist"
    places.conf_dir.mkdir()
    other.write_text("{}")

    def found() -> tuple[bool, ...]:
        files = (places.bin_dir / PLUGIN, places.conf_dir / CONFLIST, state.folder.ready_marker)
        return tuple(path.exists() for path in files)

    async def until(*wanted: bool) -> None:
        state.installation.ring()
        for _ in range(1000):
            if found() == wanted:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"after 10 s plugin, list and marker are {found()}, not {wanted}")

    async def story() -> None:
        state.snapshot = snapshot("")
        task = asyncio.create_task(keep_installed(state, places))
        await asyncio.sleep(0)
        assert found() == (False, False, False)
        state.ready.set()
        await until(True, True, True)
        assert state.is_installed
        state.snapshot = snapshot("one")
        await until(False, False, False)
        assert state.is_installed is False
        state.snapshot = snapshot("")
        await until(True, True, True)
        task.cancel()

    asyncio.run(story())
    assert other.read_text() == "{}"


def test_an_agent_that_is_removed_leaves_no_file_and_those_of_a_speaker_that_answers_alone(tmp_path: Path) -> None:
    folder, speaker = RunFolder(tmp_path / "agent"), tmp_path / "speaker"
    speaker.mkdir()
    folder.mark_ready()

    async def answering() -> None:
        server = await asyncio.start_unix_server(lambda *_: None, speaker / "speaker.sock")
        remove_traces(folder, speaker / "speaker.sock")
        assert (folder.path.exists(), speaker.exists()) == (False, True)
        server.close()

    asyncio.run(answering())
    remove_traces(folder, speaker / "speaker.sock")
    assert not speaker.exists()


@pytest.mark.parametrize(
    ("uninstall", "known", "leaves"),
    [
        ("", {}, False),
        ("one", {}, True),
        ("one", {"node": NODE}, False),
        ("one", {"node": NODE, "retired": True}, True),
    ],
    ids=["no uninstall", "nothing to do", "not looked yet", "done before"],
)
def test_an_agent_that_ends_before_its_first_look_takes_nothing_along_that_is_owed(
    tmp_path: Path, uninstall: str, known: dict[str, Any], leaves: bool
) -> None:
    state = State("n0", RunFolder(tmp_path / "run"), lambda: 0.0)
    state.snapshot = msgspec.structs.replace(snapshot(uninstall), **known)
    assert is_leaving(state) is leaves
