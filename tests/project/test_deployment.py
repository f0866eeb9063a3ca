"""The files of `docker/`: valid by the schemas of those who read them, and about things that exist."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from connectors.journal.progress import SourceProgress
from connectors.journal.segments import Position
from connectors.kafka.spool import Spool
from flows.analytics.rules import RULES as RULES_OF_ALERTS
from flows.monitoring.metrics import Metrics
from flows.settings.loading import parse_settings
from flows.state import StateLayout

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
MANIFESTS = sorted(
    path
    for path in (DOCKER / "kubernetes").rglob("*.yaml")
    if path.name not in ("kustomization.yaml", "spread.yaml", "instance.yaml")
)
DASHBOARD = json.loads((DOCKER / "grafana/dashboards/voicewatch.json").read_text())
RULES = yaml.safe_load((DOCKER / "prometheus/rules.yml").read_text())["groups"][0]["rules"]


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@functools.cache
def schema(name: str) -> Any:
    return json.loads((ROOT / "tests/schemas" / name).read_text())


def check_manifest(manifest: dict[str, Any]) -> None:
    """Hold a manifest to the schema of its kind. Raises ValidationError."""
    definitions = schema("kubernetes-1.34.json")
    group, _, version = manifest["apiVersion"].rpartition("/")
    api = f"{group.partition('.')[0] or 'core'}.{version}"
    root = {**definitions, "$ref": f"#/$defs/io.k8s.api.{api}.{manifest['kind']}"}
    jsonschema.Draft202012Validator(root).validate(manifest)


def check_compose(compose: dict[str, Any]) -> None:
    """Hold a Compose file to the specification. Raises ValidationError."""
    specification = schema("compose-spec.json")
    jsonschema.validators.validator_for(specification)(specification).validate(compose)


def everything() -> Metrics:
    """Metrics with all that a run can have."""
    progress = SourceProgress(DOCKER, default_feed="voice-events")
    progress.begin(Position(""))
    metrics = Metrics("0", 0)
    state = tempfile.mkdtemp()
    Spool(StateLayout(Path(state)).spool("windows")).close()
    metrics.watch_state(StateLayout(Path(state)), progress)
    metrics.watch_token(lambda: 0.0)
    metrics.watch_feeds({"voice-events": dict}, lambda: 0)
    metrics.feed_expected("voice-events")
    metrics.receivers({})
    metrics.expect_alerts(RULES_OF_ALERTS)
    return metrics


@functools.cache
def known_samples() -> dict[str, dict[str, set[str]]]:
    """The labels of every sample that there can be, with the values known."""
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(everything().text().decode()):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return found


def known_metrics() -> set[str]:
    """The names of all metrics, as an operator looks them up: histograms without the endings of their samples."""
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in known_samples()}


def selectors(expression: str) -> list[tuple[str, dict[str, str]]]:
    """The metrics that a PromQL expression names, each with its label matchers."""
    found = re.findall(r"\b((?:voicewatch|process)_[a-z_]+)(?:\{([^}]*)\})?", expression)
    return [(name, dict(re.findall(r'(\w+)=~?"([^"]*)"', labels))) for name, labels in found]


def expressions() -> list[str]:
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    return [*panels, *(rule["expr"] for rule in RULES)]


@pytest.mark.parametrize("expression", expressions())
def test_panels_and_rules_ask_for_what_there_is(expression: str) -> None:
    """Every metric of a panel or a rule exists, with the labels and the values it is asked for."""
    asked = selectors(expression)
    assert asked or expression.startswith("up{")
    for name, matchers in asked:
        assert name in known_samples(), name
        labels = known_samples()[name]
        for label, value in matchers.items():
            if label in ("instance", "job"):
                continue
            assert set(value.split("|")) <= labels[label], (name, label, value)
    for group in re.findall(r"\bby \(([^)]*)\)", expression):
        for label in group.split(", "):
            assert label == "instance" or any(label in known_samples()[name] for name, _ in asked), label


def test_every_metric_is_shown() -> None:
    """The dashboard leaves none of ours out, but for the version, by which it finds the processes."""
    shown = {name for text in expressions() for name, _ in selectors(text)}
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown}
    ours = {name for name in known_metrics() if name.startswith("voicewatch_")}
    assert ours - families == {"voicewatch_info"}


def test_the_dashboard_is_whole() -> None:
    """Panels have ids of their own, a data source and a place that no other has."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
    assert all(panel["targets"] and panel["datasource"]["uid"] for panel in panels if panel["type"] != "row")


