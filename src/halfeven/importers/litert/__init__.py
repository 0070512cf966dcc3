"""From .tflite files, of TensorFlow Lite and LiteRT, to ONNX graphs."""
