"""BGPPeers as sessions of nodes, and who is in the mesh."""

from typing import Any

import msgspec
from cluster_simulation import Simulation, with_metadata

from controller.api import BGPConfiguration, BGPPeer, ClusterNetwork, NodeNetwork
from controller.api.bgpconfiguration import BGPConfigurationSpec
from controller.api.bgppeer import BGPPeerSpec, ExportPolicy, SecretReference
from controller.api.kubernetes import Node, NodeAddress
from controller.api.nodenetwork import SessionSpec, SessionStatus
from controller.api.objects import LabelSelector, Metadata


def rack(name: str) -> LabelSelector:
    return LabelSelector(match_labels={"rack": name})


def two_racks() -> Simulation:
    sim = Simulation()
    for number in range(4):
        sim.add_node(f"n{number}", 11 + number, rack=f"r{number // 2}")
    return sim


def add_peer(sim: Simulation, name: str, **spec: Any) -> BGPPeer:
    return sim.put(BGPPeer(metadata=Metadata(name=name), spec=BGPPeerSpec(**spec)))


def sessions(sim: Simulation, node: str) -> tuple[SessionSpec, ...]:
    return sim.get(NodeNetwork, node).spec.sessions


def report(sim: Simulation, node: str, *states: SessionStatus) -> None:
    network = sim.get(NodeNetwork, node)
    sim.put(msgspec.structs.replace(network, status=msgspec.structs.replace(network.status, sessions=states)))


def test_selected_nodes_and_no_others_get_the_session_of_a_router() -> None:
    sim = two_racks()
    secret = SecretReference(name="tor")
    add_peer(
        sim,
        "tor0",
        node_selector=rack("r0"),
        address="10.10.0.1",
        as_number=65001,
        allow_own_as=True,
        password_secret_ref=secret,
        export=ExportPolicy(communities=("64512:100",)),
    )
    sim.settle()
    (session,) = sessions(sim, "n0")
    assert (session.address, session.asn, session.local_address, session.local_asn) == (
        "10.10.0.1",
        65001,
        "10.10.0.11",
        64512,
    )
    assert (session.password_secret, session.allow_own_as, session.passive) == ("tor", True, False)
    assert session.export.communities == ("64512:100",)
    assert sessions(sim, "n2") == ()


def test_nodes_that_no_peer_selects_are_in_the_mesh_unless_configured_otherwise() -> None:
    sim = two_racks()
    add_peer(sim, "tor0", node_selector=rack("r0"), address="10.10.0.1", as_number=65001)
    add_peer(sim, "tor0-v6", node_selector=rack("r0"), address="fd00:10:10::1", as_number=65001)
    for mode, members in (("Auto", ["n2", "n3"]), ("Enabled", ["n0", "n1", "n2", "n3"]), ("Disabled", [])):
        spec = BGPConfigurationSpec(node_mesh=mode)  # type: ignore[arg-type]
        sim.put(BGPConfiguration(metadata=Metadata(name="default"), spec=spec))
        sim.settle()
        assert [member.node for member in sim.get(ClusterNetwork, "default").spec.mesh] == members
        assert [n.metadata.name for n in sim.all(NodeNetwork) if n.spec.mesh] == members
        assert sim.get(BGPConfiguration, "default").status.mesh_members == len(members)


def mesh(sim: Simulation) -> dict[str, tuple[str, ...]]:
    return {member.node: member.addresses for member in sim.get(ClusterNetwork, "default").spec.mesh}


def test_a_peer_of_one_family_leaves_its_nodes_in_the_mesh_of_the_other() -> None:
    sim = two_racks()
    add_peer(sim, "tor0", node_selector=rack("r0"), address="10.10.0.1", as_number=65001)
    sim.settle()
    assert mesh(sim)["n0"] == ("fd00:10:10::11",)
    assert mesh(sim)["n2"] == ("10.10.0.13", "fd00:10:10::13")
    assert sim.get(NodeNetwork, "n0").spec.mesh


