"""TensorFlow Lite files, written without TensorFlow."""
