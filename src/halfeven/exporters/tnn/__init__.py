"""TNN: networks as .tnnproto and .tnnmodel."""