def test_a_peer_that_is_shut_down_or_refused_takes_no_node_out_of_the_mesh() -> None:
    sim = two_racks()
    add_peer(sim, "off", node_selector=rack("r0"), address="10.10.0.1", as_number=65001, shutdown=True)
    add_peer(sim, "itself", address="10.10.0.13", as_number=65001, node_selector=rack("r1"))
    sim.settle()
    assert mesh(sim)["n0"] == ("10.10.0.11", "fd00:10:10::11")
    assert mesh(sim)["n2"] == ("10.10.0.13", "fd00:10:10::13"), "refused there: the address is its own"
    assert mesh(sim)["n3"] == ("fd00:10:10::14",), "served there"


def test_a_session_between_nodes_exists_on_both_sides_or_on_none() -> None:
    sim = two_racks()
    add_peer(sim, "older", node_selector=rack("r0"), address="10.10.0.13", as_number=65001)
    add_peer(sim, "between", node_selector=rack("r0"), peer_selector=rack("r1"))
    sim.settle()
    assert {s.address for s in sessions(sim, "n2")} == {"fd00:10:10::11", "fd00:10:10::12"}
    assert sim.condition(BGPPeer, "between", "Accepted")[:2] == ("False", "AddressConflict")
    assert {s.node for s in sessions(sim, "n3")} == {"n0", "n1"}


def test_of_two_peers_with_one_address_on_a_node_the_older_is_served() -> None:
    sim = two_racks()
    add_peer(sim, "older", node_selector=rack("r0"), address="10.10.0.1", as_number=65001)
    add_peer(sim, "younger", address="10.10.0.1", as_number=65009)
    add_peer(sim, "beside", node_selector=rack("r0"), address="10.10.0.2", as_number=65009)
    sim.settle()
    assert [(s.peer, s.address) for s in sessions(sim, "n0")] == [("older", "10.10.0.1"), ("beside", "10.10.0.2")]
    assert [s.peer for s in sessions(sim, "n2")] == ["younger"]
    status, reason, message = sim.condition(BGPPeer, "younger", "Accepted")
    assert (status, reason) == ("False", "AddressConflict")
    assert "served on 2 of 4 nodes" in message
    assert "Node n0: address 10.10.0.1 is BGPPeer older's" in message
    assert sim.condition(BGPPeer, "beside", "Accepted")[0] == "True"


def test_nodes_that_peer_with_each_other_agree_on_who_waits() -> None:
    sim = two_racks()
    add_peer(sim, "reflectors", peer_selector=rack("r1"), node_selector=rack("r0"))
    sim.settle()
    here = {(s.address, s.passive, s.node) for s in sessions(sim, "n0")}
    assert here == {
        ("10.10.0.13", True, "n2"),
        ("10.10.0.14", True, "n3"),
        ("fd00:10:10::13", True, "n2"),
        ("fd00:10:10::14", True, "n3"),
    }
    there = {(s.address, s.passive) for s in sessions(sim, "n2") if s.node == "n0"}
    assert there == {("10.10.0.11", False), ("fd00:10:10::11", False)}
    assert sim.get(ClusterNetwork, "default").spec.mesh == ()


def test_nodes_selected_on_both_sides_get_one_session_a_family_and_none_with_themselves() -> None:
    sim = Simulation()
    for number in range(3):
        sim.add_node(f"n{number}", 11 + number)
    add_peer(sim, "all", peer_selector=LabelSelector())
    sim.settle()
    for name in ("n0", "n1", "n2"):
        own = sessions(sim, name)
        assert len(own) == len({s.address for s in own}) == 4
        assert name not in {s.node for s in own}
    assert sim.condition(BGPPeer, "all", "Accepted")[0] == "True"


def test_both_sides_agree_on_as_numbers_that_differ() -> None:
    sim = two_racks()
    add_peer(sim, "mixed", node_selector=rack("r0"), peer_selector=rack("r1"), as_number=65200, local_asn=65100)
    sim.settle()
    assert {(s.asn, s.local_asn) for s in sessions(sim, "n0")} == {(65200, 65100)}
    assert {(s.asn, s.local_asn) for s in sessions(sim, "n2")} == {(65100, 65200)}


