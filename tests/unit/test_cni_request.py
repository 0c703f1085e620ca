"""A CNI call becomes a typed request, or an error with the specification's code that names field, value and remedy."""

import json
import re
from typing import Any

import pytest

from controller.cni.protocol import Call
from controller.cni.request import Command, Pod, Request, request_in, version_in
from controller.cni.result import CniError, ErrorCode

ENVIRONMENT = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c0ffee",
    "CNI_IFNAME": "eth0",
    "CNI_NETNS": "/run/netns/pod",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u-1;K8S_POD_INFRA_CONTAINER_ID=c0ffee",
    "CNI_PATH": "/opt/cni/bin",
}
CONFIGURATION: dict[str, Any] = {"cniVersion": "1.1.0", "name": "podroute", "type": "podroute"}
ATTACHMENT = {"containerID": "c0ffee", "ifname": "eth0"}


def request(
    environment: dict[str, str] | None = None, stdin: object = None, netns_fd: int | None = 7, **more: Any
) -> Request:
    """The request of a good call with something changed; a value of None removes a variable or field."""
    variables = {**ENVIRONMENT, **(environment or {})}
    document = {key: value for key, value in {**CONFIGURATION, **more}.items() if value is not None}
    text = stdin if isinstance(stdin, bytes) else json.dumps(document).encode()
    return request_in(Call({key: value for key, value in variables.items() if value is not None}, text), netns_fd)


def test_a_good_addition_is_understood_whole() -> None:
    annotations = {"podroute.dev/pools": "blue"}
    got = request(runtimeConfig={"io.kubernetes.cri.pod-annotations": annotations, "portMappings": []})

    assert (got.command, got.container_id, got.interface) == (Command.ADD, "c0ffee", "eth0")
    assert (got.netns, got.netns_fd) == ("/run/netns/pod", 7)
    assert got.pod == Pod("default", "web-0", "u-1")
    assert (got.configuration.cni_version, got.configuration.name) == ("1.1.0", "podroute")
    assert got.configuration.annotations == annotations
    assert got.configuration.prev_result is None
    assert got.configuration.valid_attachments is None


def test_a_call_of_no_kubernetes_has_no_pod_and_no_annotations() -> None:
    got = request({"CNI_ARGS": ""})
    assert got.pod == Pod("", "", "")
    assert got.configuration.annotations == {}


def test_a_deletion_needs_no_namespace() -> None:
    assert request({"CNI_COMMAND": "DEL", "CNI_NETNS": ""}, netns_fd=None).netns_fd is None


def test_a_check_has_the_result_of_the_addition() -> None:
    got = request({"CNI_COMMAND": "CHECK"}, prevResult={"ips": []})
    assert got.configuration.prev_result == {"ips": []}


def test_a_collection_has_what_is_to_be_kept() -> None:
    got = request({"CNI_COMMAND": "GC", "CNI_CONTAINERID": ""}, **{"cni.dev/valid-attachments": [ATTACHMENT]})
    assert got.configuration.valid_attachments == {("c0ffee", "eth0")}
    none = request({"CNI_COMMAND": "GC"}, **{"cni.dev/valid-attachments": []})
    assert none.configuration.valid_attachments == frozenset()
    assert request({"CNI_COMMAND": "GC"}).configuration.valid_attachments is None


@pytest.mark.parametrize("command", ["STATUS", "VERSION"])
def test_status_and_version_need_no_container(command: str) -> None:
    environment = {"CNI_COMMAND": command, "CNI_CONTAINERID": "", "CNI_IFNAME": "", "CNI_NETNS": "", "CNI_ARGS": ""}
    assert request(environment, netns_fd=None).command is Command(command)


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_every_supported_version_is_accepted(version: str) -> None:
    assert request(cniVersion=version).configuration.cni_version == version


ENVIRONMENT_ERRORS = [
    ({"CNI_COMMAND": ""}, "CNI_COMMAND=''", "ADD, DEL, CHECK, GC, STATUS, VERSION"),
    ({"CNI_COMMAND": "UPDATE"}, "CNI_COMMAND='UPDATE'", "use one of"),
    ({"CNI_CONTAINERID": ""}, "CNI_CONTAINERID=''", "letter or digit first"),
    ({"CNI_CONTAINERID": "../x"}, "CNI_CONTAINERID='../x'", "letter or digit first"),
    ({"CNI_CONTAINERID": "a b"}, "CNI_CONTAINERID='a b'", "letter or digit first"),
    ({"CNI_IFNAME": ""}, "CNI_IFNAME=''", "1 to 15"),
    ({"CNI_IFNAME": "sixteen-letters-"}, "CNI_IFNAME='sixteen-letters-'", "1 to 15"),
    ({"CNI_IFNAME": "a/b"}, "CNI_IFNAME='a/b'", "without '/'"),
    ({"CNI_IFNAME": ".."}, "CNI_IFNAME='..'", "e.g. eth0"),
    ({"CNI_ARGS": "K8S_POD_NAME"}, "CNI_ARGS='K8S_POD_NAME'", "KEY=VALUE"),
]


