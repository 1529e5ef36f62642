"""Every field of a config, its default and its meaning."""

import dataclasses
import typing
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict, config_dict

from deeplab_jax.data.datasets import DatasetInfo
from deeplab_jax.models import Classifier, DeepLab, model_arguments
from deeplab_jax.models.arguments import IMAGE_ARGUMENTS


def base_config() -> ConfigDict:
  """A locked config with the VOC 2012 training settings of the paper."""
  config = ConfigDict(
    {
      # "segmentation"; "multilabel", into classes that overlap, of the data set
      # "folder"; or "classification", to pretrain a backbone.
      "task": "segmentation",
      # Every random draw of a run follows from this number.
      "seed": 0,
      # Where to start from: a workdir, a step in it or an imported model
      # directory; "" draws random weights.
      "init_from": "",
      # "all", or "backbone" to draw the head anew.
      "init_parts": "all",
      # Which channel of that model gives its first kernels to each channel of
      # the data, by number, -1 being the mean of all; () is the mean for each,
      # if there are more or fewer channels than the model has.
      "init_channels": (),
      # Images per step, over all devices and processes.
      "batch_size": 16,
      # Parts of a batch that go through the network one after the other, for
      # want of memory; only batch norm, if trained, sees the parts.
      "accumulate_steps": 1,
      # Compute activations again in the backward pass instead of storing them:
      # 8 images of 513 x 513 in Xception-65 and bfloat16 then take 3.2 rather
      # than 8.1 GiB of a TPU v5e (as compiled), for 1 % more arithmetic.
      "remat": False,
      # Devices that share each picture, for crops and pictures that are too
      # large for one: each has a part of the rows of every map. They are of one
      # process. Then batch_size, and pictures that are evaluated together, are
      # divided over devices / mesh_height.
      "mesh_height": 1,
      # Updates in the whole run.
      "steps": 30_000,
      # Learning rate at the start of the policy, and at the end of "poly" and
      # "cosine".
      "lr": 0.007,
      "lr_end": 0.0,
      # "poly": (1 - t) ** lr_power; "cosine": (1 + cos(pi * t)) / 2; "step": x
      # lr_decay_factor every lr_decay_steps.
      "lr_policy": "poly",
      "lr_power": 0.9,
      "lr_decay_steps": 2000,
      "lr_decay_factor": 0.1,
      # The first steps, before the policy begins: at slow_start_lr, or rising
      # from it to lr in a straight line.
      "slow_start_steps": 0,
      "slow_start_lr": 1e-4,
      "slow_start_burn_in": False,
      # "sgd", with momentum, or "adamw", whose decay is not of the gradient.
      "optimizer": "sgd",
      # Of the mean gradient, of both optimizers; nesterov looks one step ahead.
      "momentum": 0.9,
      "nesterov": False,
      # Of "adamw": the share kept of the mean square of the gradient, and what
      # is added to its root.
      "adam_beta2": 0.999,
      "adam_epsilon": 1e-8,
      # Of full and pointwise kernels and the logits, and with "adamw", which
      # wants more, such as 0.05, of depthwise kernels, too; the entry of a
      # backbone in `deeplab_jax.models.BACKBONES` has that of its official
      # training.
      "weight_decay": 4e-5,
      # Gradients of all but the backbone are multiplied by this; with "adamw"
      # their learning rates.
      "last_layer_multiplier": 1.0,
      # Each unit of the backbone (`deeplab_jax.models.units`) has the learning
      # rate of the next one times this; the last one, lr times this.
      "layer_decay": 1.0,
      # Gradients whose norm over all weights is larger are scaled down to it;
      # 0 leaves them.
      "clip_norm": 0.0,
      # Weights that are not trained: patterns of their names, or of the first
      # part of these, such as ("backbone",) or ("*/norm", "aspp/pooled"); and
      # the units of the backbone up to this stride, 2 to 32 (0: none). From
      # step thaw_step on (0: never) they are. Their batch statistics move
      # unless train_batch_norm is off.
      "freeze": (),
      "freeze_stride": 0,
      "thaw_step": 0,
      # Share of the old moving average of weights and batch statistics kept at
      # each step, less in the first ones; the average is then what is
      # evaluated and loaded. 0: there is none.
      "ema_decay": 0.0,
      # False keeps the stored batch statistics and normalises with them.
      "train_batch_norm": True,
      # Groups of a batch (of a part, if accumulate_steps) that batch norm
      # normalises each by its own statistics; 1 is all of it, over all
      # devices. As many as devices spares these the exchange.
      "batch_norm_groups": 1,
      # Steps between log lines, checkpoints (0, or auto on the command line: as
      # seldom as saves and failures so far make it best), evaluations (0: at
      # the end only).
      "log_every": 100,
      "checkpoint_every": 1000,
      "eval_every": 0,
      # Also evaluate before the first step.
      "eval_first": False,
      # How many of the newest checkpoints stay; the best is kept beside them.
      "keep_checkpoints": 3,
      "data": data_fields(),
      "model": model_fields(),
      "loss": loss_fields(),
      "eval": eval_fields(),
    }
  )
  return config.lock()


