"""The trial of oneDNN's calls with the fault of `$FAULT` in them."""

import os
import signal
import sys
import time

from flax import linen as nn

from deeplab_jax.inference import onednn, onednn_trial


def main() -> None:
  """Runs the trial."""
  match os.environ["FAULT"]:
    case "another activation":
      onednn.ACTIVATIONS[nn.relu] = ["RELU6"]
    case "another kernel":
      onednn._KERNEL["output_feature_dim"] = 2
      onednn._KERNEL["input_feature_dim"] = 3
    case "dies":
      os.kill(os.getpid(), signal.SIGSEGV)
    case "hangs":
      time.sleep(60)
    case "raises":
      raise RuntimeError("no such call")
    case "gemm":
      print("onednn_verbose,v1,primitive,exec,cpu,convolution,gemm:jit,forward")
  print(onednn_trial.run(*sys.argv[1:]), flush=True)


if __name__ == "__main__":
  main()
