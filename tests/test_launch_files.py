"""What scripts/launch holds, read as its own tools read it, and field by field.

SkyPilot is asked where it is installed: `pip install -e '.[launch]'`, best in an environment of its own.
"""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from samosa_jax.config import Config, DistributedConfig
from samosa_jax.keys import keys_of
from samosa_jax.parallel.launchers import find_place
from samosa_jax.parallel.wire import LOST_EXIT

LAUNCH = Path(__file__).parents[1] / "scripts" / "launch"
SLURM = LAUNCH / "slurm.sbatch"
SKYPILOT = LAUNCH / "skypilot.yaml"
JOBSET = LAUNCH / "kubernetes_jobset.yaml"
MODAL = LAUNCH / "modal_app.py"
# Long options of sbatch, of its manual page (22.05), that the script may use.
SBATCH_OPTIONS = {
    *("job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "mem", "time", "signal"),
    *("requeue", "open-mode", "output", "partition", "account", "exclusive"),
}
SECRET = re.compile(
    r"hf_[A-Za-z0-9]{10}|sk-[A-Za-z0-9]{10}|AKIA[A-Z0-9]{10}|(TOKEN|PASSWORD|SECRET|API_KEY)\s*[=:]"
)


@pytest.mark.parametrize("path", sorted(LAUNCH.iterdir()), ids=lambda path: path.name)
def test_every_flag_is_one_and_nothing_is_secret(path: Path):
    text = path.read_text(encoding="utf-8")
    assert not SECRET.search(text)
    ours = {"config", "data", *keys_of(Config)}
    commands = re.findall(r"--(?:config|data|out_dir|name)(?=[= ])", text)
    assert commands
    for flag in commands:
        assert flag.removeprefix("--") in ours
    for config in re.findall(r"--config=(\S+\.yaml)", text):
        assert (LAUNCH.parents[1] / config).is_file()


def test_slurm_script():
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    lines = SLURM.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/bin/bash"
    directives = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    assert all(line.startswith("--") for line in directives)
    options = {line[2:].partition("=")[0]: line.partition("=")[2] for line in directives}
    assert options.keys() <= SBATCH_OPTIONS
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    last_directive = max(i for i, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert last_directive < first_command, "sbatch reads no directive after the first command"
    assert options["ntasks-per-node"] == "1"
    assert options["signal"].startswith("TERM@")  # without B: the tasks get it, not the script
    assert "requeue" in options


def run_slurm_script(folder: Path, *, exit_code: int, restarts: int = 0) -> tuple[int, str]:
    """The script where `srun` and `scontrol` are programs that note how they were called."""
    for name, ending in (("srun", f"exit {exit_code}"), ("scontrol", "exit 0")):
        program = folder / name
        program.write_text(f'#!/bin/bash\necho {name} "$@" >> {folder}/calls\n{ending}\n', encoding="utf-8")
        program.chmod(0o755)
    environ = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "17",
        "SLURM_RESTART_COUNT": str(restarts),
    }
    done = subprocess.run(
        ["bash", str(SLURM), "--config=a b.yaml"], env=environ, capture_output=True, text=True
    )
    return done.returncode, (folder / "calls").read_text(encoding="utf-8")


@pytest.mark.parametrize("exit_code", [LOST_EXIT, 137, 143])
def test_slurm_goes_on_after_what_a_restart_mends(exit_code: int, tmp_path: Path):
    code, calls = run_slurm_script(tmp_path, exit_code=exit_code)
    assert code == exit_code
    assert "samosa train --config=a b.yaml\n" in calls
    assert calls.endswith("scontrol requeue 17\n")
    (tmp_path / "calls").unlink()
    assert "requeue" not in run_slurm_script(tmp_path, exit_code=exit_code, restarts=20)[1]


@pytest.mark.parametrize("exit_code", [0, 1, 2])
def test_slurm_does_not_repeat_a_mistake(exit_code: int, tmp_path: Path):
    code, calls = run_slurm_script(tmp_path, exit_code=exit_code)
    assert code == exit_code
    assert "requeue" not in calls


def skypilot() -> dict[str, Any]:
    return yaml.safe_load(SKYPILOT.read_text(encoding="utf-8"))


def test_skypilot_says_which_process_is_which(tmp_path: Path):
    """Its own commands, run as on node 1 of 3, where `samosa` prints its surroundings."""
    program = tmp_path / "samosa"
    program.write_text('#!/bin/bash\nenv | grep ^JAX_ | sort; echo "$#: $@"\n', encoding="utf-8")
    program.chmod(0o755)
    environ = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.5\n10.0.0.6",
        "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NUM_NODES": "3",
        "FLAGS": "--data=a --seed=3",
    }
    done = subprocess.run(
        ["bash", "-c", skypilot()["run"]], env=environ, capture_output=True, text=True, check=True
    )
    *variables, said = done.stdout.splitlines()
    assert said == "3: train --data=a --seed=3"
    place = find_place(DistributedConfig(), dict(line.split("=", 1) for line in variables), full_name="x")
    assert place is not None
    assert (place.coordinator, place.num_processes, place.process_id) == (("10.0.0.4", 61_440), 3, 1)