def data_fields() -> dict[str, Any]:
  """What is trained and evaluated on, and how it is altered."""
  return {
    # What `python -m deeplab_jax.prepare --help` lists.
    "name": "voc2012",
    # The data set "folder": images/ and masks/, VOC's layout, or what an
    # annotation tool exports (docs/data.md), in a folder, a zip or a tar, or
    # around a json of annotations.
    "path": "",
    # Of "folder": its format, where it holds several; "" is what its files are.
    # masks, coco, panoptic, yolo, roboflow, labelme, cvat, label_studio,
    # supervisely or parquet.
    "format": "",
    # Of "folder": which annotated object is drawn over another: "area", the
    # smaller; "listed", the later; "road,car", those of the class named later;
    # "" as its format has it.
    "order": "",
    # Of "folder": pictures without annotation are "background", or "skip"
    # leaves them out; "" is background, but refused in images/ and masks/.
    "unannotated": "",
    # Of "folder": leave out examples with faults and list them, instead of
    # stopping.
    "skip_bad": False,
    # Of "folder": number of masks that means that nothing is known, such as
    # -1, 65535 or nan; these pixels are ignored. None is what files declare.
    "nodata": config_dict.placeholder(float),
    # Of "folder": channels of its pictures, 1 to 32, which are then read as
    # they are, in all their bits (uint8, uint16, int16 or float32), and .npy
    # files, too; pages of a TIFF are channels where one page has fewer. 0 reads
    # what a viewer shows: red, green and blue of 8 bits.
    "channels": 0,
    # Of such pictures: the lowest and the highest value, as (0, 10000), or one
    # such pair for each channel, which stand for black and white; () is 0 and
    # 255 of uint8, else the 0.1 and 99.9 percent of the training pictures.
    "value_range": (),
    # Cut rasters (TIFFs) that have more pixels a side into tiles of this side,
    # in training and evaluation; 0 does not. Neighbours share tile_overlap
    # pixels; tiles of which more than the share tile_nodata is ignored are left
    # out. Rasters are not copied, but read where they are.
    "tile": 0,
    "tile_overlap": 0,
    "tile_nodata": 0.5,
    # Where built data sets are: a folder, or an address such as
    # gs://bucket/data to which `prepare` has published them; "" is
    # $TFDS_DATA_DIR, or else ~/tensorflow_datasets.
    "data_dir": "",
    # Where files downloaded by hand are, for data sets that need it.
    "manual_dir": "",
    # The splits, or parts of them as train[:10%]; "" is the data set's own
    # choice.
    "train_split": "",
    "eval_split": "",
    # Height and width of a training crop: k * output_stride + 1, or any where
    # model.pad_input is off. (0, 0) takes what holds the largest image of the
    # training split, up to (513, 513).
    "crop_size": (513, 513),
    # Crops with masks from step late_crop_step on, larger ones for the end of a
    # run, for one; 0 and (0, 0) keep crop_size.
    "late_crop_step": 0,
    "late_crop_size": (0, 0),
    # Size that images are padded to in evaluation, at least, where an official
    # protocol asks for it; (0, 0) pads no more than the strides need. The model
    # stores it and is served so.
    "eval_size": (0, 0),
    # Crops are scaled by one of min_scale, min_scale + scale_step, ...,
    # max_scale, drawn at random; a longer step that divides the interval
    # replaces one that does not, and 0 draws any scale in between.
    "min_scale": 0.5,
    "max_scale": 2.0,
    "scale_step": 0.25,
    # Mirror half of the training crops.
    "flip": True,
    # Strengths, 0 to 1, of random brightness, contrast and saturation.
    "color_jitter": (0.0, 0.0, 0.0),
    # Turn crops by up to so many degrees to either side; turn half of them
    # upside down.
    "rotation": 0.0,
    "vertical_flip": False,
    # Blur with a Gaussian of a deviation up to so many pixels; add noise of a
    # deviation up to this, of 255.
    "blur": 0.0,
    "noise": 0.0,
    # Cut a hole, whose pixels are ignored, of sides up to this share of the
    # crop's.
    "cutout": 0.0,
    # Probabilities of pasting a part of another example's crop: a box; the
    # pixels of half of its classes.
    "cutmix": 0.0,
    "classmix": 0.0,
    # Probability of pasting the pixels of these classes, by index, from a crop
    # of an example that has them.
    "copy_paste": 0.0,
    "copy_paste_classes": (),
    # Resize images to this range of short and long side first (0: do not),
    # sides then being multiples of resize_factor plus 1 (0: any).
    "resize_min": 0,
    "resize_max": 0,
    "resize_factor": 0,
    # Worker processes that read and augment; 0 uses threads of this one.
    "workers": 0,
    # Evaluate only so many images; 0 is all.
    "eval_limit": 0,
  }


