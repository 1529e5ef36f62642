"""Plans: arithmetic, the search, real TPU programs.

The TPU compiler works without a TPU: nothing here runs on one.
"""

import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from deeplab_jax import config as config_lib
from deeplab_jax import plan
from deeplab_jax.plan import plan_text
from deeplab_jax.plan.machines import CHIPS

_ROOT = pathlib.Path(__file__).resolve().parent.parent

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="SKIPPED FOR LACK OF LIBTPU: pip install 'deeplab_jax[tpu]'",
)


@pytest.mark.parametrize("largest", [1, 2, 7, 16, 100, 1000])
@pytest.mark.parametrize("start", [1, 16, 300])
def test_the_search_ends_within_an_eighth(largest, start):
  found = plan.largest_that_fits(lambda images: images <= largest, start)
  assert found <= largest <= found + max(found // 8, 1) - 1


def test_the_search_finds_that_nothing_fits():
  assert plan.largest_that_fits(lambda _: False, 16) == 0


def _config(batch_size=8):
  """A network of seconds: its step has all parts that the real one has."""
  config = config_lib.base_config()
  config.update(batch_size=batch_size, ema_decay=0.9)
  config.data.update(name="shapes", crop_size=(33, 33))
  config.model.update(
    backbone="mobilenet_v2",
    width_multiplier=0.25,
    output_stride=32,
    atrous_rates=(),
    decoder=(),
    dtype="bfloat16",
  )
  return config


def _classifier_config(batch_size=8):
  """The ImageNet config, small."""
  config = config_lib.load(str(_ROOT / "configs/imagenet.py"))
  config.batch_size = batch_size
  config.data.crop_size = (33, 33)
  config.model.update(backbone="mobilenet_v2", width_multiplier=0.25)
  return config


def _check_memory(made):
  memory, devices = made.program.memory, len(made.machine.devices)
  # float32; the momentum of each parameter; the schedule counts in one integer.
  assert memory.parameters == 4 * made.network.parameters
  assert memory.statistics == 4 * made.network.statistics
  assert memory.optimizer == 4 * made.network.parameters + 4
  variables = memory.parameters + memory.statistics
  assert memory.average == (variables if made.config.ema_decay else 0)
  pixels = made.config.data.crop_size[0] ** 2
  classifies = made.config.task == "classification"
  image = 3 * pixels + (4 if classifies else pixels)  # a class, or a mask
  assert memory.batch == made.config.batch_size // devices * image
  # The state is updated in place: what remains are the metrics.
  assert 0 <= memory.outputs < 2**15
  assert 0 <= memory.padding < 0.5 * memory.total
  assert memory.temporaries > 0


@pytest.fixture(scope="module")
def local(tiny_backbone):
  """A plan for the one device here, of five convolutions."""
  config = _config()
  config.model.update(backbone="tiny", width_multiplier=1.0)
  one = dataclasses.replace(
    plan.local_machine(), devices=tuple(jax.devices()[:1])
  )
  return plan.make_plan(config, one)


@pytest.mark.slow
def test_a_classifier_is_planned_with_a_class_for_each_image(local):
  made = plan.make_plan(_classifier_config(), local.machine)
  _check_memory(made)
  assert made.network.parameters > 1280 * 1000  # the logits' alone
  assert "mobilenet_v2, 33 x 33, float32: batch 8" in plan_text.to_text(made)


def test_a_local_plan_has_the_state_in_bytes(local):
  _check_memory(local)
  assert local.program.collectives == {} and local.bytes_sent == 0
  assert local.floor is None


def test_compiled_flops_are_near_six_per_multiply_add(local):
  """And above: in so narrow a network all else counts for a third."""
  assert 1 < local.program.flops / local.flops < 1.6


def test_the_report_names_every_kind_of_memory(local):
  text = plan_text.to_text(local)
  for part in ("parameters", "optimizer state", "temporaries", "program"):
    assert f"  {part} " in text
  assert "collectives: none" in text and "no figures for cpu" in text


def test_work_that_the_compiler_does_not_count_is_unknown(local):
  program = dataclasses.replace(local.program, flops=None)
  text = plan_text.to_text(dataclasses.replace(local, program=program))
  assert "  as compiled here         unknown GFLOP, " in text


@pytest.mark.slow
def test_a_step_beyond_the_memory_is_no_program(local):
  needed = local.program.memory.total
  for memory, fits in ((needed // 2, False), (2 * needed, True)):
    machine = dataclasses.replace(local.machine, memory=memory)
    program = plan.compile_step(local.config, local.model, machine)
    assert (program is not None) == fits


def test_a_step_that_does_not_fit_says_so(local):
  machine = dataclasses.replace(local.machine, memory=2**20)
  made = dataclasses.replace(local, machine=machine, program=None)
  assert "does not fit into 1.0 MiB" in plan_text.to_text(made)
  assert plan_text.to_dict(made)["fits"] is False


@pytest.mark.parametrize("largest", [3, 7, 40])
@pytest.mark.parametrize(
  ("fields", "unit"),
  [
    ({}, 4),
    ({"accumulate_steps": 2}, 2 * 4),
    ({"batch_norm_groups": 2}, 4),  # of two devices each
    ({"mesh_height": 2}, 2),  # of two devices a picture
    ({"accumulate_steps": 2, "batch_norm_groups": 8}, 2 * 8),
  ],
)
def test_largest_batch_is_one_that_all_can_share(
  local, monkeypatch, largest, fields, unit
):
  tried = []

  def compile_step(config, model, machine, effort, say):
    del say
    config_lib.check(config, len(machine.devices))
    tried.append(config.batch_size)
    return local.program if config.batch_size <= unit * largest else None

  monkeypatch.setattr(plan, "compile_step", compile_step)
  config = _config(unit * 8)
  config.update(fields)
  machine = plan.Machine("four", ("a", "b", "c", "d"), memory=1)
  program = local.program if largest >= 8 else None
  made = plan.Plan(config, local.model, machine, program, local.network)
  found = plan.largest_batch(made)
  assert 0 <= unit * largest - found <= unit * (largest // 8)
  assert unit * 8 not in tried  # Known from the plan.


@pytest.mark.parametrize("pixels", [10, 33 * 65, 100 * 200, 400 * 800])
def test_largest_crop_has_the_form_and_batch_of_the_planned_one(
  local, monkeypatch, pixels
):
  tried = []

  def compile_step(config, model, machine, effort, say):
    tried.append(tuple(config.data.crop_size))
    assert config.batch_size == 2 and config.mesh_height == 2
    config_lib.check(config, len(machine.devices))
    return local.program if math.prod(tried[-1]) <= pixels else None

  monkeypatch.setattr(plan, "compile_step", compile_step)
  config = _config(2)
  config.mesh_height = 2
  config.data.crop_size = (129, 257)
  machine = plan.Machine("four", ("a", "b", "c", "d"), memory=1)
  program = local.program if pixels >= 129 * 257 else None
  made = plan.Plan(config, local.model, machine, program, local.network)
  found = plan.largest_crop(made)
  assert (129, 257) not in tried  # Known from the plan.
  if pixels == 10:
    assert found is None
    return
  height, width = found
  assert height * width <= pixels < 1.3 * (height + 32) * (width + 32)
  assert abs((width - 1) - 2 * (height - 1)) <= 32


def test_largest_sizes_need_a_known_memory(local):
  machine = dataclasses.replace(local.machine, memory=None)
  for search in (plan.largest_batch, plan.largest_crop):
    with pytest.raises(ValueError, match="the memory of a cpu is unknown"):
      search(dataclasses.replace(local, machine=machine))


def test_a_plan_says_how_pictures_are_shared(local):
  config = _config(2)
  config.mesh_height = 2
  machine = plan.Machine("four", tuple(jax.devices() * 4), memory=None)
  made = dataclasses.replace(local, config=config, machine=machine)
  assert "1 images on every 2" in plan_text.to_text(made)
  assert made.images_per_device == 0.5
  assert made.flops == local.flops // 16  # of eight images on one device
  assert plan_text.to_dict(made)["mesh_height"] == 2


def test_the_floor_is_the_slowest_of_three(local):
  floor = plan.Floor(compute=0.1, memory=0.3, interconnect=0.2)
  assert (floor.limit, floor.seconds) == ("memory", 0.3)


def test_an_unknown_topology_lists_the_known():
  with pytest.raises(ValueError, match=r"v5e:16x16, v5p:2x2x1, .*got 'v5e:3'"):
    plan.tpu_machine("v5e:3")


def test_a_missing_compiler_names_the_extra(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match=r'pip install "deeplab_jax\[tpu\]"'):
    plan.tpu_machine("v5e:2x2")


def _run(*words, **options):
  return subprocess.run(
    [sys.executable, *words],
    cwd=_ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(_ROOT)},
    capture_output=True,
    text=True,
    **options,
  )


_MISTAKES = {  # command lines and messages
  "field": (
    ["--config", "configs/voc.py", "--config.batchsize=2"],
    "error: config has no field 'batchsize'",
  ),
  "config": (["--config=nothing.py"], "error: --config must be a file"),
  "topology": (
    ["--config", "configs/voc.py", "--topology=v9:1x1"],
    "error: topology must be one of v5e:2x2, v5e:2x4",
  ),
}


def test_the_door_ends_mistakes_in_one_message():
  lines = {name: flags for name, (flags, _) in _MISTAKES.items()}
  program = "tests/programs/run_mains.py"
  words = json.dumps(lines)
  done = _run(program, "deeplab_jax.plan.__main__", input=words)
  assert done.returncode == 0, done.stderr
  outcomes = json.loads(done.stdout.splitlines()[-1])
  for name, (_, message) in _MISTAKES.items():
    status, output = outcomes[name]
    assert status == 1
    assert output.startswith(message)
    assert "Traceback" not in output


# -- with the TPU compiler


@pytest.fixture(scope="module")
def tiny_tpu():
  """The step of a small network for four chips."""
  return plan.make_plan(_config(), plan.tpu_machine("v5e:2x2"))


@needs_libtpu
def test_a_tpu_plan_has_the_state_in_bytes(tiny_tpu):
  _check_memory(tiny_tpu)
  assert tiny_tpu.machine.kind == "TPU v5 lite"
  assert len(tiny_tpu.machine.devices) == 4


@needs_libtpu
def test_a_tpu_reduces_gradients_and_batch_statistics(tiny_tpu):
  """Kernels in bfloat16 or float32; sums for batch norm, both ways, float32."""
  (kind,) = tiny_tpu.program.collectives
  assert kind == "all-reduce"
  reduced = tiny_tpu.program.collectives[kind].bytes
  parameters = tiny_tpu.program.memory.parameters
  statistics = tiny_tpu.program.memory.statistics
  assert parameters // 2 < reduced < parameters + 2 * statistics
  assert tiny_tpu.bytes_sent == 2 * reduced * 3 / 4


@needs_libtpu
def test_groups_of_a_chip_each_leave_few_collectives(tiny_tpu):
  """Found: 3 rather than 108, of the same bytes."""
  config = _config()
  config.batch_norm_groups = 4
  made = plan.make_plan(config, tiny_tpu.machine)
  apart, together = (
    x.program.collectives["all-reduce"] for x in (made, tiny_tpu)
  )
  assert apart.count < 10 < together.count
  assert apart.bytes == pytest.approx(together.bytes, rel=0.01)
  assert "feature_group_count=96" in made.program.text


@needs_libtpu
def test_a_tpu_takes_the_grouped_convolution(tiny_tpu):
  """No shifted slices, and none of the barriers that they have on a CPU."""
  text = tiny_tpu.program.text
  assert "feature_group_count=96" in text
  assert "optimization-barrier" not in text and "opt-barrier" not in text


@needs_libtpu
@pytest.mark.slow
def test_a_tpu_sends_rows_of_pictures_that_chips_share():
  """And gathers no map but those before they are resized."""
  config = _config(1)
  config.update(mesh_height=4, train_batch_norm=False)
  config.data.crop_size = (129, 129)
  made = plan.make_plan(config, plan.tpu_machine("v5e:2x2"))
  assert "1 images on every 4" in plan_text.to_text(made)
  assert made.program.collectives["collective-permute"].count > 17


@needs_libtpu
def test_a_batch_that_chips_cannot_share_is_refused():
  with pytest.raises(ValueError, match="divisible by the 4 devices, got 6"):
    plan.make_plan(_config(6), plan.tpu_machine("v5e:2x2"))


@needs_libtpu
def test_the_door_writes_the_figures(tmp_path):
  done = _run(
    *("-m", "deeplab_jax.plan", "--nolargest"),
    *("--config", "configs/quickstart.py:runlocal"),
    *("--config.batch_size=4", "--topology=v5e:2x2"),
    *("--json", str(tmp_path / "plan.json")),
  )
  assert done.returncode == 0, done.stderr
  assert "batch 4 on 4 x TPU v5 lite (v5e:2x2)" in done.stdout
  told = "compiling for 4 x TPU v5 lite: batch 4, crops of 65 x 65 ..."
  assert told in done.stderr
  facts = json.loads((tmp_path / "plan.json").read_text())
  assert facts["memory_total"] == sum(facts["memory"].values())
  chip = CHIPS["TPU v5 lite"]
  floor = facts["floor"]
  assert floor["compute"] == pytest.approx(facts["flops"] / chip.flops)
  assert floor["interconnect"] == pytest.approx(
    facts["bytes_sent"] / chip.link_bandwidth
  )


def _real(topology, images_per_chip, **model):
  config = config_lib.load(str(_ROOT / "configs/voc.py"))
  config.model.update(dtype="bfloat16", **model)
  machine = plan.tpu_machine(topology)
  config.batch_size = images_per_chip * len(machine.devices)
  return plan.make_plan(config, machine)


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(
  ("topology", "chips"),
  [("v5e:2x2", 4), ("v5e:4x4", 16), ("v5e:16x16", 256), ("v5p:8x8x8", 512)],
)
def test_the_real_step_compiles_for_pods(topology, chips):
  """Xception-65 at 513, two images a chip: much the same on every slice."""
  made = _real(topology, images_per_chip=2)
  assert len(made.machine.devices) == chips
  memory = made.program.memory
  assert memory.parameters == 4 * made.network.parameters
  assert memory.total < 4 * 2**30
  assert made.program.flops == pytest.approx(made.flops, rel=0.1)
  reduced = made.program.collectives["all-reduce"]
  assert 0.5 * memory.parameters < reduced.bytes < 1.1 * memory.parameters


@needs_libtpu
@pytest.mark.slow
def test_a_vision_transformer_is_planned_with_its_attention():
  """DINOv3's ViT-B at 513, two images a chip, counted as it is compiled."""
  made = _real("v5e:2x2", 2, backbone="vit_base_patch16_dinov3")
  memory = made.program.memory
  assert memory.parameters == 4 * made.network.parameters
  assert memory.total < 12 * 2**30
  assert made.program.flops == pytest.approx(made.flops, rel=0.1)