def test_a_peer_that_matches_no_node_says_so() -> None:
    sim = two_racks()
    add_peer(sim, "tor9", node_selector=rack("r9"), address="10.10.9.1", as_number=65001)
    sim.settle()
    status, reason, message = sim.condition(BGPPeer, "tor9", "Accepted")
    assert (status, reason) == ("False", "NoMatchingNode")
    assert "label a node" in message


def test_a_node_without_an_address_of_the_peers_family_says_so() -> None:
    sim = two_racks()
    sim.add_node("n9", 99, families="4")
    add_peer(sim, "tor6", address="fd00:10:10::1", as_number=65001)
    sim.settle()
    status, reason, message = sim.condition(BGPPeer, "tor6", "Accepted")
    assert (status, reason) == ("False", "NodeWithoutAddress")
    assert "Node n9: no InternalIP of family ipv6" in message
    assert len(sessions(sim, "n0")) == 1
    assert sessions(sim, "n9") == ()


def test_a_node_does_not_peer_with_itself() -> None:
    sim = two_racks()
    add_peer(sim, "odd", address="10.10.0.11", as_number=65001)
    sim.settle()
    assert sessions(sim, "n0") == ()
    assert sim.condition(BGPPeer, "odd", "Accepted")[:2] == ("False", "PeerIsNode")
    assert len(sessions(sim, "n1")) == 1


def test_an_address_written_in_a_long_form_is_the_same_address() -> None:
    sim = two_racks()
    add_peer(sim, "older", address="fd00:10:10::1", as_number=65001)
    add_peer(sim, "younger", address="fd00:10:10:0::1", as_number=65001)
    sim.settle()
    assert [s.address for s in sessions(sim, "n0")] == ["fd00:10:10::1"]
    assert sim.condition(BGPPeer, "younger", "Accepted")[1] == "AddressConflict"


def test_shutdown_withdraws_the_sessions_and_keeps_the_object() -> None:
    sim = two_racks()
    peer = add_peer(sim, "tor0", address="10.10.0.1", as_number=65001)
    sim.settle()
    assert sessions(sim, "n0")
    sim.put(msgspec.structs.replace(peer, spec=msgspec.structs.replace(peer.spec, shutdown=True)))
    sim.settle()
    assert sessions(sim, "n0") == ()
    assert sim.condition(BGPPeer, "tor0", "Established")[1] == "Shutdown"


def test_two_nodes_without_addresses_of_one_family_have_no_session_and_the_peer_says_so() -> None:
    sim = Simulation()
    sim.add_node("four", 11, families="4")
    sim.add_node("six", 12, families="6")
    sim.add_node("both", 13)
    add_peer(sim, "all", peer_selector=LabelSelector())
    sim.settle()
    assert {node: len(sessions(sim, node)) for node in ("four", "six", "both")} == {"four": 1, "six": 1, "both": 2}
    status, reason, message = sim.condition(BGPPeer, "all", "Accepted")
    assert (status, reason) == ("False", "NoSharedFamily")
    assert "Node four: InternalIPs of Node six" in message


def test_a_node_whose_kubelet_has_not_reported_yet_is_told_nothing_and_one_that_was_known_goes_on_as_before() -> None:
    sim = two_racks()
    add_peer(sim, "tor0", node_selector=rack("r0"), address="10.10.0.1", as_number=65001)
    sim.settle()
    before = sim.get(NodeNetwork, "n0").spec
    # The same name, made anew by hand: its addresses come with the kubelet's first report.
    sim.remove(Node, "n0")
    sim.add_node("n0", 11, families="", rack="r0")
    sim.add_node("new", 19, families="", rack="r0")
    sim.settle()
    after = sim.get(NodeNetwork, "n0").spec
    assert (after.addresses, after.router_id, after.sessions) == (before.addresses, before.router_id, before.sessions)
    assert {grant.cidr for grant in after.blocks} == {grant.cidr for grant in before.blocks}
    assert "new" not in {network.metadata.name for network in sim.all(NodeNetwork)}
    status = msgspec.structs.replace(sim.get(Node, "new").status, addresses=(NodeAddress("InternalIP", "10.10.0.19"),))
    sim.put(msgspec.structs.replace(sim.get(Node, "new"), status=status))
    sim.settle()
    assert [session.local_address for session in sessions(sim, "new")] == ["10.10.0.19"]


