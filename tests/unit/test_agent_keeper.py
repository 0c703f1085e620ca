"""What the agent makes of the Secrets that its sessions name, and of epochs (`controller.agent.keeper`)."""

import asyncio
import base64
from pathlib import Path

import msgspec
import pytest

from controller.agent.files import RunFolder
from controller.agent.keeper import Keeper
from controller.agent.state import State
from controller.api.ipblock import NodeReference
from controller.api.nodenetwork import NodeNetwork, NodeNetworkSpec, SessionSpec
from controller.api.objects import Metadata
from controller.api.reasons import Reason
from controller.kube.errors import KubeError, NotFound, Unavailable
from controller.plan.node import Snapshot
from controller.plan.returned import Returns


class Api:
    """Has the Secrets that the test gives it, or fails as it says."""

    namespace = "podroute-system"

    def __init__(self) -> None:
        self.secrets: dict[str, bytes] = {}
        self.failure: KubeError | None = None

    async def get(self, collection: object, name: str, namespace: str) -> dict[str, object]:
        assert namespace == self.namespace
        if self.failure:
            raise self.failure
        if name not in self.secrets:
            raise NotFound(f"GET {name}", "not found")
        return {"data": {"password": base64.b64encode(self.secrets[name]).decode()}}


class Site:
    def __init__(self, folder: Path) -> None:
        self.api = Api()
        self.state = State("n0", RunFolder(folder), lambda: 0.0)
        self.keeper = Keeper(self.state, self.api)
        self.name("tor")

    def name(self, *secrets: str) -> None:
        """Has the node's sessions name these Secrets."""
        sessions = tuple(
            SessionSpec(
                peer=each,
                address="10.0.0.1",
                asn=65001,
                local_address="10.0.0.2",
                local_asn=64512,
                password_secret=each,
            )
            for each in secrets
        )
        spec = NodeNetworkSpec(node=NodeReference(name="n0"), sessions=sessions)
        passwords = self.state.snapshot.passwords
        self.state.snapshot = Snapshot(node=NodeNetwork(metadata=Metadata(name="n0"), spec=spec), passwords=passwords)

    def look(self) -> dict[str, str]:
        asyncio.run(self.keeper.look_at_secrets())
        return self.state.snapshot.passwords


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_password_is_read_and_kept_for_a_restart_in_a_file_that_only_root_reads(site: Site) -> None:
    site.api.secrets["tor"] = b"s3cret"
    assert site.look() == {"tor": "s3cret"}
    assert site.state.troubles == {}
    assert site.state.folder.load_snapshot().passwords == {"tor": "s3cret"}
    assert (site.state.folder.path / "snapshot.json").stat().st_mode & 0o777 == 0o600


def test_a_secret_that_is_missing_is_named_until_it_comes_or_nobody_asks_for_it(site: Site) -> None:
    assert site.look() == {}
    (trouble,) = site.state.troubles.values()
    assert trouble.reason is Reason.SECRET_MISSING
    assert "Secret tor" in trouble.message
    site.api.secrets["tor"] = b"x"
    assert site.look() == {"tor": "x"}
    assert site.state.troubles == {}
    site.name("other")
    site.look()
    assert len(site.state.troubles) == 1
    site.name()
    assert site.look() == {}
    assert site.state.troubles == {}


@pytest.mark.parametrize("content", [None, "pässword".encode()])
def test_a_secret_that_vanishes_or_spoils_ends_no_session_that_works_and_is_told(
    site: Site, content: bytes | None
) -> None:
    site.api.secrets["tor"] = b"s3cret"
    site.look()
    if content is None:
        del site.api.secrets["tor"]
    else:
        site.api.secrets["tor"] = content
    assert site.look() == {"tor": "s3cret"}
    assert [trouble.reason for trouble in site.state.troubles.values()] == [Reason.SECRET_MISSING]


def test_an_api_server_that_is_away_leaves_passwords_as_they_are_and_is_no_trouble_of_the_secret(site: Site) -> None:
    site.api.secrets["tor"] = b"s3cret"
    site.look()
    site.api.failure = Unavailable("GET", "no answer")
    assert site.look() == {"tor": "s3cret"}
    assert site.state.troubles == {}


def show(site: Site, version: int, **spec: object) -> None:
    """What a list of the API server does."""
    body = {
        "metadata": {"name": "n0", "uid": "object", "resourceVersion": str(version)},
        "spec": {"node": {"name": "n0"}, **spec},
    }
    store = site.keeper._store
    site.keeper._on_change(store.replace(NodeNetwork, [body], str(version), store.highest(NodeNetwork)))


def test_a_new_epoch_is_noted_with_its_time_and_one_that_comes_back_without(site: Site) -> None:
    show(site, 10, epoch="early")
    show(site, 20, epoch="late")
    assert site.state.snapshot.returns == Returns(epochs=("early", "late"), since=0.0)
    # The restored backup is older than all that was seen.
    show(site, 15, epoch="early")
    assert site.state.snapshot.returns == Returns(epochs=("late", "early"), since=None)
    assert site.state.folder.load_snapshot().returns == site.state.snapshot.returns


def test_an_object_that_can_not_be_worked_with_leaves_the_last_good_one_in_force_and_is_named(site: Site) -> None:
    show(site, 10, blocks=[{"cidr": "10.244.0.0/26", "uid": "b", "pool": "p"}])
    show(site, 20, blocks=[{"cidr": "10.244.0.300/26", "uid": "b", "pool": "p"}])
    node = site.state.snapshot.node
    assert node is not None
    assert [block.cidr for block in node.spec.blocks] == ["10.244.0.0/26"]
    trouble = site.state.troubles["objects"]
    assert trouble.reason is Reason.INVALID
    assert "NodeNetwork n0, field spec.blocks.cidr: '10.244.0.300/26'" in trouble.message
    show(site, 30, blocks=[])
    assert "objects" not in site.state.troubles


def test_a_new_agent_looks_again_when_the_grace_of_a_vanished_node_ends(site: Site) -> None:
    assert site.state.snapshot.node is not None
    spec = msgspec.structs.replace(site.state.snapshot.node.spec, deleted_node_grace=900)
    node = msgspec.structs.replace(site.state.snapshot.node, spec=spec)
    # The agent before this one heard of it, 899.9 seconds ago.
    site.state.snapshot = msgspec.structs.replace(site.state.snapshot, node=node, missing_since=-899.9)

    async def story() -> None:
        store = site.keeper._store
        site.keeper._on_change(store.replace(NodeNetwork, [], "10", store.highest(NodeNetwork)))
        site.state.reconcile.take()
        assert site.state.snapshot.missing_since == -899.9
        assert await site.state.reconcile.wait(5)

    asyncio.run(story())
