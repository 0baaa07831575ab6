"""The scripts of deploy/ run against stand-ins of what they call; the JobSet says what it must."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from atlas_jax.parallel import find_processes

DEPLOY = Path(__file__).parents[2] / "deploy"
STAND_IN = '#!/bin/bash\nprintf "%s\\n" "{name}" "$@" "ids=${{JAX_LOCAL_DEVICE_IDS:-}}" '
STAND_IN += '"at=${{JAX_COORDINATOR_ADDRESS:-}}"\n'


@pytest.fixture
def called(tmp_path):
    """Runs a script; what it called, with which arguments and environment."""
    for name in ("srun", "gcloud", "atlas-jax"):
        (tmp_path / name).write_text(STAND_IN.format(name=name))
        (tmp_path / name).chmod(0o755)

    def run(script, *arguments, **environment):
        path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        found = subprocess.run(
            ["bash", DEPLOY / script, *arguments],
            env=path | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return found.returncode, found.stdout.splitlines(), found.stderr

    return run


def test_slurm_gives_a_process_all_gpus_of_its_node(called):
    code, said, _ = called("slurm.sh", "quickstart", "--out", "a b", SLURM_GPUS_ON_NODE="4")
    assert code == 0
    assert said[0] == "srun" and said[-2] == "ids=0,1,2,3"
    assert said[said.index("atlas-jax") :][:5] == ["atlas-jax", "run", "quickstart", "--out", "a b"]
    assert called("slurm.sh", "quickstart")[1][-2] == "ids="  # without GPUs
    text = (DEPLOY / "slurm.sh").read_text()
    asked = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in text.splitlines()
        if line.startswith("#SBATCH")
    )
    assert asked["ntasks-per-node"] == "1" and "time" in asked


def test_a_tpu_slice_gets_one_line_for_all_workers(called):
    code, said, _ = called("tpu_vm.sh", "slice", "us-east5-a", "quickstart", "--set", "a=b c")
    assert code == 0 and said[0] == "gcloud"
    assert "--worker=all" in said and "--zone=us-east5-a" in said
    line = "--command=ATLAS_JAX_DISTRIBUTED=1 atlas-jax run quickstart --set a=b\\ c"
    assert line in said
    dry = called("tpu_vm.sh", "slice", "zone", "quickstart", DRY_RUN="1")
    assert dry[0] == 0 and dry[1][0].startswith("gcloud compute tpus tpu-vm ssh slice")


@pytest.mark.parametrize("rank", ["OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"])
def test_mpirun_gives_each_process_a_gpu(called, rank):
    code, said, _ = called("mpirun.sh", "head:8476", "quickstart", **{rank: "3"})
    assert code == 0
    assert said == ["atlas-jax", "run", "quickstart", "ids=3", "at=head:8476"]


@pytest.mark.parametrize("script", sorted(path.name for path in DEPLOY.glob("*.sh")))
def test_without_arguments_a_script_says_how_it_is_called(called, script):
    code, said, error = called(script)
    assert code == 2 and not said and error.startswith("usage: ") and error.count("\n") == 1


def test_the_jobset():
    jobset = yaml.safe_load((DEPLOY / "jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    name, spec = jobset["metadata"]["name"], jobset["spec"]
    assert spec["network"]["enableDNSHostnames"] and spec["failurePolicy"]["maxRestarts"] > 0
    (job,) = spec["replicatedJobs"]
    assert job["replicas"] == 1
    inner = job["template"]["spec"]
    assert inner["completionMode"] == "Indexed"
    assert inner["parallelism"] == inner["completions"]
    assert inner["backoffLimit"] == 0  # a lost pod ends the Job, and the JobSet starts all anew
    pod = inner["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    environment = {item["name"]: item for item in container["env"]}
    address = f"{name}-{job['name']}-0-0.{name}"
    port = container["ports"][0]["containerPort"]
    assert environment["JAX_COORDINATOR_ADDRESS"]["value"] == f"{address}:{port}"
    many = environment["JAX_NUM_PROCESSES"]["value"]
    which = environment["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert which == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    told = {"JAX_NUM_PROCESSES": many, "JAX_PROCESS_ID": "1"}
    assert find_processes(told) == (inner["completions"], 1)
    assert container["command"] == ["atlas-jax", "run"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
    out = container["args"][container["args"].index("--out") + 1]
    assert out.startswith(mounts["runs"] + "/")