def test_every_rule_says_what_it_is_about_and_is_in_the_operations_page() -> None:
    """A rule has a severity and a summary, and the page says what to do about it."""
    page = (ROOT / "docs/operations.md").read_text()
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert f"`{rule['alert']}`" in page, rule["alert"]


@pytest.mark.parametrize("path", sorted(DOCKER.glob("compose*.yaml")), ids=lambda path: path.name)
def test_the_compose_files_are_valid(path: Path) -> None:
    """By the Compose Specification; what they mount is there."""
    compose = load(path)
    check_compose(compose)
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert not source.startswith("./") or (DOCKER / source).exists(), source
            assert source.startswith((".", "$")) or source in compose["volumes"], source
        if service["image"].startswith("voicewatch:"):
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]


def test_a_wrong_compose_file_is_found() -> None:
    """The schema means something."""
    with pytest.raises(jsonschema.ValidationError):
        check_compose({"services": {"a": {"imag": "x"}}})


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(DOCKER)))
def test_the_manifests_are_valid(path: Path) -> None:
    """By the strict schemas of Kubernetes."""
    for manifest in yaml.safe_load_all(path.read_text()):
        if path.suffix == ".yaml":
            check_manifest(manifest)


def test_a_wrong_manifest_is_found() -> None:
    """A misspelt key is an error."""
    manifest = load(DOCKER / "kubernetes/base/statefulset.yaml")
    manifest["spec"]["replica"] = 3
    with pytest.raises(jsonschema.ValidationError):
        check_manifest(manifest)


def test_the_manifests_fit_together() -> None:
    """Kustomize finds every file; selectors, ports and names agree; the overlay has as many addresses as processes."""
    base, overlay = DOCKER / "kubernetes/base", DOCKER / "kubernetes/overlays/cluster"
    kustomization = load(base / "kustomization.yaml")
    assert all((base / name).is_file() for name in kustomization["resources"])
    assert {*kustomization["resources"], "kustomization.yaml"} == {path.name for path in base.glob("*.yaml")}
    service, workload = load(base / "service.yaml"), load(base / "statefulset.yaml")
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert workload["spec"]["serviceName"] == service["metadata"]["name"]
    assert workload["spec"]["podManagementPolicy"] == "Parallel"
    policy, budget = load(base / "networkpolicy.yaml"), load(base / "poddisruptionbudget.yaml")
    selected = [service["spec"]["selector"], *(one["spec"]["selector"]["matchLabels"] for one in (workload, budget))]
    assert all(selector == labels for selector in [*selected, policy["spec"]["podSelector"]["matchLabels"]])
    [container] = workload["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {port["name"]: port["port"] for port in service["spec"]["ports"]}
    assert container["command"][-1].startswith("exec python -m bytewax.run ")
    assert all(container[probe]["httpGet"]["port"] == "metrics" for probe in ("livenessProbe", "readinessProbe"))
    cluster = load(overlay / "kustomization.yaml")
    [count] = [row["count"] for row in cluster["replicas"]]
    [literal] = cluster["configMapGenerator"][0]["literals"]
    addresses = literal.removeprefix("addresses=").split(";")
    assert addresses == [f"voicewatch-{number}.voicewatch:{ports['workers']}" for number in range(count)]
    spread = load(overlay / "spread.yaml")
    merged = {**workload, "spec": json.loads(json.dumps(workload["spec"]))}
    merged["spec"]["template"]["spec"] |= spread["spec"]["template"]["spec"]
    check_manifest(merged)


def test_the_instances_of_a_partitioned_deployment_agree() -> None:
    """In Kubernetes and in Compose their number is the count that each has; one at a time may go."""
    overlay = DOCKER / "kubernetes/overlays/partitioned"
    kustomization = load(overlay / "kustomization.yaml")
    listed = [*kustomization["resources"], *(patch["path"] for patch in kustomization["patches"])]
    assert all((overlay / name).exists() for name in listed)
    assert {path.name for path in overlay.iterdir()} == {"kustomization.yaml", *listed} - {"../../base"}
    [count] = [row["count"] for row in kustomization["replicas"]]
    workload, patch = load(DOCKER / "kubernetes/base/statefulset.yaml"), load(overlay / "instance.yaml")
    pod, changes = workload["spec"]["template"]["spec"], patch["spec"]["template"]["spec"]
    for kind in ("initContainers", "containers"):
        [container], [change] = pod[kind], changes[kind]
        assert change["name"] == container["name"]
        container |= {**change, "env": [*container["env"], *change["env"]]}
        environ = {row["name"]: row["value"] for row in container["env"] if "value" in row}
        shard = parse_settings({}, "", shard_variables(environ)).shard
        assert (shard.count, shard.index_from) == (count, "hostname")
    pod["topologySpreadConstraints"] = changes["topologySpreadConstraints"]
    check_manifest(workload)
    assert load(overlay / "budget.yaml")["spec"]["maxUnavailable"] == 1
    services = load(DOCKER / "compose.partitioned.yaml")["services"]
    del services["groups"]
    found = [parse_settings({}, "", shard_variables(service["environment"])).shard for service in services.values()]
    assert [(shard.index, shard.count) for shard in found] == [(number, len(services)) for number in range(3)]
    assert len({service["volumes"][-1] for service in services.values()}) == len(services)


def test_groups_over_instances_follow_all_instances() -> None:
    """Who adds up groups is given each instance once, at a port that is open to it, and a directory of its own."""
    overlay = DOCKER / "kubernetes/overlays/partitioned-groups"
    kustomization = load(overlay / "kustomization.yaml")
    listed = [*kustomization["resources"], *(patch["path"] for patch in kustomization["patches"])]
    assert {path.name for path in overlay.iterdir()} == {"kustomization.yaml", *listed} - {"../partitioned"}
    [count] = [row["count"] for row in load(overlay / "../partitioned/kustomization.yaml")["replicas"]]
    [change] = load(overlay / "instance.yaml")["spec"]["template"]["spec"]["containers"]
    workload = load(DOCKER / "kubernetes/base/statefulset.yaml")
    [container] = workload["spec"]["template"]["spec"]["containers"]
    assert change["name"] == container["name"]
    container |= {"env": [*container["env"], *change["env"]], "ports": [*container["ports"], *change["ports"]]}
    check_manifest(workload)
    [port] = [port["containerPort"] for port in change["ports"]]
    settings = parse_settings({}, "", {row["name"]: row["value"] for row in change["env"]})
    assert settings.web.address == ("0.0.0.0", port)
    pages, _ = yaml.safe_load_all((overlay / "networkpolicy.yaml").read_text())
    groups = load(overlay / "groups.yaml")
    [rule] = pages["spec"]["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": port}]
    assert rule["from"] == [{"podSelector": groups["spec"]["selector"]}]
    assert groups["spec"]["template"]["metadata"]["labels"] == groups["spec"]["selector"]["matchLabels"]
    [container] = groups["spec"]["template"]["spec"]["containers"]
    sources = [f"http://voicewatch-{number}.voicewatch:{port}" for number in range(count)]
    assert container["command"][: 3 + count] == ["voicewatch", "--log-json", "merge", *sources]
    services = load(DOCKER / "compose.partitioned.yaml")["services"]
    command, volumes = services["groups"]["command"], services["groups"]["volumes"]
    assert command[2 : 2 + count] == [f"/instances/{number}" for number in range(count)]
    assert volumes[1 : 1 + count] == [f"state-{number}:/instances/{number}:ro" for number in range(count)]
    for options in (command, container["command"]):
        given = dict(zip(options, [*options[1:], ""], strict=True))
        assert (given["--out"], given["--follow"]) == ("/var/lib/voicewatch/groups", "")
    assert not [name for name in services["groups"]["environment"] if "_SHARD_" in name]


