"""The Kubernetes job for training on several machines, as far as it can be tried without a cluster."""

import os
import subprocess

import kubernetes_validate
import pytest
import yaml

from keras_lm.cli import train
from keras_lm.training.cluster import Cluster

KUBERNETES = "1.31"


@pytest.fixture(scope="module")
def manifests(repository):
    text = (repository / "deploy" / "training" / "job.yaml").read_text(encoding="utf-8")
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all(text)}


def test_the_manifests_obey_their_schemas(manifests):
    assert set(manifests) == {"PersistentVolumeClaim", "Service", "Job"}
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_each_pod_is_told_who_it_is(manifests, tmp_path):
    """The script of the pod, run by a shell, with a program in place of the trainer that prints what it was given."""
    trainer = tmp_path / "keras_lm-train"
    trainer.write_text('#!/bin/sh\nprintf "%s\\n" "$TF_CONFIG" "$@"\n')
    trainer.chmod(0o755)
    job = manifests["Job"]["spec"]
    (worker,) = job["template"]["spec"]["containers"]
    environment = {entry["name"]: entry["value"] for entry in worker["env"]} | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert job["completions"] == job["parallelism"] == int(environment["WORKERS"])
    service, pod = manifests["Service"], job["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": manifests["Job"]["metadata"]["name"]}
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == manifests["PersistentVolumeClaim"]["metadata"]["name"]
    for index in range(job["completions"]):
        command = [*worker["command"], *worker["args"]]
        result = subprocess.run(
            command, env={**environment, "JOB_COMPLETION_INDEX": str(index)}, capture_output=True, text=True, check=True
        )
        config, *flags = result.stdout.splitlines()
        cluster = Cluster.parse(config)
        assert cluster.index == index
        names = [f"{manifests['Job']['metadata']['name']}-{number}.{service['metadata']['name']}" for number in range(job["completions"])]
        assert cluster.workers == tuple(f"{name}:{service['spec']['ports'][0]['port']}" for name in names)
        given = train.parser().parse_args(flags)
        assert given.strategy == "multiworker" and given.resume
        assert given.batch_size % job["completions"] == 0
        assert given.out.startswith(worker["volumeMounts"][0]["mountPath"])


def test_the_image_holds_what_the_job_needs(repository):
    text = (repository / "deploy" / "training" / "Dockerfile").read_text(encoding="utf-8")
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY")]
    assert all((repository / name).exists() for names in copied for name in names)
    assert 'ENTRYPOINT ["keras_lm-train"]' in text