def model_fields() -> dict[str, Any]:
  """The arguments of `models.DeepLab` but those that the data decide on.

  With "bfloat16" for `dtype` the gradients of kernels are summed over devices
  in bfloat16; parameters, statistics and loss stay float32. "float64", with
  JAX_ENABLE_X64=1 also of all these, tells rounding from mistakes.
  """
  return {
    field.name: _as_field(field.default, field.type)
    for field in dataclasses.fields(DeepLab)
    if field.name not in ("num_classes", "parent", "name", *IMAGE_ARGUMENTS)
  }


def _as_field(default: Any, kind: Any) -> Any:
  """A default as configs hold it: None with its type, a dtype by its name."""
  if default is None:
    kind = typing.get_args(kind)[0]  # of a union such as `float | None`
    return config_dict.placeholder(typing.get_origin(kind) or kind)
  return default if kind is not jnp.dtype else jnp.dtype(default).name


def loss_fields() -> dict[str, Any]:
  """Which loss, and its settings."""
  return {
    # A name of `deeplab_jax.losses.LOSSES`, of the task "multilabel" one of
    # `MULTILABEL_LOSSES`, or several to be added, as "cross_entropy+dice"; the
    # loss is logged by this name, and each of several by its own.
    "name": "cross_entropy",
    # Of several losses, one factor each; () adds them as they are.
    "weights": (),
    # One factor per class, of the losses of pixels; () weighs all classes
    # alike.
    "class_weights": (),
    # Of the task "multilabel" and the losses of its pixels: one factor per
    # class where that class is; () is 1.
    "positive_weights": (),
    # Keep only this fraction of the pixels, the hardest, reached over
    # hard_pixel_steps steps.
    "hard_pixel_fraction": 1.0,
    "hard_pixel_steps": 0,
    # Share of the target that goes to all classes alike.
    "label_smoothing": 0.0,
    # Weight of the same loss of the second head, model.auxiliary.
    "auxiliary_weight": 0.4,
    # Of "focal": power of how wrong a pixel is, which its loss is multiplied
    # by.
    "focal_power": 2.0,
    # Of "boundary_cross_entropy": pixels so near to another label weigh
    # boundary_weight times as much.
    "boundary_width": 3,
    "boundary_weight": 3.0,
    # Of "dice" and "tversky": pixels added to overlap and area.
    "smooth": 0.0,
    # Of "tversky": weights of what is predicted and not there, and of what is
    # there and not predicted.
    "false_positives": 0.3,
    "false_negatives": 0.7,
  }


def eval_fields() -> dict[str, Any]:
  """How images are evaluated."""
  return {
    # 0 is the model's own; a checkpoint fits any of 8, 16, 32.
    "output_stride": 0,
    # "float32" or "bfloat16", which the network computes in; "" is its own.
    "dtype": "",
    # Images that are evaluated together.
    "batch_size": 1,
    # Scales whose probabilities are averaged, each also flipped or not.
    "scales": (1.0,),
    "flip": False,
    # Of the task "multilabel": the probability from which on a class is there;
    # 0 takes those of the stored model, and while training chooses one per
    # class, of the best IoU on the held-out split, to be stored.
    "threshold": 0.0,
    # Crops of more pixels are cut into windows of `tile` pixels a side; 0 is
    # what prediction takes, 2049 x 2049 and 1025.
    "max_pixels": 0,
    "tile": 0,
    # Images drawn into WORKDIR/pictures at each evaluation.
    "pictures": 8,
  }


def make_model(
  config: ConfigDict, num_classes: int, **images: Any
) -> DeepLab | Classifier:
  """The network of `config`.

  Args:
    config: `model` and `task` are read.
    num_classes: of the data.
    **images: what `image_arguments` gives of the data; RGB of 8 bits without.
  """
  arguments = config.model.to_dict() | images
  dtype = jnp.dtype(arguments.pop("dtype"))
  model = DeepLab(num_classes, dtype=dtype, **arguments)
  if config.task != "classification":
    return model
  names = model_arguments(Classifier())
  return Classifier(**{name: getattr(model, name) for name in names})


def image_arguments(info: DatasetInfo) -> dict[str, Any]:
  """The arguments of `DeepLab` that follow the images of a data set."""
  return {name: getattr(info, name) for name in IMAGE_ARGUMENTS}


def field_names(config: ConfigDict) -> list[str]:
  """Every field by its dotted name, such as "data.crop_size"."""
  names = []
  for name, value in config.items():
    names.append(name)
    if isinstance(value, ConfigDict):
      names += [f"{name}.{inner}" for inner in field_names(value)]
  return names
