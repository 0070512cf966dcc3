"""ncnn: networks as .param and .bin."""
