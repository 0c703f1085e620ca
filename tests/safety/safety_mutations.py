"""The rules of address safety, and what the code would do without each: the state machine has to notice every one.

The names say what goes wrong. Rules that stand for one another are taken away together.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import safety_agent
import safety_operator
from safety_server import Server

from controller.agent import ledger
from controller.kube import store
from controller.plan import blocks, claims, node, pools, reclaim
from controller.plan.cidrs import network_of
from controller.plan.claims import Claims
from controller.plan.inventory import Memory
from controller.plan.reclaim import Absent

Mutation = Callable[[pytest.MonkeyPatch], None]


def grants_before_the_agents_have_spoken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Memory, "is_settled", property(lambda self: True))


def grants_what_nodes_name(patch: pytest.MonkeyPatch) -> None:
    def only_locked(inventory: Any) -> tuple[Any, ...]:
        return tuple(network_of(block.spec.cidr) for block in inventory.blocks)

    patch.setattr(blocks, "taken_networks", only_locked)


def grants_from_pools_that_may_go(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(blocks, "is_grantable", lambda pool, ground: ground.verdicts[pool.metadata.name].is_accepted)


def accepts_pools_that_overlap(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pools, "_overlap_with_pools", lambda *_: None)


def overlooks_a_restored_backup(patch: pytest.MonkeyPatch) -> None:
    real = store.Shelf.replace

    def forward(self: Any, raws: Iterable[Any], version: int, since: int) -> store.Change:
        return msgspec.structs.replace(real(self, raws, version, since), rewound=False)

    patch.setattr(store.Shelf, "replace", forward)


def uses_again_what_was_given_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(node, "still_returned", lambda *_: frozenset())


def does_not_remember_what_it_gave_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(safety_agent, "after_giving_back", lambda returns, *_: returns)
    patch.setattr(node, "after_holding", lambda returns, *_: returns)


def gives_back_what_is_in_use(patch: pytest.MonkeyPatch) -> None:
    real = node.leaving_blocks
    patch.setattr(node, "leaving_blocks", lambda held, occupied: real(held, ()))


def gives_back_without_rest(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ledger, "REST_SECONDS", 0.0)


def drops_a_block_whose_lock_vanished(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(node, "held_blocks", lambda held, granted, occupied: tuple(granted))


def hears_no_claims(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(blocks, "claims_of", lambda *_, **__: Claims())


def creates_over_a_lock_and_asks_nobody_who_uses_it(patch: pytest.MonkeyPatch) -> None:
    real = Server.create

    def create(self: Server, body: Any) -> dict[str, Any]:
        self.objects.pop((type(body), body.metadata.name), None)
        return real(self, body)

    patch.setattr(Server, "create", create)
    patch.setattr(Claims, "contested", property(lambda self: set(), lambda self, value: None), raising=False)


def tells_an_owner_of_what_others_use(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Claims, "contested", property(lambda self: set(), lambda self, value: None), raising=False)


def deletes_whatever_has_the_name(patch: pytest.MonkeyPatch) -> None:
    real = Server.delete_by_operator

    def delete(self: Server, kind: Any, metadata: Any) -> None:
        real(self, kind, msgspec.structs.replace(metadata, uid="", resource_version=""))

    patch.setattr(Server, "delete_by_operator", delete)


def deletes_what_is_asked_back_without_an_answer(patch: pytest.MonkeyPatch) -> None:
    def delete(ground: Any, plan: Any, listed: Iterable[Any]) -> None:
        plan.deletes += [block for block in listed if block.spec.state == "Releasing"]

    patch.setattr(blocks, "_delete_released", delete)


def deletes_by_an_answer_to_an_earlier_question(patch: pytest.MonkeyPatch) -> None:
    def delete(ground: Any, plan: Any, listed: Iterable[Any]) -> None:
        for block in listed:
            network = ground.networks.get(block.spec.node.name)
            if network is not None and block.metadata.uid in network.status.released:
                plan.deletes.append(block)

    patch.setattr(blocks, "_delete_released", delete)


def assigns_from_blocks_that_are_asked_back(patch: pytest.MonkeyPatch) -> None:
    real = node.plan_node

    def plan(snapshot: Any, local: Any) -> node.NodePlan | None:
        made = real(snapshot, local)
        if made is None:
            return None
        return replace(made, blocks=tuple(msgspec.structs.replace(block, state="Active") for block in made.blocks))

    patch.setattr(safety_agent, "plan_node", plan)


def reclaims_without_the_margin(patch: pytest.MonkeyPatch) -> None:
    def due(absent: Absent, name: str, grace: int, margin: float) -> float:
        return absent.gone[name] + grace

    patch.setattr(blocks, "reclaim_due", due)


def reclaims_without_grace(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(blocks, "reclaim_due", lambda absent, name, grace, margin: absent.gone[name])


def forgets_which_grace_an_agent_heard(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reclaim, "_graces", lambda inventory: {})


def takes_a_shorter_grace_for_heard(patch: pytest.MonkeyPatch) -> None:
    def remembered(block: Any, network: Any, grace: int) -> int:
        return block.spec.deleted_node_grace if network is None else grace

    patch.setattr(blocks, "remembered_grace", remembered)


def goes_by_what_was_missing_in_another_term(patch: pytest.MonkeyPatch) -> None:
    real = Memory.next_term

    def begun(self: Memory, epoch: str, now: float) -> Memory:
        return replace(real(self, epoch, now), gone=self.gone, orphans=self.orphans)

    patch.setattr(Memory, "next_term", begun)


def takes_a_node_that_is_not_ready_for_gone(patch: pytest.MonkeyPatch) -> None:
    real = reclaim.absent_nodes

    def absent(inventory: Any, memory: Any, now: float) -> Any:
        nodes = tuple(node for node in inventory.nodes if node.is_ready)
        names = {node.metadata.name for node in nodes}
        networks = tuple(network for network in inventory.networks if network.metadata.name in names)
        return real(replace(inventory, nodes=nodes, networks=networks), memory, now)

    patch.setattr(blocks, "absent_nodes", absent)


def gives_up_as_soon_as_its_object_is_missing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(node, "is_given_up", lambda snapshot, now: snapshot.missing_since is not None)


def never_gives_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(node, "is_given_up", lambda snapshot, now: False)


def starts_without_asking_the_kernel(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(safety_agent.Agent, "_links", lambda self, held: [])


def gives_an_address_while_its_veth_is_there(patch: pytest.MonkeyPatch) -> None:
    def leave(self: Any, key: Any) -> tuple[Any, ...]:
        addresses = tuple(self._by_key.pop(key, ()))
        for address in addresses:
            del self._used[address]
        return addresses

    patch.setattr(ledger.Ledger, "_leave", leave)
    patch.setattr(ledger, "REST_SECONDS", 0.0)


def writes_without_the_lease(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(safety_operator.Operator, "may_write", lambda self, now: bool(self.memory.epoch))


def takes_an_answer_to_an_earlier_question_for_one(patch: pytest.MonkeyPatch) -> None:
    real = claims._unlocked

    def answered(network: Any) -> Any:
        status = msgspec.structs.replace(network.status, observed_generation=network.metadata.generation)
        asked = {grant.uid for grant in network.spec.blocks if grant.state == "Releasing"}
        released = tuple(uid for uid in network.status.released if network.is_answered or uid in asked)
        return real(msgspec.structs.replace(network, status=msgspec.structs.replace(status, released=released)))

    patch.setattr(claims, "_unlocked", answered)


MUTATIONS: tuple[Mutation, ...] = (
    grants_before_the_agents_have_spoken,
    grants_what_nodes_name,
    grants_from_pools_that_may_go,
    accepts_pools_that_overlap,
    overlooks_a_restored_backup,
    uses_again_what_was_given_back,
    does_not_remember_what_it_gave_back,
    gives_back_what_is_in_use,
    gives_back_without_rest,
    drops_a_block_whose_lock_vanished,
    hears_no_claims,
    creates_over_a_lock_and_asks_nobody_who_uses_it,
    tells_an_owner_of_what_others_use,
    deletes_whatever_has_the_name,
    deletes_what_is_asked_back_without_an_answer,
    deletes_by_an_answer_to_an_earlier_question,
    takes_an_answer_to_an_earlier_question_for_one,
    assigns_from_blocks_that_are_asked_back,
    reclaims_without_the_margin,
    reclaims_without_grace,
    forgets_which_grace_an_agent_heard,
    takes_a_shorter_grace_for_heard,
    goes_by_what_was_missing_in_another_term,
    takes_a_node_that_is_not_ready_for_gone,
    gives_up_as_soon_as_its_object_is_missing,
    never_gives_up,
    starts_without_asking_the_kernel,
    gives_an_address_while_its_veth_is_there,
    writes_without_the_lease,
)
