"""Blocks that this node gave back, and when it may use one of them again. Pure; part of `controller.plan.node`.

A block that was reported as released may be another node's at once. An API server that was restored from an older backup lists it
here again all the same, Active and with the old UID. So the node remembers what it gave back, and in answer to what:

    spec that lists the block as Active       what it is
    same epoch, later generation              the operator took its question back: the block is used again
    same epoch, same or earlier generation    an old object: the block stays given back
    an epoch that was heard before            an old object
    an epoch that was never heard before      the operator's new term; after `SETTLE_SECONDS` it has heard every node's claims, and
                                              what it still grants then is granted
"""

import msgspec

from controller.api.nodenetwork import BlockGrant, NodeNetwork

# The operator settles within 60 s of a new epoch, by every Ready node's echo or by time; it then needs a moment to write.
SETTLE_SECONDS = 90.0
# What is remembered at most: a node gives back a few blocks a day.
MOST_RETURNS = 1024
MOST_EPOCHS = 256


class Return(msgspec.Struct, frozen=True, omit_defaults=True):
    """The NodeNetwork in answer to which a block was given back."""

    object_uid: str
    generation: int
    epoch: str


class Returns(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was given back, by the IPBlock's UID; the epochs that were heard, the present one last.

    `former` are UIDs of IPBlocks by which blocks were held before, and by which these are held now.
    `since` is when the present epoch was first heard (CLOCK_MONOTONIC seconds), None if an older one came back.
    """

    blocks: dict[str, Return] = {}
    former: dict[str, str] = {}
    epochs: tuple[str, ...] = ()
    since: float | None = None


def asked_back(block: BlockGrant) -> BlockGrant:
    """The block as one that is to be given back."""
    return msgspec.structs.replace(block, state="Releasing")


def after_holding(
    returns: Returns, before: tuple[BlockGrant, ...], now: tuple[BlockGrant, ...], answer: Return
) -> Returns:
    """What is remembered when the node holds the blocks `now` and held those of `before`.

    A block that got another IPBlock (deleted by hand, an older backup restored) is known by the former one, too: a later backup may
    list that. And one that no spec lists any more and that was empty is given back, though nobody asked.
    """
    held = {block.cidr: block.uid for block in now}
    renamed = {b.uid: held[b.cidr] for b in before if held.get(b.cidr, b.uid) != b.uid}
    if renamed:
        former = {old: renamed.get(new, new) for old, new in returns.former.items()} | renamed
        kept = dict([(old, new) for old, new in former.items() if old != new][-MOST_RETURNS:])
        returns = msgspec.structs.replace(returns, former=kept)
    return after_giving_back(returns, tuple(block.uid for block in before if block.cidr not in held), answer)


def after_hearing(returns: Returns, epoch: str, now: float) -> Returns:
    """What is remembered once the API server has shown a spec of `epoch`."""
    if returns.epochs[-1:] == (epoch,):
        return returns
    is_old = epoch in returns.epochs
    epochs = (*(each for each in returns.epochs if each != epoch), epoch)
    return msgspec.structs.replace(returns, epochs=epochs[-MOST_EPOCHS:], since=None if is_old else now)


def after_giving_back(returns: Returns, uids: tuple[str, ...], answer: Return) -> Returns:
    """What is remembered once `uids` are reported as released; one that was reported before keeps its first answer."""
    every = (*uids, *(old for old, new in returns.former.items() if new in uids))
    fresh = {uid: answer for uid in every if uid not in returns.blocks}
    if not fresh:
        return returns
    blocks = dict([*returns.blocks.items(), *fresh.items()][-MOST_RETURNS:])
    former = {old: new for old, new in returns.former.items() if old not in fresh}
    return msgspec.structs.replace(returns, blocks=blocks, former=former)


def after_taking_back(returns: Returns, uids: frozenset[str]) -> Returns:
    """What is remembered once blocks are used again."""
    if uids.isdisjoint(returns.blocks):
        return returns
    kept = {uid: answer for uid, answer in returns.blocks.items() if uid not in uids}
    return msgspec.structs.replace(returns, blocks=kept)


def still_returned(returns: Returns, node: NodeNetwork, now: float) -> frozenset[str]:
    """UIDs of blocks that the spec lists and that are given back all the same."""
    return frozenset(
        grant.uid
        for grant in node.spec.blocks
        if (answer := returns.blocks.get(grant.uid)) and not _is_granted_again(grant, answer, returns, node, now)
    )


def decided_at(returns: Returns) -> float | None:
    """When the operator's present word counts; None if it never will, being an old one."""
    return None if returns.since is None else returns.since + SETTLE_SECONDS


def _is_granted_again(grant: BlockGrant, answer: Return, returns: Returns, node: NodeNetwork, now: float) -> bool:
    if grant.state != "Active":
        return False
    if node.spec.epoch == answer.epoch:
        return node.metadata.uid == answer.object_uid and node.metadata.generation > answer.generation
    due = decided_at(returns)
    return due is not None and now >= due