def test_skypilot_recovers_from_what_a_restart_mends():
    task = skypilot()
    recovery = task["resources"]["job_recovery"]
    assert recovery["recover_on_exit_codes"] == [LOST_EXIT, 137, 143]
    assert task["num_nodes"] > 1
    assert "/shared" in task["volumes"]


@pytest.mark.skipif(importlib.util.find_spec("sky") is None, reason="pip install -e '.[launch]' brings sky")
def test_skypilot_reads_its_file():
    code = f"import sky; task = sky.Task.from_yaml({str(SKYPILOT)!r}); print(task.num_nodes, task.resources)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^2 .*H100", done.stdout, re.MULTILINE), done.stdout


def jobset() -> dict[str, Any]:
    return yaml.safe_load(JOBSET.read_text(encoding="utf-8"))


def test_jobset_names_its_coordinator_and_counts_its_pods():
    document = jobset()
    assert (document["apiVersion"], document["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = document["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert replicated["replicas"] == 1
    assert job["completionMode"] == "Indexed"
    assert job["backoffLimit"] == 0
    assert document["spec"]["network"]["enableDNSHostnames"]
    (container,) = job["template"]["spec"]["containers"]
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    assert int(env["JAX_NUM_PROCESSES"]) == job["parallelism"] == job["completions"]
    name = document["metadata"]["name"]
    host, port = env["JAX_COORDINATOR_ADDRESS"].split(":")
    assert host == f"{name}-{replicated['name']}-0-0.{name}"
    assert container["ports"] == [{"containerPort": int(port)}]
    pod = {**env, "KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}
    place = find_place(DistributedConfig(), pod, full_name="samosa-train-0-1.samosa")
    assert place is not None
    assert (place.coordinator, place.process_id) == ((host, int(port)), 1)
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in job["template"]["spec"]["volumes"]}


def test_jobset_does_not_repeat_a_mistake():
    spec = jobset()["spec"]
    (rule,) = spec["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])  # of the JobSet API
    assert rule["targetReplicatedJobs"] == [job["name"] for job in spec["replicatedJobs"]]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    (pod_rule,) = job["podFailurePolicy"]["rules"]
    assert (pod_rule["action"], pod_rule["onExitCodes"]["values"]) == ("FailJob", [2])
    assert pod_rule["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]


def test_kubernetes_accepts_the_jobs_of_the_jobset():
    """The JobSet's own schema comes with its controller; the Job in it is Kubernetes'."""
    template = jobset()["spec"]["replicatedJobs"][0]["template"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "train"}, **template}
    kubernetes_validate.validate(job, "1.31", strict=True)
    broken = {**job, "spec": {**job["spec"], "paralelism": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.31", strict=True)


def test_modal_reads_its_app():
    code = (
        f"import runpy; made = runpy.run_path({str(MODAL)!r}, run_name='modal_app'); "
        "print(*(type(made[name]).__name__ for name in ('app', 'train', 'main')))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["App", "Function", "LocalEntrypoint"]


def test_modal_app_is_python_and_its_flags_are_words():
    compile(MODAL.read_text(encoding="utf-8"), str(MODAL), "exec")
    example = re.search(r'--flags="([^"]+)"', MODAL.read_text(encoding="utf-8"))
    assert example is not None
    assert [word.split("=")[0] for word in shlex.split(example.group(1))] == ["--config", "--data"]
