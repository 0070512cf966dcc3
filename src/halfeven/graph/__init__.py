"""The structure of a model: loading, naming, constants, simplification, opsets and saving, on onnx-ir."""