def shard_variables(environment: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in environment.items() if "_SHARD_" in name}


@pytest.mark.parametrize("path", sorted(DOCKER.rglob("*.toml")), ids=lambda path: str(path.relative_to(DOCKER)))
def test_the_configurations_are_valid(path: Path) -> None:
    """Those that are shipped can be used."""
    parse_settings(tomllib.loads(path.read_text()), str(path))


def test_the_dockerfile_has_no_faults() -> None:
    """By hadolint."""
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, DOCKER / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_is_checked_by_what_it_serves() -> None:
    """HEALTHCHECK asks where the image tells voicewatch to listen, and the scripts can be run."""
    text = (DOCKER / "Dockerfile").read_text()
    assert "VOICEWATCH_METRICS__LISTEN=127.0.0.1:9464" in text
    assert 'HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 CMD ["voicewatch", "probe", ' in text
    for script in ("verify.sh", "verify-inside.sh"):
        done = subprocess.run(["sh", "-n", DOCKER / script], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


def test_the_unit_is_of_a_service_that_notifies() -> None:
    """What the program does and what the unit expects of it agree."""
    unit = (DOCKER / "systemd/voicewatch.service").read_text()
    for line in ("Type=notify", "WatchdogSec=60", "RestartPreventExitStatus=2", "NotifyAccess=main"):
        assert f"\n{line}\n" in unit
    assert not re.search(r"^(GENESYS|VOICEWATCH)_\w+=", unit, re.MULTILINE)
