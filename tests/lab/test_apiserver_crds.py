"""What `kubectl apply` itself answers to bad input, beside the nearest good input, which is accepted."""

import json
import re
from pathlib import Path

import pytest
from apiserver_world import REPOSITORY, World
from refused_inputs import IMMUTABLE, TABLE, body, peer, pool

pytestmark = [pytest.mark.root]

RECORDS = sorted((REPOSITORY / "tests" / "golden" / "stored").glob("*.json"))


@pytest.mark.parametrize("case", TABLE)
def test_bad_input_is_refused_by_name_and_its_nearest_good_input_is_taken(server: World, case: str) -> None:
    bad, good, words = TABLE[case]
    said = server.apply_refused(bad)
    assert bad["kind"] in said
    missing = [word for word in words if word not in said]
    assert not missing, f"{missing} not in: {said}"
    server.apply(good)
    server.kubectl("delete", good["kind"].lower(), good["metadata"]["name"])


@pytest.mark.parametrize("case", IMMUTABLE)
def test_a_field_that_can_not_change_says_what_to_do_instead(server: World, case: str) -> None:
    before, after, words = IMMUTABLE[case]
    server.apply(before)
    assert words in server.apply_refused(after)
    server.apply({**before, "metadata": {**before["metadata"], "labels": {"another": "change"}}})
    server.kubectl("delete", before["kind"].lower(), before["metadata"]["name"])


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_the_kinds_have_every_field_that_an_earlier_version_stored(server: World, path: Path) -> None:
    strictly = ("--server-side", "--validate=strict", "--field-manager=test", "-f", "-")
    for raw in json.loads(path.read_text())["objects"]:
        kept = {**raw, "metadata": {"name": raw["metadata"]["name"]}}
        status = {key: kept.pop(key) for key in ("status",) if key in kept}
        server.kubectl("apply", *strictly, text=json.dumps(kept))
        if status:
            server.kubectl("apply", "--subresource=status", *strictly, text=json.dumps({**kept, **status}))
        now = server.get(raw["kind"].lower(), raw["metadata"]["name"])
        assert {key: now.get(key) for key in ("spec", "status")} == {key: raw.get(key) for key in ("spec", "status")}
        server.kubectl("delete", raw["kind"].lower(), raw["metadata"]["name"])


def indented(page: str) -> list[str]:
    """The page's indented paragraphs: what a reader would copy."""
    found = re.findall(r"(?:^    .*\n)+", page, re.MULTILINE)
    return [re.sub("^    ", "", text, flags=re.MULTILINE) for text in found]


OBJECTS_OF_PAGES = [
    pytest.param(re.sub("(?m)^(kubectl apply.*|EOF)\n", "", text), id=f"{page.stem}-{number}")
    for page in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
    for number, text in enumerate(indented(page.read_text()))
    if "apiVersion: podroute.dev" in text
]


def test_pages_show_objects() -> None:
    assert {str(each.id).rpartition("-")[0] for each in OBJECTS_OF_PAGES} >= {"peering", "monitoring"}


@pytest.mark.parametrize("text", OBJECTS_OF_PAGES)
def test_the_server_takes_the_objects_that_pages_show_word_for_word(server: World, text: str) -> None:
    strictly = ("apply", "--dry-run=server", "--validate=strict", "-o", "name", "-f", "-")
    assert server.kubectl(*strictly, text=text).strip()
    assert "unknown field" in server.refused(*strictly, text=text.replace("spec:", "spek:"))


def test_kubectl_explain_teaches(server: World) -> None:
    said = server.kubectl("explain", "ippool.spec")
    for word in ("blockSize", "Default 26 for", "masquerade", "no other pool"):
        assert word.lower() in said.lower()
    assert "TCP MD5" in server.kubectl("explain", "bgppeer.spec.passwordSecretRef")


def test_defaults_are_filled_in_by_the_server(server: World) -> None:
    server.apply(body("BGPConfiguration", "default"), peer())
    spec = server.get("bgpconfiguration", "default")["spec"]
    assert (spec["asNumber"], spec["nodeMesh"], spec["holdTime"], spec["gracefulRestart"]) == (
        64512,
        "Auto",
        9,
        {"time": 120},
    )
    assert server.get("bgppeer", "x")["spec"]["port"] == 179
    server.kubectl("delete", "bgpconfiguration", "default")
    server.kubectl("delete", "bgppeer", "x")


def test_the_first_columns_answer_the_first_question(server: World) -> None:
    server.apply(pool(cidr="10.244.0.0/16"), peer())
    assert server.kubectl("get", "ippools").split()[:6] == ["NAME", "CIDR", "BLOCKS", "IN", "USE", "ACCEPTED"]
    assert server.kubectl("get", "bgppeers").split()[:4] == ["NAME", "ADDRESS", "AS", "ESTABLISHED"]
    server.kubectl("delete", "ippool,bgppeer", "x")
