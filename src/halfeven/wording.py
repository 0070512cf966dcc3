"""What `halfeven --help` says."""

EPILOG = """examples:
  halfeven quantize mobilenet_v2.onnx --data photos/ --preprocess imagenet
  halfeven quantize model.onnx --data calib.npz --keep-float 'head/*' -o q.onnx
  halfeven quantize model.onnx       no data: synthetic samples, and it says so
  halfeven inspect model.onnx        what will be quantized, what not, and why
  halfeven verify model.onnx model.int8.onnx --data holdout/
  halfeven calibrate model.onnx --data photos/ -o stats.json
  halfeven quantize model.onnx --stats stats.json

exit status:
  0  done                            3  the model is damaged or unsupported
  1  a defect of Halfeven            4  the data cannot be used
  2  wrong options, or the output    5  the target can run nothing of it in
     cannot be written                  integers: no file is written
                                   130  interrupted
"""
SUMMARIES = {
    "quantize": "quantize a float model",
    "calibrate": "collect statistics for later runs, or merge them",
    "inspect": "show what would be quantized, what stays float, and why",
    "verify": "compare a float and a quantized model on data",
    "demo": "quantize the network and data shipped with Halfeven",
    "completions": "print a completion script for a shell",
}
