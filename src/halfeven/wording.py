"""What `halfeven --help` says, and how a count is said."""

EPILOG = """examples:
  halfeven quantize mobilenet_v2.onnx --data photos/ --preprocess imagenet
  halfeven quantize model.onnx --data calib.npz --keep-float 'head/*' -o q.onnx
  halfeven quantize model.onnx       no data: synthetic samples, and it says so
  halfeven inspect model.onnx        what will be quantized, what not, and why
  halfeven verify model.onnx model.int8.onnx --data holdout/
  halfeven calibrate model.onnx --data photos/ -o stats.json
  halfeven quantize model.onnx --stats stats.json
  halfeven export model.int8.onnx -o model.tflite
  halfeven diff a.int8.onnx b.int8.onnx
  halfeven search model.onnx --data photos/ --budget 4
  halfeven number 123.45             in float32, float16, float8, fixed point

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
    "plot": "draw what activations, weights and their mapping look like",
    "verify": "compare a float and a quantized model on data",
    "export": "write a quantized model for another runtime",
    "diff": "say in which scales, types and nodes two quantizations differ",
    "conform": "run a quantized model in runtimes, each beside its simulator",
    "simulate": "compute the integers of a machine that is not at hand",
    "search": "choose how many bits each weight has, within a budget",
    "train": "train a model quantized, and judge what it became",
    "demo": "quantize the network and data shipped with Halfeven",
    "number": "show a number in float, fixed-point and integer formats",
    "completions": "print a completion script for a shell",
}
EXAMPLES = {
    "quantize": (
        "halfeven quantize model.onnx --data photos/ --preprocess imagenet",
        "halfeven quantize model.onnx --data photos/ -o model.tflite",
    ),
    "calibrate": (
        "halfeven calibrate model.onnx --data photos/ -o stats.json",
        "halfeven calibrate model.onnx --data more/ --stats stats.json -o more.json",
        "halfeven calibrate stats.json --merge more.json -o all.json",
    ),
    "inspect": ("halfeven inspect model.onnx --target openvino",),
    "plot": (
        "halfeven plot model.onnx --data photos/ --preprocess imagenet -o plots",
        "halfeven plot model.onnx --data calib.npz --tensor conv1.weight --picture svg",
    ),
    "verify": (
        "halfeven verify model.onnx model.int8.onnx --data holdout/",
        "halfeven verify model.onnx model.tflite --data holdout/",
    ),
    "export": (
        "halfeven export model.int8.onnx -o model.tflite",
        "halfeven export model.onnx --plan plan.json -o model.onnx --format qoperator",
    ),
    "diff": (
        "halfeven diff ours.onnx theirs.onnx",
        "halfeven diff a.json b.onnx --model model.onnx --data photos/ --limit 4",
    ),
    "conform": (
        "halfeven conform model.int8.onnx --data photos/",
        "halfeven conform model.int8.onnx --runtimes onnxruntime,litert,openvino",
    ),
    "simulate": ("halfeven simulate model.int8.onnx --profile onnxruntime@x86-avx2",),
    "search": (
        "halfeven search model.onnx --data photos/ --preprocess imagenet",
        "halfeven search model.onnx --data x.npz --bits 2,4,8 --budget 4 -o mixed.json",
    ),
    "train": (
        "halfeven train model.onnx --data photos/ --preprocess imagenet",
        "halfeven train model.onnx --data train.npz --labels classes.txt --epochs 9",
    ),
    "demo": ("halfeven demo -o demo-out",),
    "number": (
        "halfeven number 123.45",
        "halfeven number 123.45 --q 8.8",
        "halfeven number 0x42F6E666 --hex",
        "halfeven number 0.3 --scale 0.0078125 --zero-point 3",
    ),
    "completions": (
        'eval "$(halfeven completions bash)"    in .bashrc; zsh likewise in .zshrc',
        "halfeven completions fish | source    in config.fish",
    ),
}
USAGES = {
    "quantize": "quantize MODEL [--data DATA] [-o FILE]",
    "calibrate": "calibrate MODEL --data DATA -o FILE",
    "inspect": "inspect MODEL [--data DATA]",
    "plot": "plot MODEL --data DATA [-o FOLDER]",
    "verify": "verify MODEL QUANTIZED --data DATA",
    "export": "export MODEL -o FILE [--format FORMAT]",
    "diff": "diff A B [--model MODEL --data DATA]",
    "conform": "conform MODEL [--data DATA] [--runtimes NAMES]",
    "simulate": "simulate MODEL --profile NAME [--data DATA]",
    "search": "search MODEL --data DATA [--budget BITS] [-o FILE]",
    "train": "train MODEL --data DATA [-o FILE]",
    "demo": "demo [-o FOLDER]",
    "number": "number NUMBER [--q M.N] [--hex] [--scale S]",
    "completions": "completions bash|zsh|fish",
}


def share(part: int, whole: int) -> str:
    """A part in hundredths of the whole, with two decimals; what they would show as none is said to be little."""
    found = f"{100 * part / max(whole, 1):.2f} %"
    return "below 0.01 %" if part and found == "0.00 %" else found


def counted(count: int, noun: str) -> str:
    """`1 node`, `2 nodes`: a count and the noun that it counts, whose plural takes an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