@pytest.mark.parametrize(("change", "said", "remedy"), ENVIRONMENT_ERRORS)
def test_a_bad_variable_is_named_with_value_and_remedy(change: dict[str, str], said: str, remedy: str) -> None:
    with pytest.raises(CniError, match=re.escape(said)) as caught:
        request(change)
    assert caught.value.code is ErrorCode.INVALID_ENVIRONMENT
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_a_namespace_that_can_not_be_opened_is_named(command: str) -> None:
    with pytest.raises(CniError, match="CNI_NETNS='/run/netns/pod'") as caught:
        request({"CNI_COMMAND": command}, netns_fd=None, prevResult=None if command == "ADD" else {})
    assert caught.value.code is ErrorCode.INVALID_ENVIRONMENT


INPUT_ERRORS = [
    (b"", ErrorCode.DECODE_FAILURE, "begins with ''"),
    (b'{"cniVersion": "1.1.0", ', ErrorCode.DECODE_FAILURE, "no JSON"),
    (b"\xff\xfe{}", ErrorCode.DECODE_FAILURE, "no JSON"),
    (b"[]", ErrorCode.DECODE_FAILURE, "is a list, not a JSON object"),
    (b"7", ErrorCode.DECODE_FAILURE, "is a number, not a JSON object"),
    (b"[" * 100_000, ErrorCode.DECODE_FAILURE, "no JSON"),
]


@pytest.mark.parametrize(("stdin", "code", "said"), INPUT_ERRORS, ids=[str(case[0][:12]) for case in INPUT_ERRORS])
def test_standard_input_that_is_no_configuration_is_refused(stdin: bytes, code: ErrorCode, said: str) -> None:
    with pytest.raises(CniError, match=re.escape(said)) as caught:
        request(stdin=stdin)
    assert caught.value.code is code
    assert caught.value.remedy


FIELD_ERRORS = [
    ({"cniVersion": "2.0.0"}, ErrorCode.INCOMPATIBLE_VERSION, "cniVersion '2.0.0'", "0.3.1, 0.4.0, 1.0.0, 1.1.0"),
    ({"cniVersion": None}, ErrorCode.INCOMPATIBLE_VERSION, "cniVersion '0.1.0'", "use one of"),
    ({"cniVersion": 1}, ErrorCode.INVALID_CONFIGURATION, "cniVersion = 1 is a number", "give a string"),
    ({"name": None}, ErrorCode.INVALID_CONFIGURATION, 'name = "" is missing', "name the network"),
    ({"name": ["x"]}, ErrorCode.INVALID_CONFIGURATION, 'name = ["x"] is a list', "give a string"),
    ({"runtimeConfig": "x"}, ErrorCode.INVALID_CONFIGURATION, 'runtimeConfig = "x" is a string', "give an object"),
    (
        {"runtimeConfig": {"io.kubernetes.cri.pod-annotations": []}},
        ErrorCode.INVALID_CONFIGURATION,
        "runtimeConfig.io.kubernetes.cri.pod-annotations = [] is a list",
        "give an object",
    ),
    (
        {"runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"a": 1}}},
        ErrorCode.INVALID_CONFIGURATION,
        "['a'] = 1 is no string",
        "quote the value",
    ),
    ({"prevResult": {}}, ErrorCode.INVALID_CONFIGURATION, "prevResult", "put podroute first"),
    ({"prevResult": 3}, ErrorCode.INVALID_CONFIGURATION, "prevResult = 3 is a number", "give an object"),
]


@pytest.mark.parametrize(("change", "code", "said", "remedy"), FIELD_ERRORS)
def test_a_bad_field_is_named_with_value_and_remedy(
    change: dict[str, Any], code: ErrorCode, said: str, remedy: str
) -> None:
    with pytest.raises(CniError, match=re.escape(said)) as caught:
        request(**change)
    assert caught.value.code is code
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("command", "version"), [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0"), ("STATUS", "0.4.0")]
)
def test_an_operation_that_its_version_does_not_have_is_refused(command: str, version: str) -> None:
    with pytest.raises(CniError, match=f"'{version}' has no {command}") as caught:
        request({"CNI_COMMAND": command}, cniVersion=version)
    assert caught.value.code is ErrorCode.INCOMPATIBLE_VERSION


def test_a_check_without_the_result_of_the_addition_is_refused() -> None:
    with pytest.raises(CniError, match="prevResult = null is missing"):
        request({"CNI_COMMAND": "CHECK"})


@pytest.mark.parametrize("listed", [{}, ["c0ffee"], [{"containerID": "c0ffee"}], [{**ATTACHMENT, "ifname": 1}]])
def test_a_collection_without_a_good_list_is_refused_rather_than_taken_as_empty(listed: object) -> None:
    with pytest.raises(CniError, match=re.escape("cni.dev/valid-attachments")) as caught:
        request({"CNI_COMMAND": "GC"}, **{"cni.dev/valid-attachments": listed})
    assert caught.value.code is ErrorCode.INVALID_CONFIGURATION


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        (b'{"cniVersion":"0.4.0"}', "0.4.0"),
        (b'{ "cniVersion" :\n\t"9.9.9", ', "9.9.9"),
        (b'{"cniVersion": 1, "prevResult": {"cniVersion": "1.0.0"}}', "1.0.0"),
        (b'{"cniVersion": "x.y"}', "1.1.0"),
        (b"", "1.1.0"),
    ],
)
def test_an_answer_is_in_the_version_that_the_input_names_even_if_it_is_no_json(stdin: bytes, version: str) -> None:
    assert version_in(stdin) == version
