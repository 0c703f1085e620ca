"""Results are rendered for every version that is supported, as the golden files say; calls and answers survive their frames."""

import json
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.cni import protocol
from controller.cni.protocol import Answer, Call, FramingError
from controller.cni.result import (
    SUPPORTED_VERSIONS,
    CniError,
    ErrorCode,
    Success,
    rendered_error,
    rendered_success,
    rendered_versions,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "cni"
DUAL_STACK = Success(
    host_interface="podr0123456789a",
    host_mac=bytes.fromhex("020000000001"),
    interface="eth0",
    pod_mac=bytes.fromhex("060000000001"),
    netns="/run/netns/pod",
    mtu=1450,
    addresses=(ip_address("10.1.0.1"), ip_address("fd00:1::1")),
    gateways=(ip_address("169.254.1.1"), ip_address("fe80::a9fe:101")),
)


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_the_result_is_the_golden_one(version: str) -> None:
    shown = json.dumps(json.loads(rendered_success(DUAL_STACK, version)), indent=2) + "\n"
    assert shown == (GOLDEN / f"add-{version}.json").read_text()


def test_a_pod_of_one_family_has_the_route_of_that_family_alone() -> None:
    only = Success("h", b"\x02" * 6, "eth0", b"\x06" * 6, "/n", 1500, (ip_address("fd00:1::1"),), DUAL_STACK.gateways)
    document = json.loads(rendered_success(only, "1.1.0"))
    assert document["routes"] == [{"dst": "::/0", "gw": "fe80::a9fe:101"}]
    assert [entry["address"] for entry in document["ips"]] == ["fd00:1::1/128"]


def test_versions_and_errors_are_what_the_specification_asks_for() -> None:
    assert json.loads(rendered_versions("0.4.0")) == {
        "cniVersion": "0.4.0",
        "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
    }
    error = CniError(ErrorCode.TRY_AGAIN, 'no block "x"', "wait\nfor the operator")
    assert json.loads(rendered_error(error, "1.0.0")) == {
        "cniVersion": "1.0.0",
        "code": 11,
        "msg": 'no block "x"',
        "details": "wait\nfor the operator",
    }


names = st.from_regex(r"CNI_[A-Z]{1,8}", fullmatch=True)
values = st.text(st.characters(exclude_characters="\0", codec="utf-8"))


@given(st.dictionaries(names, values), st.binary())
def test_a_call_survives_its_frame(environment: dict[str, str], stdin: bytes) -> None:
    frame = protocol.encoded_call(Call({**environment, "PATH": "/bin"}, stdin))
    header, body = frame[: protocol.LENGTH_SIZE], frame[protocol.LENGTH_SIZE :]
    assert protocol.body_length(header) == len(body)
    assert protocol.decoded_call(body) == Call(environment, stdin)


@given(st.integers(0, 255), st.binary())
def test_an_answer_survives_its_frame(code: int, stdout: bytes) -> None:
    frame = protocol.encoded_answer(Answer(code, stdout))
    assert protocol.decoded_answer(frame[protocol.LENGTH_SIZE :]) == Answer(code, stdout)


@given(st.binary())
def test_bytes_that_are_no_call_are_refused_as_such(body: bytes) -> None:
    try:
        call = protocol.decoded_call(body)
    except FramingError:
        return
    assert body.endswith(b"\0" + call.stdin)


def test_a_length_beyond_the_limit_is_refused_and_the_limit_itself_is_not() -> None:
    assert protocol.body_length((1 << 20).to_bytes(4)) == 1 << 20
    with pytest.raises(FramingError, match="at most 1048576"):
        protocol.body_length(((1 << 20) + 1).to_bytes(4))
    with pytest.raises(FramingError, match="without exit code"):
        protocol.decoded_answer(b"")
