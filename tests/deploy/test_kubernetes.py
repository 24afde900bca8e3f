"""The manifests, against the published schemas of Kubernetes, and against what Ray itself reads from a RayCluster.

KubeRay's CRDs are in no package registry: of its own objects only the names of the fields are checked (those of its API
reference, v1 of KubeRay 1.6). The pods in them are Kubernetes's, and checked whole.
"""

import copy
import re
import tomllib

import kubernetes_validate
import pytest
import ray
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

KUBERNETES = "1.34"
GROUP = {"rayStartParams", "template", "resources", "labels"}
FIELDS = {
    "RayCluster": {
        *("suspend", "managedBy", "authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "rayVersion"),
        *("headServiceAnnotations", "gcsFaultToleranceOptions", "upgradeStrategy", "headGroupSpec", "workerGroupSpecs"),
    },
    "RayService": {
        *("serveConfigV2", "rayClusterConfig", "serveService", "upgradeStrategy", "excludeHeadPodFromServeSvc"),
        *("serviceUnhealthySecondThreshold", "deploymentUnhealthySecondThreshold", "suspend", "managedBy"),
    },
    "RayJob": {
        *("entrypoint", "rayClusterSpec", "submitterPodTemplate", "clusterSelector", "submissionMode", "suspend"),
        *("activeDeadlineSeconds", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "metadata"),
        *("submitterConfig", "managedBy", "deletionStrategy", "runtimeEnvYAML", "jobId", "entrypointResources"),
        *("entrypointNumCpus", "entrypointNumGpus"),
    },
    "headGroupSpec": GROUP | {"headService", "enableIngress", "serviceType"},
    "workerGroupSpecs": {
        *(*GROUP, "groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "scaleStrategy", "suspend"),
        "idleTimeoutSeconds",
    },
    "authOptions": {"mode", "secretName", "enableK8sTokenAuth"},
    "autoscalerOptions": {
        *("resources", "image", "imagePullPolicy", "securityContext", "idleTimeoutSeconds", "upscalingMode", "version"),
        *("env", "envFrom", "volumeMounts"),
    },
}


@pytest.fixture
def documents(request):
    files = sorted((request.config.rootpath / "deploy/kubernetes").glob("*.yaml"))
    return [document for file in files for document in yaml.safe_load_all(file.read_text())]


def clusters(documents: list[dict]) -> dict[str, dict]:
    """name -> what a RayCluster's spec is."""
    within = {
        "RayCluster": lambda s: s,
        "RayService": lambda s: s["rayClusterConfig"],
        "RayJob": lambda s: s["rayClusterSpec"],
    }
    return {d["metadata"]["name"]: within[d["kind"]](d["spec"]) for d in documents if d["kind"] in within}


def pods(documents: list[dict]) -> list[dict]:
    out = [d["spec"]["jobTemplate"]["spec"]["template"] for d in documents if d["kind"] == "CronJob"]
    for spec in clusters(documents).values():
        out += [group["template"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    return out


def check(document: dict) -> None:
    """Raise for what the API server would refuse."""
    if not document["apiVersion"].startswith("ray.io/"):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        return
    assert document["apiVersion"] == "ray.io/v1"
    assert not document["spec"].keys() - FIELDS[document["kind"]], document["kind"]
    for spec in clusters([document]).values():
        assert not spec.keys() - FIELDS["RayCluster"]
        for name in ("headGroupSpec", "authOptions", "autoscalerOptions"):
            assert not spec.get(name, {}).keys() - FIELDS[name], name
        for group in spec["workerGroupSpecs"]:
            assert not group.keys() - FIELDS["workerGroupSpecs"], group["groupName"]
    for pod in pods([document]):
        template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": pod}
        kubernetes_validate.validate(template, KUBERNETES, strict=True)


def test_kubernetes_accepts_the_manifests(documents):
    assert sorted(d["kind"] for d in documents) == ["CronJob", "RayCluster", "RayJob", "RayService"]
    for document in documents:
        check(document)


@pytest.mark.parametrize("number", range(4))
def test_a_slip_in_a_pod_is_seen(documents, number):
    slip = copy.deepcopy(documents[number])
    pods([slip])[0]["spec"]["containers"][0]["enviroment"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="enviroment"):
        check(slip)


def test_ray_reads_the_clusters_as_meant(documents):
    for name, spec in clusters(documents).items():
        cluster = {"metadata": {"name": name, "namespace": "sqllm"}, "spec": spec}
        kinds = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
        assert kinds["headgroup"]["resources"]["CPU"] == 0, name
        assert kinds["gpu"]["resources"]["GPU"] == 1, name
        assert all(kind["resources"]["CPU"] > 0 for group, kind in kinds.items() if group != "headgroup")
        assert spec["rayVersion"] == ray.__version__, name


def test_pods_run_without_privileges_and_secrets_come_by_reference(documents, request):
    version = tomllib.loads((request.config.rootpath / "pyproject.toml").read_text())["project"]["version"]
    for pod in (pod["spec"] for pod in pods(documents)):
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        kind = "cuda" if "nvidia.com/gpu" in container["resources"]["limits"] else "cpu|cuda"
        assert re.fullmatch(rf"registry\.example\.com/sqllm:{re.escape(version)}-({kind})", container["image"])
        for variable in container.get("env", []):
            if re.search("KEY|TOKEN|SECRET|PASSWORD", variable["name"]):
                assert variable["valueFrom"]["secretKeyRef"], variable["name"]
    assert not [d for d in documents if d["kind"] == "Secret"]


def test_the_service_carries_the_serve_config(documents, request):
    config = yaml.safe_load((request.config.rootpath / "deploy/serve.yaml").read_text())
    (service,) = (d for d in documents if d["kind"] == "RayService")
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == config
