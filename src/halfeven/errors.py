"""What can go wrong, in five kinds.

A message is one sentence or two: where (file, node, value), what was found, what was expected, what to do.
The command line prints it without a traceback and exits with the kind's `exit_code`; `--debug` shows the traceback.
"""


class QuantError(Exception):
    """Any fault that Halfeven found and can explain; the parent of the kinds below."""

    exit_code = 1


class BadOption(QuantError):
    """An option, a configuration file or a combination of them is wrong."""

    exit_code = 2


class UnsupportedModel(QuantError):
    """The model file is damaged, unsafe, not ONNX, or holds what no route can handle."""

    exit_code = 3


class BadCalibration(QuantError):
    """The data, or statistics made from them, cannot be used: wrong shape or dtype, NaN, empty, another model's."""

    exit_code = 4


class UnsupportedByTarget(QuantError):
    """The plan asks for what the target cannot run, or nothing in the model can be quantized for it."""

    exit_code = 5
