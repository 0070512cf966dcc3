"""OpenVINO: networks as IR, .xml and .bin."""
