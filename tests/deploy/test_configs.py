"""The files of deploy/ against the schemas and messages that Docker Compose, Kubernetes and TensorFlow Serving read them with."""

import json
import os
import re
import shutil
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tests.deploy import protos
from tests.test_readme import blocks

# `tensorflow_model_server --help`, as main.cc of TensorFlow Serving has it.
FLAGS = set(
    re.findall(
        r"\w+",
        """port grpc_socket_path rest_api_port rest_api_num_threads rest_api_timeout_in_ms rest_api_enable_cors_support enable_batching
    allow_version_labels_for_unavailable_models batching_parameters_file enable_per_model_batching_parameters model_config_file
    model_config_file_poll_wait_seconds model_name model_base_path num_load_threads num_unload_threads max_num_load_retries
    load_retry_interval_micros file_system_poll_wait_seconds flush_filesystem_caches tensorflow_session_parallelism
    tensorflow_session_config_file tensorflow_intra_op_parallelism tensorflow_inter_op_parallelism use_alts_credentials ssl_config_file
    platform_config_file per_process_gpu_memory_fraction saved_model_tags grpc_channel_arguments grpc_max_threads enable_model_warmup
    num_request_iterations_for_warmup version monitoring_config_file remove_unused_fields_from_bundle_metagraph prefer_tflite_model
    num_tflite_pools num_tflite_interpreters_per_pool enable_signature_method_name_check xla_cpu_compilation_enabled
    xla_gpu_compilation_enabled enable_profiler thread_pool_factory_config_file mixed_precision skip_initialize_tpu
    enable_grpc_healthcheck_service enable_serialization_as_tensor_content""",
    )
)
KUBERNETES = "1.31"  # the oldest release whose schema is asked


