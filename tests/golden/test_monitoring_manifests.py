"""What Prometheus and Grafana are offered: their own code accepts it, and every metric that is asked for exists."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from controller.agent.files import RunFolder
from controller.agent.health import StateCollector
from controller.agent.state import State
from controller.lab.programs import CLUSTER, MONITORING, Program, ensure_programs, program_path
from controller.operator.health import Metrics

FOLDER = Path(__file__).parents[2] / "manifests" / "overlays" / "monitoring"
KUBECTL = next(program for program in CLUSTER if program.name == "kubectl")
RULES, MONITOR, DASHBOARD = (FOLDER / name for name in ("alerts.yaml", "podmonitor.yaml", "dashboard.json"))


def built_program(program: Program) -> Path:
    """Its path; what is not built is left out in a hurry."""
    if not program_path(program).exists() and os.environ.get("PODROUTE_QUICK"):
        pytest.skip(f"{program.name} is not built")
    return ensure_programs([program], print)[program.name]


def checked(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Prometheus' and its operator's own reading of it (controller/lab/go/monitoring)."""
    argv = [str(built_program(MONITORING)), *arguments]
    return subprocess.run(argv, input=text, capture_output=True, text=True, timeout=60, check=False)


def metrics_asked(*arguments: str, text: str = "") -> Mapping[str, list[str]]:
    done = checked(*arguments, text=text)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def offered(tmp_path: Path) -> set[str]:
    """Every name that operator and agent have, as they say it themselves."""
    registry = CollectorRegistry()
    registry.register(StateCollector(State("n0", RunFolder(tmp_path), lambda: 0.0)))
    text = generate_latest(registry).decode() + generate_latest(Metrics().registry).decode()
    kinds = dict(line.split()[2:4] for line in text.splitlines() if line.startswith("# TYPE"))
    return {*kinds, *(f"{name}_bucket" for name, kind in kinds.items() if kind == "histogram")}


def panels() -> list[str]:
    return [target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]]


def test_prometheus_and_its_operator_accept_alerts_and_pod_monitor_and_each_metric_exists(tmp_path: Path) -> None:
    asked = metrics_asked(str(RULES), str(MONITOR))
    assert len(asked) == len(yaml.safe_load(RULES.read_text())["spec"]["groups"][0]["rules"])
    # `up` is Prometheus' own.
    assert {name for names in asked.values() for name in names} <= offered(tmp_path) | {"up"}
    assert all(asked.values())


def test_the_dashboard_asks_for_every_metric_there_is_and_no_other(tmp_path: Path) -> None:
    asked = metrics_asked("-", text="\n".join(panels()))
    assert set(asked) == set(panels())
    shown = {name for names in asked.values() for name in names}
    assert shown <= offered(tmp_path)
    # The client library's own times of creation are nobody's business.
    there = {name for name in offered(tmp_path) if not name.endswith(("_created", "_bucket"))}
    assert there == {name.removesuffix("_bucket") for name in shown}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("podroute_agent_ready == 0", "podroute_agent_ready =="), "parse error"),
        (("          for: 5m", "          forr: 5m"), "unknown field"),
        (("{{ $labels.node }}", "{{ $labels.node "), "template"),
    ],
    ids=["an expression cut off", "a field of another name", "a template cut off"],
)
def test_the_checker_refuses_alerts_that_are_wrong(tmp_path: Path, change: tuple[str, str], why: str) -> None:
    text = RULES.read_text()
    assert change[0] in text
    (tmp_path / "alerts.yaml").write_text(text.replace(*change, 1))
    done = checked(str(tmp_path / "alerts.yaml"))
    assert done.returncode == 1
    assert why in done.stderr


def test_the_overlay_is_podroute_with_all_of_it() -> None:
    argv = [str(built_program(KUBECTL)), "kustomize", str(FOLDER)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    built = {(each["kind"], each["metadata"]["name"]) for each in yaml.safe_load_all(done.stdout)}
    assert {
        ("DaemonSet", "podroute-agent"),
        ("Service", "podroute-agent-metrics"),
        ("PodMonitor", "podroute"),
        ("PrometheusRule", "podroute"),
        ("ConfigMap", "podroute-dashboard"),
    } <= built, sorted(built)


def test_every_alert_says_what_to_do_first() -> None:
    rules = yaml.safe_load(RULES.read_text())["spec"]["groups"][0]["rules"]
    assert len(rules) > 8
    for rule in rules:
        assert len(rule["annotations"]["runbook"]) > 40, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
