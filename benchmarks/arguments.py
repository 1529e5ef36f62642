"""The arguments of `python -m benchmarks.run`."""

import argparse
import pathlib

# Part: the module whose function run_<part> measures it.
PARTS = {
  "depthwise": "depthwise",
  "inference": "cases",
  "training": "cases",
  "input": "input_pipeline",
  "first_call": "first_call",
  "roofline": "roofline",
  "encoders": "encoders",
}
_USUAL = tuple(part for part in PARTS if part != "encoders")  # needs timm
MODELS = ("mobilenet_v2", "resnet_101", "xception_65")
AGAINST = ("torch", "smp", "onnxruntime", "openvino")


def parse(
  arguments: list[str] | None, description: str | None
) -> argparse.Namespace:
  """Parses `arguments`, or the command line if None."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.run",
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add(
    "--against",
    type=_some(AGAINST),
    default=(),
    help="others to time: torch, smp (segmentation_models.pytorch, and "
    "torch), onnxruntime, openvino; these two from images to labels",
  )
  add("--device", choices=["cpu", "gpu"], default="cpu")
  add(
    "--parts",
    type=_some(PARTS),
    default=_USUAL,
    help="default: all but encoders",
  )
  add("--models", type=_some(MODELS), default=MODELS, help="default: all")
  add("--size", type=_side, default=513, help="side of images")
  add("--training_size", type=_side, help="default: 257 on a CPU, else --size")
  add("--batches", type=_integers, default=(1,))
  add("--training_batches", type=_integers, help="default: --batches from 2")
  add(
    "--dtypes",
    type=_some(("float32", "bfloat16")),
    default=("float32",),
  )
  outputs = ("logits", "labels")
  add("--outputs", type=_some(outputs), default=outputs, help="default: both")
  add("--torch", type=_names, help="torch's programs to time; default: all")
  add(
    "--threads", type=int, help="cores, 2 or more; default: 3 or, by a GPU, all"
  )
  add("--rounds", type=int, default=20, help="samples of every program")
  add("--calls", type=int, default=1, help="passes in flight in a sample")
  add("--warm", type=int, default=1, help="passes before one that do not count")
  add("--encoders", type=_names, help="for that part; default: timm's, all")
  add("--output_strides", type=_integers, default=(16,), help="for that part")
  add("--source", type=pathlib.Path, help="VOC folder for the part input")
  add("--seconds", type=float, default=10, help="of CPU, for the part input")
  add("--out", type=pathlib.Path, default="runs/benchmark", help="folder")
  options = parser.parse_args(arguments)
  # Both are made of torch.
  if "smp" in options.against or "encoders" in options.parts:
    options.against = tuple(dict.fromkeys((*options.against, "torch")))
  if options.threads is None and options.device == "cpu":
    options.threads = 3
  if options.training_size is None:
    options.training_size = 257 if options.device == "cpu" else options.size
  if options.training_batches is None:
    # A single image has no batch statistics at ASPP's image pooling.
    options.training_batches = tuple(
      dict.fromkeys(max(batch, 2) for batch in options.batches)
    )
  return options


def _names(text: str) -> tuple[str, ...]:
  return tuple(text.split(","))


def _some(known):
  def parse_names(text: str) -> tuple[str, ...]:
    names = _names(text)
    unknown = sorted(set(names) - set(known))
    if unknown:
      raise argparse.ArgumentTypeError(
        f"must be of {', '.join(known)}; got {', '.join(unknown)}"
      )
    return names

  return parse_names


def _integers(text: str) -> tuple[int, ...]:
  return tuple(map(int, text.split(",")))


def _side(text: str) -> int:
  side = int(text)
  if side % 16 != 1:
    raise argparse.ArgumentTypeError(
      f"must be k * 16 + 1, where torch and TensorFlow pad alike, got {side}"
    )
  return side
