"""What the oracle looks for is noticed, where a lab can't be brought into that state without harm to other tests."""

import oracle


def test_the_oracle_knows_blocks_that_overlap_or_are_on_two_nodes_and_addresses_outside_them() -> None:
    good = ["10.244.0.0/26", "10.244.0.64/26", "fd00::/122", "fd00::40/122"]
    assert oracle.blocks_overlapping(good) == set()
    assert oracle.blocks_overlapping([*good, "10.244.0.64/27"]) == {("BlocksOverlap", "10.244.0.64/26 10.244.0.64/27")}
    assert oracle.blocks_on_two_nodes({"n0": {"10.244.0.0/26"}, "n1": {"10.244.0.64/26"}}) == set()
    twice = {"n0": {"fd00::/122"}, "n1": {"fd00::/122", "10.244.0.64/26"}}
    assert oracle.blocks_on_two_nodes(twice) == {("BlockOnTwoNodes", "fd00::/122")}
    blocks = [("10.244.0.0/26", "n0"), ("10.244.0.64/26", "n1")]
    inside = {"n0": [("podr1", "uid", ["10.244.0.5"])], "n1": [("podr2", "other", ["10.244.0.70"])]}
    assert oracle.addresses_outside_blocks(inside, blocks) == set()
    exchanged = {"n0": inside["n1"], "n1": inside["n0"]}
    assert {what for _, what in oracle.addresses_outside_blocks(exchanged, blocks)} == {"10.244.0.5", "10.244.0.70"}