def interpolated(text, **variables):
    """What Compose makes of `${NAME:-default}`."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: variables.get(match[1], match[2]), text)


@pytest.fixture(scope="module")
def compose(deploy):
    return yaml.safe_load(interpolated((deploy / "compose.yaml").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def manifests(deploy):
    """By kind; the file's name beside each."""
    found = []
    for path in sorted((deploy / "kubernetes").glob("*.yaml")):
        found += [(path.name, manifest) for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8"))]
    return found


def one(manifests, kind, file=None):
    (manifest,) = [manifest for name, manifest in manifests if manifest["kind"] == kind and file in (None, name)]
    return manifest


def test_models_config_names_a_model_with_a_label_on_a_version_that_is_loaded(deploy):
    config = text_format.Parse((deploy / "models.config").read_text(encoding="utf-8"), model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("quickstart", "/models/quickstart", "tensorflow")
    assert dict(model.version_labels) == {"stable": 1}
    assert set(model.version_labels.values()) <= set(model.model_version_policy.specific.versions)


def test_the_canary_steps_of_models_config_parse(deploy):
    """What the comment tells a reader to write is itself a configuration."""
    steps = re.findall(r"^#   \d\. (.*?)(?:   .*)?$", (deploy / "models.config").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(steps) == 4
    for step in steps:
        inside = step if step.startswith("version_labels") else f"model_version_policy {{ specific {{ {step} }} }}"
        text_format.Parse(f"model_config_list {{ config {{ {inside} }} }}", model_server_config_pb2.ModelServerConfig())


def test_batching_parameters_are_ones_that_the_server_accepts(deploy):
    parameters = text_format.Parse((deploy / "batching_parameters.txt").read_text(encoding="utf-8"), protos.BatchingParameters())
    sizes = list(parameters.allowed_batch_sizes)
    assert sizes == sorted(set(sizes)) and sizes[-1] == parameters.max_batch_size.value  # else it does not start
    assert 0 < parameters.batch_timeout_micros.value < 100_000
    with pytest.raises(text_format.ParseError):
        text_format.Parse("max_batch_size: 16", protos.BatchingParameters())  # a message, not a number


def test_metrics_are_where_prometheus_looks(deploy, compose, manifests):
    monitoring = text_format.Parse((deploy / "monitoring.config").read_text(encoding="utf-8"), protos.MonitoringConfig())
    assert monitoring.prometheus_config.enable
    prometheus = yaml.safe_load((deploy / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = prometheus["scrape_configs"]
    assert job["metrics_path"] == monitoring.prometheus_config.path
    ((target,),) = [static["targets"] for static in job["static_configs"]]
    assert target == "serving:8501" and "serving" in compose["services"]
    annotations = one(manifests, "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == monitoring.prometheus_config.path
    assert annotations["prometheus.io/port"] == "8501"


def test_compose_file_obeys_its_schema(deploy, tmp_path):
    def check(path):
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
        return subprocess.run(command, capture_output=True, text=True)

    result = check(deploy / "compose.yaml")
    assert result.returncode == 0, result.stdout
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((deploy / "compose.yaml").read_text(encoding="utf-8").replace("ports:", "portz:", 1), encoding="utf-8")
    assert "portz" in check(wrong).stdout


def test_compose_mounts_what_is_there_where_the_flags_look(deploy, compose):
    service = compose["services"]["serving"]
    mounts = {target: source for source, target, *_ in (volume.split(":") for volume in service["volumes"])}
    assert (deploy / mounts["/models"]).resolve() == deploy.parent / "saved_models"
    for flag in service["command"]:
        if "=/config/" in flag:
            assert (deploy / mounts["/config"] / flag.partition("=/config/")[2]).is_file()
    assert all(volume.endswith(":ro") for volume in service["volumes"])
    for volume in compose["services"]["prometheus"]["volumes"]:
        source = volume.partition(":")[0]
        assert (deploy / source).is_file() if source.startswith(".") else source in compose["volumes"]


def test_every_flag_is_one_of_the_server(compose, manifests):
    served = compose["services"]["serving"]["command"]
    (container,) = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    kserve = one(manifests, "InferenceService")["spec"]["predictor"]["model"]["args"]
    for flag in [*served, *container["args"], *kserve]:
        name, equals, value = flag.removeprefix("--").partition("=")
        assert flag.startswith("--") and name in FLAGS and equals and value, flag
    names = lambda flags: [flag.partition("=")[0] for flag in flags]
    assert len(set(names(served))) == len(served)
    # Kubernetes starts the server as Compose does, but for what a cluster decides.
    assert set(names(served)) - set(names(container["args"])) == {"--xla_cpu_compilation_enabled"}
    same = [flag for flag in served if not flag.startswith(("--tensorflow_", "--xla_"))]
    assert same == [flag for flag in container["args"] if not flag.startswith("--tensorflow_")]


def test_the_same_server_everywhere(compose, manifests):
    image = compose["services"]["serving"]["image"]
    (container,) = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == image
    assert one(manifests, "InferenceService")["spec"]["predictor"]["model"]["runtimeVersion"] == image.rpartition(":")[2]


def test_compose_variables_reach_the_command(deploy):
    text = (deploy / "compose.yaml").read_text(encoding="utf-8")
    service = yaml.safe_load(interpolated(text, BATCHING="false", XLA="true", REST_TIMEOUT_MS="1000", MODEL="other"))["services"]["serving"]
    assert {"--enable_batching=false", "--xla_cpu_compilation_enabled=true", "--rest_api_timeout_in_ms=1000"} <= set(service["command"])
    assert "/v1/models/other " in service["healthcheck"]["test"][-1]


def test_kubernetes_manifests_obey_their_schemas(manifests):
    checked = [manifest for _, manifest in manifests if manifest["kind"] != "InferenceService"]
    assert {manifest["kind"] for manifest in checked} == {
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
        "PersistentVolumeClaim",
        "Pod",
    }
    for manifest in checked:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    wrong = json.loads(json.dumps(one(manifests, "Deployment")))
    wrong["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["httpGet"]["prot"] = "http"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_kubernetes_objects_fit_together(deploy, manifests):
    deployment = one(manifests, "Deployment")
    template = deployment["spec"]["template"]
    (container,) = template["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {f"--port={ports['grpc']}", f"--rest_api_port={ports['http']}"} <= set(container["args"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        ((port,),) = [[action["port"]] for kind, action in container[probe].items() if kind in ("httpGet", "tcpSocket")]
        assert port in ports
    config = text_format.Parse((deploy / "models.config").read_text(encoding="utf-8"), model_server_config_pb2.ModelServerConfig())
    assert container["readinessProbe"]["httpGet"]["path"] == f"/v1/models/{config.model_config_list.config[0].name}"
    for _, service in [pair for pair in manifests if pair[1]["kind"] == "Service"]:
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        assert all(port["targetPort"] in ports for port in service["spec"]["ports"])
    autoscaler = one(manifests, "HorizontalPodAutoscaler")["spec"]
    assert autoscaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]  # the autoscaler's number would be overwritten at every apply
    claim = one(manifests, "PersistentVolumeClaim")["metadata"]["name"]
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    assert volumes["models"]["persistentVolumeClaim"]["claimName"] == claim
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    threads = f"--tensorflow_intra_op_parallelism={container['resources']['limits']['cpu']}"
    assert threads in container["args"]
    loader = one(manifests, "Pod")["spec"]
    assert loader["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim
    assert one(manifests, "InferenceService")["spec"]["predictor"]["model"]["storageUri"] == f"pvc://{claim}/quickstart"
    kustomization = yaml.safe_load((deploy / "kustomization.yaml").read_text(encoding="utf-8"))
    assert all((deploy / path).is_file() for path in kustomization["resources"])
    (generated,) = kustomization["configMapGenerator"]
    assert generated["name"] == volumes["config"]["configMap"]["name"]
    wanted = {arg.rpartition("/")[2] for arg in container["args"] if "=/config/" in arg}
    assert set(generated["files"]) == wanted and all((deploy / name).is_file() for name in wanted)


def test_kserve_object_has_the_fields_of_v1beta1(manifests):
    """Its schema comes with KServe alone; these are the fields of its Go types that are used here."""
    service = one(manifests, "InferenceService")
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    predictor = service["spec"]["predictor"]
    assert set(predictor) <= {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "timeout", "model"}
    assert predictor["scaleMetric"] in ("concurrency", "rps", "cpu", "memory")
    model = predictor["model"]
    assert set(model) <= {"modelFormat", "protocolVersion", "runtimeVersion", "storageUri", "args", "resources"}
    assert model["modelFormat"] == {"name": "tensorflow", "version": "2"}
    quantity = re.compile(r"\d+(\.\d+)?(m|Mi|Gi)?")
    assert all(quantity.fullmatch(value) for part in model["resources"].values() for value in part.values())


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_builds_the_kustomization(deploy):
    result = subprocess.run(["kubectl", "kustomize", str(deploy)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    built = [(None, manifest) for manifest in yaml.safe_load_all(result.stdout)]
    for _, manifest in built:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    config = one(built, "ConfigMap")
    assert config["data"]["models.config"] == (deploy / "models.config").read_text(encoding="utf-8")
    assert config["metadata"]["name"] == "keras-lm-serving"


@pytest.mark.skipif(shutil.which("docker") is None, reason="Docker is not installed")
def test_docker_compose_reads_the_file(deploy, tmp_path):
    """The client alone; it asks no engine for this."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    if subprocess.run(["docker", "compose", "version"], capture_output=True, env=environment).returncode != 0:
        pytest.skip("this Docker has no compose")
    command = ["docker", "compose", "-f", str(deploy / "compose.yaml"), "--profile", "monitoring", "config", "--format", "json"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert set(json.loads(result.stdout)["services"]) == {"serving", "prometheus"}


def test_the_documents_say_the_same_and_name_what_is_there(repository, deploy):
    english, chinese = deploy / "README.md", deploy / "README.zh-CN.md"
    strip = lambda block: re.sub(r" +#.*", "", block)
    assert list(map(strip, blocks(english, "bash"))) == list(map(strip, blocks(chinese, "bash")))
    headings = lambda path: len(re.findall(r"^## ", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert headings(english) == headings(chinese)
    for document in (english, chinese, repository / "saved_models" / "README.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} names {target}"
    for block in blocks(english, "bash"):
        for path in re.findall(r"\bdeploy(?:/[\w./-]+)?", block):
            assert (repository / path).exists(), path
    variables = set(re.findall(r"\$\{(\w+):-", (deploy / "compose.yaml").read_text(encoding="utf-8")))
    for document in (english, chinese):
        assert variables <= set(re.findall(r"`([A-Z_]+)`", document.read_text(encoding="utf-8")))