def test_what_the_nodes_report_becomes_the_peers_status() -> None:
    sim = two_racks()
    add_peer(sim, "tor0", node_selector=rack("r0"), address="10.10.0.1", as_number=65001)
    sim.settle()
    up = SessionStatus(peer="tor0", address="10.10.0.1", state="established")
    down = SessionStatus(
        peer="tor0", address="10.10.0.1", state="connecting", reason="WrongASN", message="peer says 65009"
    )
    report(sim, "n0", up)
    report(sim, "n1", down)
    sim.look()
    status = sim.get(BGPPeer, "tor0").status
    assert (status.nodes, status.sessions, status.established, status.summary) == (2, 2, 1, "1/2")
    message = sim.condition(BGPPeer, "tor0", "Established")[2]
    assert "Node n1 with 10.10.0.1: connecting WrongASN peer says 65009" in message
    assert "make spec.asNumber the router's AS" in message
    report(sim, "n1", up)
    sim.look()
    assert sim.condition(BGPPeer, "tor0", "Established")[:2] == ("True", "Established")


def test_a_mesh_of_more_than_a_hundred_nodes_gets_a_warning() -> None:
    sim = Simulation()
    sim.put(BGPConfiguration(metadata=Metadata(name="default")))
    for number in range(100):
        sim.add_node(f"n{number}", 1 + number)
    sim.settle()
    types = [c.type for c in sim.get(BGPConfiguration, "default").status.conditions]
    assert types == ["Accepted"]
    sim.add_node("one-more", 200)
    sim.settle()
    assert sim.condition(BGPConfiguration, "default", "MeshSize")[:2] == ("False", "MeshTooLarge")


def test_a_configuration_that_is_not_named_default_is_not_read_and_says_so() -> None:
    sim = two_racks()
    sim.put(BGPConfiguration(metadata=Metadata(name="other"), spec=BGPConfigurationSpec(as_number=65000)))
    sim.settle()
    assert sim.get(NodeNetwork, "n0").spec.as_number == 64512
    assert sim.condition(BGPConfiguration, "other", "Accepted")[:2] == ("False", "NameNotDefault")


def test_a_label_moves_a_node_from_one_peer_to_another() -> None:
    sim = two_racks()
    add_peer(sim, "tor0", node_selector=rack("r0"), address="10.10.0.1", as_number=65001)
    add_peer(sim, "tor1", node_selector=rack("r1"), address="10.10.1.1", as_number=65002)
    sim.settle()
    node = next(n for n in sim.inventory().nodes if n.metadata.name == "n0")
    sim.put(with_metadata(node, labels={"rack": "r1"}))
    sim.settle()
    assert [s.peer for s in sessions(sim, "n0")] == ["tor1"]


def test_a_node_keeps_no_more_sessions_than_its_object_may_hold_and_the_peer_says_so() -> None:
    sim = two_racks()
    for number in range(1030):
        add_peer(sim, f"tor{number:04}", node_selector=rack("r0"), address=f"10.20.{number // 200}.{number % 200 + 1}")
    sim.settle()
    assert len(sessions(sim, "n0")) == 1024
    assert sim.condition(BGPPeer, "tor1023", "Accepted")[0] == "True"
    status, reason, message = sim.condition(BGPPeer, "tor1024", "Accepted")
    assert (status, reason) == ("False", "TooManySessions")
    assert "Node n0" in message
